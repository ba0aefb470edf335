"""`RowSparse`: what the optimizers of this package have in common."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.rows.access import new_scratch_variable, read_rows, read_scratch_variable, write_rows
from keras_rafm.rows.idle_decay import IdleDecay, log_of_decay, settle
from keras_rafm.rows.replicas import rows_below, with_row_of_zeros
from keras_rafm.rows.sparse_gradients import merged, reading_of, without_zeros
from keras_rafm.rows.table_reading import TableReading


class RowSparse(keras.optimizers.Optimizer):
    """Base class of optimizers that update only the rows of a table that are in the batch, and decay the idle rows.

    A subclass derives from `RowSparse` first and then from a Keras optimizer, which creates the state. It implements
    `_apply`, the update of variables of one shape.
    """

    loss_scale_factor: float | None
    #: Attributes of the Keras optimizer with its state: each is a list of variables in the order and shapes of the weights.
    state_names: tuple[str, ...] = ()
    #: Whether a row whose gradient is zero must never be updated, not even in a table that is read whole.
    skips_zero_gradients = False
    #: Whether an update with a gradient of zero changes neither weights nor state, apart from decay.
    zero_gradients_change_nothing = False

    def __init__(self, *args: Any, idle_decay: float = 0.0, **kwargs: Any) -> None:
        name = type(self).__name__
        for option, reason in (
            ("weight_decay", "use `idle_decay`, which decays all rows of a table, in the batch or not"),
            ("use_ema", "averaging all weights would read whole tables in every step"),
            ("gradient_accumulation_steps", "accumulated gradients would be as large as the tables"),
        ):
            if kwargs.get(option):
                raise ValueError(f"{name} has no `{option}`: {reason}. Received: {option}={kwargs[option]!r}")
        is_number = isinstance(idle_decay, (int, float, np.floating)) and not isinstance(idle_decay, bool)
        if not is_number or not 0 <= idle_decay < math.inf:
            raise ValueError(f"`idle_decay` must be a finite number of at least 0. Received: idle_decay={idle_decay!r}")
        super().__init__(*args, **kwargs)
        learning_rate = kwargs.get("learning_rate", args[0] if args else None)
        if isinstance(learning_rate, float) and learning_rate * idle_decay >= 1:
            raise ValueError(
                "`idle_decay` times `learning_rate` must be less than 1. "
                f"Received: idle_decay={idle_decay}, learning_rate={learning_rate}"
            )
        self.idle_decay = float(idle_decay)
        self._step_cache = _StepCache()

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for these variables."""
        if self.built:
            return
        super().build(variables)
        self._decays: tuple[IdleDecay | None, ...] = tuple(
            self._new_decay(variable)
            if self._decays_rows_of(variable) and reading_of(variable) is not TableReading.ALWAYS_WHOLE
            else None
            for variable in variables
        )

    def add_variable_from_reference(
        self, reference_variable: Any, name: str | None = None, initializer: Any = "zeros"
    ) -> keras.Variable:
        """Create a state variable as Keras does, but with one array where `keras.initializers.Constant` makes two."""
        if isinstance(initializer, keras.initializers.Constant):
            initializer = functools.partial(_filled, initializer.value)
        return super().add_variable_from_reference(reference_variable, name, initializer)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        config = super().get_config()
        for option in ("weight_decay", "use_ema", "ema_momentum", "ema_overwrite_frequency", "gradient_accumulation_steps"):
            del config[option]
        return {**config, "idle_decay": self.idle_decay}

    def flush(self) -> None:
        """Apply pending decay to every row of every table.

        `RaFMModel` calls it when needed, the methods of `RaFMLayer` settle their tables themselves, and `fit` of any model
        calls it at its end. In a model other than `RaFMModel`, call it (or put `FlushIdleDecay` before other callbacks)
        before weights are read or set during training, as by `model.get_weights` or
        `EarlyStopping(restore_best_weights=True)`.
        """
        if self.built:
            self.attach()
            settle(self._trainable_variables)

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        """Apply pending decay to every row. Called by `fit` at its end."""
        super().finalize_variable_values(var_list)
        self.flush()

    def attach(self) -> None:
        """Make this the optimizer that decays the tables, after another optimizer did.

        `RaFMModel.compile` calls it. With any other model, call it yourself when you compile with a previous optimizer
        again.
        """
        for variable, decay in zip(self._trainable_variables, self._decays if self.built else (), strict=False):
            if decay is not None:
                decay.attach(variable)

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """Update the variables as Keras does, with support for `loss_scale_factor` on sparse gradients."""
        scale = self.loss_scale_factor
        if scale is None:
            super().apply(grads, trainable_variables)
            return
        unscaled = [None if gradient is None else _divided(gradient, scale) for gradient in grads]
        self.loss_scale_factor = None
        try:
            super().apply(unscaled, trainable_variables)
        finally:
            self.loss_scale_factor = scale

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable.

        Args:
            gradient: A dense gradient, or `tf.IndexedSlices`. Of these only the rows are updated, apart from the decay of
                small tables that a `RaFMLayer` reads whole.
            variable: The variable.
            learning_rate: A scalar.
        """
        index = self._get_variable_index(variable)
        table = self._trainable_variables[index]
        reading = reading_of(table)
        decay = None if reading.is_whole else self._decays[index]
        gradient = self._without_idle_rows(gradient, reading)
        learning_rate_as_weights = tf.cast(learning_rate, variable.dtype)
        if reading.is_whole and self._decays_rows_of(table):
            variable.assign(variable * tf.cast(tf.exp(self._log_of_decay(learning_rate)), variable.dtype))
        tables = (variable, *(getattr(self, name)[index].value for name in self.state_names))
        if not isinstance(gradient, tf.IndexedSlices):
            self._update_all(tf.cast(gradient, variable.dtype), tables, learning_rate_as_weights)
            return
        factors = None
        if decay is not None:
            _refuse_constraint(table)
            factors = decay.advance(gradient.indices, self._log_of_decay(learning_rate), variable.dtype)
            factors = tf.reshape(factors, [-1] + [1] * (variable.shape.rank - 1))
        values = tf.cast(gradient.values, variable.dtype)
        self._update_rows(gradient.indices, values, tables, learning_rate_as_weights, factors)

    def _without_idle_rows(self, gradient: Any, reading: TableReading) -> Any:
        """Return the gradient of the rows to update: `tf.IndexedSlices` without repetition, or dense for all rows."""
        if isinstance(gradient, tf.IndexedSlices):
            gradient = merged(gradient)
            holds_idle_rows = reading is TableReading.BY_ROWS_WITH_HEAD and not self.zero_gradients_change_nothing
            return without_zeros(gradient) if self.skips_zero_gradients or holds_idle_rows else gradient
        if reading.is_by_rows or (reading.is_whole and self.skips_zero_gradients):
            return without_zeros(gradient)
        return gradient

    def _update_all(self, gradient: tf.Tensor, tables: Sequence[tf.Variable], learning_rate: tf.Tensor) -> None:
        """Update all rows of a variable and of its state."""
        self._apply([table.handle for table in tables], gradient, learning_rate)

    def _update_rows(
        self,
        rows: tf.Tensor,
        gradient: tf.Tensor,
        tables: Sequence[tf.Variable],
        learning_rate: tf.Tensor,
        decay: tf.Tensor | None,
    ) -> None:
        """Update some rows of a table and of its state: copy them out, update the copies as a whole, write them back.

        Args:
            rows: Row numbers without repetition: int `[r]`.
            gradient: The gradient of these rows: `[r, …]`.
            tables: The table, followed by its state.
            learning_rate: A scalar in the dtype of the table.
            decay: The factors that the rows are multiplied by first: `[r, 1, …]`, or `None` for no decay.
        """
        row_values = [read_rows(table, rows) for table in tables]
        if decay is not None:
            row_values[0] *= decay
        handles = [new_scratch_variable(values, tables[0].device) for values in row_values]
        self._apply(handles, gradient, learning_rate)
        for table, handle in zip(tables, handles, strict=True):
            write_rows(table, rows, read_scratch_variable(handle, gradient))

    def _apply(self, handles: Sequence[tf.Tensor], gradient: tf.Tensor, learning_rate: tf.Tensor) -> None:
        """Update weights and their state in one pass. All of them have the same shape.

        Args:
            handles: The handle of the weights, followed by the handles of their state in the order of `state_names`.
            gradient: The gradient, in the dtype of the weights.
            learning_rate: A scalar in the dtype of the weights.
        """
        raise NotImplementedError

    def _backend_update_step(self, gradients: list[Any], variables: list[Any], learning_rate: Any) -> None:
        self._step_cache.clear()
        super()._backend_update_step(gradients, variables, tf.convert_to_tensor(learning_rate))
        self._step_cache.clear()

    def _all_reduce_sum_gradients(self, gradients_and_variables: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return super()._all_reduce_sum_gradients(gradients_and_variables)
        # The appended row comes after the last row of the table. So no gradient is empty, and no idle row is updated.
        extended = [
            (
                with_row_of_zeros(gradient, variable.shape[0]) if isinstance(gradient, tf.IndexedSlices) else gradient,
                variable,
            )
            for gradient, variable in gradients_and_variables
        ]
        return [
            (rows_below(gradient, variable.shape[0]) if isinstance(gradient, tf.IndexedSlices) else gradient, variable)
            for gradient, variable in super()._all_reduce_sum_gradients(extended)
        ]

    def _clip_gradients(self, gradients: list[Any]) -> list[Any]:
        if self.clipnorm or self.global_clipnorm or self.clipvalue:
            gradients = [merged(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        return super()._clip_gradients(gradients)

    def _decays_rows_of(self, table: keras.Variable) -> bool:
        return self.idle_decay > 0 and len(table.shape) >= 2 and self._use_weight_decay(table)

    def _new_decay(self, table: keras.Variable) -> IdleDecay:
        # The sum stays 0 until the first sparse gradient: the kernel of a Dense layer, which never has one, never decays.
        running_sum = self.add_variable((), dtype="float64", name=f"{table.name}_decay_sum")
        marks = self.add_variable((table.shape[0],), dtype="float64", name=f"{table.name}_decay_marks")
        settled_at = self.add_variable((), dtype="float64", name=f"{table.name}_decay_settled_at")
        return IdleDecay(table, running_sum, marks, settled_at)

    def _log_of_decay(self, learning_rate: tf.Tensor) -> tf.Tensor:
        return self._once_per_step(
            "log_of_decay", lambda: log_of_decay(tf.cast(learning_rate, tf.float64) * self.idle_decay)
        )

    def _once_per_step(self, key: Any, compute: Callable[[], Any]) -> Any:
        """Return `compute()`, called once for all variables of a step.

        The time of a step on a small batch is determined by the number of its operations.
        """
        return self._step_cache.get(key, compute)


def row_sparse_optimizer(optimizer: Any) -> RowSparse | None:
    """Return the optimizer, or the one inside a `LossScaleOptimizer`, if it is an optimizer of this package."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner if isinstance(inner, RowSparse) else None


class _StepCache:
    """Results of one step that several variables share.

    This is a class because Keras would track a dictionary that is an attribute of an optimizer.
    """

    def __init__(self) -> None:
        self._results: dict[Any, Any] = {}

    def get(self, key: Any, compute: Callable[[], Any]) -> Any:
        if key not in self._results:
            self._results[key] = compute()
        return self._results[key]

    def clear(self) -> None:
        self._results = {}


def _refuse_constraint(table: keras.Variable) -> None:
    if table.constraint is not None:
        raise ValueError(
            f"`idle_decay` can't decay {table.path}, which has a constraint: idle rows would decay later, without the "
            "constraint. Use idle_decay=0 or `exclude_from_weight_decay`."
        )


def _filled(value: float, shape: Any, dtype: Any = None) -> tf.Tensor:
    return tf.fill(shape, keras.ops.cast(value, dtype))


def _divided(gradient: Any, divisor: float) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / divisor, gradient.indices, gradient.dense_shape)
    return gradient / divisor
