"""`SparseFtrl`: FTRL-Proximal for the rows in the batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_rafm.optimizers.row_sparse import RowSparse


@keras.saving.register_keras_serializable(package="keras_rafm")
class SparseFtrl(RowSparse, keras.optimizers.Ftrl):
    """FTRL-Proximal (McMahan et al., KDD 2013), a common choice for click models, for the rows in the batch.

    The cost of a step depends on the rows in the batch, not on the size of the table. A row is updated as by
    `keras.optimizers.Ftrl` in the steps that give it a gradient other than zero. In all other steps it stays as it is,
    whereas `keras.optimizers.Ftrl` sets a row that never had a gradient to zero.

    L1 makes weights exactly zero. L1 and L2 act on a row when it is updated. There is no `idle_decay`, because FTRL
    recomputes a weight from all of its past gradients in every update.

    Args:
        learning_rate: See `LazyAdam`.
        learning_rate_power: The power of the sums of squared gradients in the learning rate of a weight; 0 or less.
        initial_accumulator_value: The initial value of these sums; 0 or more.
        l1_regularization_strength: The strength of L1; 0 or more.
        l2_regularization_strength: The strength of L2; 0 or more.
        l2_shrinkage_regularization_strength: The strength of an L2 penalty that is added to the gradient alone; 0 or more.
        beta: The `β` of the paper.
        name: The name of the optimizer.
        **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm` and `loss_scale_factor` of Keras. Gradients of repeated rows
            are summed before they are clipped.

    Raises:
        ValueError: An argument is out of range, or `idle_decay`, `weight_decay`, `use_ema` or
            `gradient_accumulation_steps` is used.
    """

    state_names = ("_accumulators", "_linears")
    skips_zero_gradients = True

    def __init__(
        self,
        learning_rate: Any = 0.05,
        learning_rate_power: float = -0.5,
        initial_accumulator_value: float = 0.1,
        l1_regularization_strength: float = 0.0,
        l2_regularization_strength: float = 0.0,
        l2_shrinkage_regularization_strength: float = 0.0,
        beta: float = 0.0,
        name: str = "sparse_ftrl",
        **kwargs: Any,
    ) -> None:
        if kwargs.get("idle_decay"):
            raise ValueError(
                "SparseFtrl has no `idle_decay`: use `l2_regularization_strength`. "
                f"Received: idle_decay={kwargs['idle_decay']!r}"
            )
        super().__init__(
            learning_rate=learning_rate,
            learning_rate_power=learning_rate_power,
            initial_accumulator_value=initial_accumulator_value,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            l2_shrinkage_regularization_strength=l2_shrinkage_regularization_strength,
            beta=beta,
            name=name,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        config = super().get_config()
        del config["idle_decay"]
        return config

    def _update_all(self, gradient: tf.Tensor, tables: Sequence[tf.Variable], learning_rate: tf.Tensor) -> None:
        keras.optimizers.Ftrl.update_step(self, gradient, tables[0], learning_rate)

    def _apply(self, handles: Sequence[tf.Tensor], gradient: tf.Tensor, learning_rate: tf.Tensor) -> None:
        weights, accumulator, linear = handles
        dtype = gradient.dtype
        tf.raw_ops.ResourceApplyFtrlV2(
            var=weights,
            accum=accumulator,
            linear=linear,
            grad=gradient,
            lr=learning_rate,
            l1=tf.constant(self.l1_regularization_strength, dtype),
            l2=self.l2_regularization_strength + self.beta / (2 * learning_rate),
            l2_shrinkage=tf.constant(self.l2_shrinkage_regularization_strength, dtype),
            lr_power=tf.constant(self.learning_rate_power, dtype),
        )
        # The kernel sets a weight to 0 if its gradients are NaN or infinite, which would hide them. So NaN is added there.
        is_finite = tf.math.is_finite(tf.raw_ops.ReadVariableOp(resource=linear, dtype=dtype))
        correction = tf.where(is_finite, tf.constant(0, dtype), tf.constant(math.nan, dtype))
        tf.raw_ops.AssignAddVariableOp(resource=weights, value=correction)
