"""`SparseAdagrad`: Adagrad for the rows in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_rafm.optimizers.row_sparse import RowSparse
from keras_rafm.rows.access import read_rows, write_rows
from keras_rafm.rows.tensorflow_versions import HAS_SLOW_ROWS


@keras.saving.register_keras_serializable(package="keras_rafm")
class SparseAdagrad(RowSparse, keras.optimizers.Adagrad):
    """Adagrad (Duchi et al., JMLR 2011) that updates only the rows of a table that are in the batch.

    The result equals that of `keras.optimizers.Adagrad` on dense gradients, because Adagrad does not change a row whose
    gradient is zero. The cost of a step depends on the rows in the batch, not on the size of the table. (Small tables that
    a `RaFMLayer` reads whole are updated as a whole, with the same result.) Adagrad needs half as much state as Adam.

    Args:
        learning_rate: See `LazyAdam`.
        initial_accumulator_value: The initial value of the sums of squared gradients.
        epsilon: A number added to these sums before the root is taken.
        idle_decay: Decoupled weight decay for all rows, 0 by default. See `LazyAdam`.
        name: The name of the optimizer.
        **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm` and `loss_scale_factor` of Keras. Gradients of repeated rows
            are summed before they are clipped.

    Raises:
        ValueError: An argument is out of range, or `weight_decay`, `use_ema` or `gradient_accumulation_steps` is used,
            which would read or write whole tables in every step.
    """

    state_names = ("_accumulators",)
    zero_gradients_change_nothing = True

    def __init__(
        self,
        learning_rate: Any = 0.05,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        idle_decay: float = 0.0,
        name: str = "sparse_adagrad",
        **kwargs: Any,
    ) -> None:
        # With a sum of 0, a row whose gradient is zero would be updated by 0 / 0.
        if not initial_accumulator_value + epsilon > 0:
            raise ValueError(
                "`initial_accumulator_value` plus `epsilon` must be greater than 0. "
                f"Received: initial_accumulator_value={initial_accumulator_value}, epsilon={epsilon}"
            )
        super().__init__(
            learning_rate=learning_rate,
            # Keras adds epsilon to the sum, TensorFlow's kernel adds it to the root. So the sum starts with epsilon in it.
            initial_accumulator_value=initial_accumulator_value + epsilon,
            epsilon=0.0,
            idle_decay=idle_decay,
            name=name,
            **kwargs,
        )
        self._options = {"initial_accumulator_value": initial_accumulator_value, "epsilon": epsilon}

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), **self._options}

    def _apply(self, handles: Sequence[tf.Tensor], gradient: tf.Tensor, learning_rate: tf.Tensor) -> None:
        tf.raw_ops.ResourceApplyAdagradV2(grad=gradient, **self._arguments(handles, learning_rate))

    def _update_rows(
        self,
        rows: tf.Tensor,
        gradient: tf.Tensor,
        tables: Sequence[tf.Variable],
        learning_rate: tf.Tensor,
        decay: tf.Tensor | None,
    ) -> None:
        if HAS_SLOW_ROWS:
            super()._update_rows(rows, gradient, tables, learning_rate, decay)
            return
        if decay is not None:
            write_rows(tables[0], rows, read_rows(tables[0], rows) * decay)
        arguments = self._arguments([table.handle for table in tables], learning_rate)
        tf.raw_ops.ResourceSparseApplyAdagradV2(grad=gradient, indices=rows, **arguments)

    def _arguments(self, handles: Sequence[tf.Tensor], learning_rate: tf.Tensor) -> dict[str, Any]:
        """Return the arguments that both kernels take."""
        weights, accumulator = handles
        return {
            "var": weights,
            "accum": accumulator,
            "lr": learning_rate,
            "epsilon": tf.constant(0, learning_rate.dtype),
        }
