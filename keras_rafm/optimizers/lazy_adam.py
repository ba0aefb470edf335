"""`LazyAdam`: Adam for the rows in the batch, with decay for all rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_rafm.optimizers.row_sparse import RowSparse


@keras.saving.register_keras_serializable(package="keras_rafm")
class LazyAdam(RowSparse, keras.optimizers.Adam):
    """Adam (Kingma and Ba, ICLR 2015) that updates only the rows of a table that are in the batch.

    The cost of a step depends on the rows in the batch, not on the size of the table. The moments of a row are updated in
    the steps that read the row. Their bias correction uses the number of the step, as is usual for lazy Adam. Variables
    with dense gradients, such as kernels and biases, are updated as by `keras.optimizers.Adam`.

    `idle_decay` is decoupled weight decay for all rows. Without it lazy Adam overfits rare rows, because nothing pulls
    them back. Every step multiplies every row by `1 − learning_rate · idle_decay`; on an idle row, which is not in the
    batch, this is done when the row is next read (see `keras_rafm.rows.idle_decay`). It applies to tables: the factor
    tables of a `RaFMLayer`, and any variable of two or more axes from its first sparse gradient on. The linear weights of
    a `RaFMLayer` have one axis, so they do not decay. Exclude variables with `exclude_from_weight_decay`.

    A `RaFMLayer` applies pending decay to the rows that it reads. Other layers read rows without it: there it is applied
    when a row is updated, and to all rows by `flush`.

    Some tables of a `RaFMLayer` get dense gradients. Small tables, which the layer reads whole in training (see its
    `max_dense_rows`), are updated as a whole and decay in every step. Large tables get dense gradients from `factors_l2`
    over whole tables, and in a plain `keras.Model` on several replicas: there a row with a gradient of zero counts as idle.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule` or a callable.
        idle_decay: The decay per unit of learning rate; 0 for no decay.
        beta_1: The decay rate of the first moments.
        beta_2: The decay rate of the second moments.
        epsilon: A number added to the root of the second moments.
        name: The name of the optimizer.
        **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm` and `loss_scale_factor` of Keras. Gradients of repeated rows
            are summed before they are clipped.

    Raises:
        ValueError: An argument is out of range, or `weight_decay`, `use_ema`, `gradient_accumulation_steps` or `amsgrad`
            is used. The first three would read or write whole tables in every step.

    Example:

    ```python
    model.compile(keras_rafm.optimizers.LazyAdam(4e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    ```
    """

    state_names = ("_momentums", "_velocities")

    def __init__(
        self,
        learning_rate: Any = 0.001,
        idle_decay: float = 0.3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        name: str = "lazy_adam",
        **kwargs: Any,
    ) -> None:
        if kwargs.pop("amsgrad", False):
            raise ValueError("LazyAdam has no `amsgrad`. Received: amsgrad=True")
        super().__init__(
            learning_rate=learning_rate,
            idle_decay=idle_decay,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            name=name,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        config = super().get_config()
        del config["amsgrad"]
        return config

    def _apply(self, handles: Sequence[tf.Tensor], gradient: tf.Tensor, learning_rate: tf.Tensor) -> None:
        weights, momentum, velocity = handles
        dtype = gradient.dtype
        tf.raw_ops.ResourceApplyAdam(
            var=weights,
            m=momentum,
            v=velocity,
            beta1_power=self._power(self.beta_1, dtype),
            beta2_power=self._power(self.beta_2, dtype),
            lr=learning_rate,
            beta1=tf.constant(self.beta_1, dtype),
            beta2=tf.constant(self.beta_2, dtype),
            epsilon=tf.constant(self.epsilon, dtype),
            grad=gradient,
        )

    def _power(self, beta: float, dtype: tf.DType) -> tf.Tensor:
        """Return `β^t`, where `t` is the number of the current step, counted from 1."""
        return self._once_per_step((beta, dtype), lambda: tf.pow(tf.constant(beta, dtype), self._step(dtype)))

    def _step(self, dtype: tf.DType) -> tf.Tensor:
        return self._once_per_step(dtype, lambda: tf.cast(self.iterations + 1, dtype))
