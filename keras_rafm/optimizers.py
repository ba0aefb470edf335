"""Optimizers whose step costs what the batch reads, whatever the size of the tables.

Keras' own optimizers pass over whole tables in every step, and are wrong where a batch reads a row more than once
(keras issue #19992). These are ordinary Keras optimizers that work for any model with `Embedding` layers or a
`RaFMLayer`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_rafm.rows.access import in_scratch_variable, of_scratch_variable, read_rows, write_rows
from keras_rafm.rows.idle_decay import IdleDecay, log_of_decay, settle
from keras_rafm.rows.replicas import rows_below, with_row
from keras_rafm.rows.sparse_gradients import (
    is_always_read_whole,
    is_read_by_rows,
    is_read_whole,
    is_read_with_others,
    merged,
    without_zeros,
)
from keras_rafm.rows.tensorflow_versions import HAS_SLOW_ROWS


class RowSparse(keras.optimizers.Optimizer):
    """What the optimizers here have in common: rows of tables are updated alone, and decay while nobody reads them.

    Mixed in before a Keras optimizer, which brings the state.
    """

    loss_scale_factor: float | None
    #: Attributes of the Keras optimizer: lists of its variables that have the shapes of the weights, in their order.
    state_names: tuple[str, ...] = ()
    #: Whether rows of tables whose gradient is zero are left alone in any case, also where a table is read whole.
    leaves_zeros_alone = False
    #: Whether the update of a row whose gradient is zero leaves it as it is, decay aside.
    zeros_do_nothing = False

    def __init__(self, *args: Any, idle_decay: float = 0.0, **kwargs: Any) -> None:
        name = type(self).__name__
        for option, alternative in (
            ("weight_decay", "`idle_decay` decays the tables, rows out of the batch included"),
            ("use_ema", "an average of all weights would touch whole tables in every step"),
            ("gradient_accumulation_steps", "accumulated gradients are as large as the tables"),
        ):
            if kwargs.get(option):
                raise ValueError(f"{name} has no `{option}`: {alternative}. Received: {option}={kwargs[option]!r}")
        is_number = isinstance(idle_decay, (int, float, np.floating)) and not isinstance(idle_decay, bool)
        if not is_number or not 0 <= idle_decay < math.inf:
            raise ValueError(f"`idle_decay` must be a number of 0 or more. Received: idle_decay={idle_decay!r}")
        super().__init__(*args, **kwargs)
        rate = kwargs.get("learning_rate", args[0] if args else None)
        if isinstance(rate, float) and rate * idle_decay >= 1:
            raise ValueError(
                "`idle_decay` times `learning_rate` must be less than 1. "
                f"Received: idle_decay={idle_decay}, learning_rate={rate}"
            )
        self.idle_decay = float(idle_decay)
        self._once = _Once()

    def build(self, variables: list[keras.Variable]) -> None:
        """Create the state for these variables."""
        if self.built:
            return
        super().build(variables)
        self._decays: tuple[IdleDecay | None, ...] = tuple(
            self._decay_of(variable) if self._decays_rows_of(variable) and not is_always_read_whole(variable) else None
            for variable in variables
        )

    def add_variable_from_reference(
        self, reference_variable: Any, name: str | None = None, initializer: Any = "zeros"
    ) -> keras.Variable:
        """As in Keras, but a constant is written once, where `keras.initializers.Constant` makes two arrays of it."""
        if isinstance(initializer, keras.initializers.Constant):
            initializer = functools.partial(_filled, initializer.value)
        return super().add_variable_from_reference(reference_variable, name, initializer)

    def flush(self) -> None:
        """Bring every row of every table up to date.

        `RaFMModel` does it by itself, `RaFMLayer` in its own methods, and `fit` at its end. With another model call it, or
        put `FlushIdleDecay` before other callbacks, before weights are read or set in the midst of training
        (`model.get_weights`, `EarlyStopping(restore_best_weights=True)`).
        """
        if self.built:
            self.attach()
            settle(self._trainable_variables)

    def finalize_variable_values(self, var_list: list[keras.Variable]) -> None:
        """Called by `fit` at its end."""
        super().finalize_variable_values(var_list)
        self.flush()

    def attach(self) -> None:
        """Be the optimizer that the tables are decayed by again, after another one has been.

        `RaFMModel.compile` does it; another model that goes back to an optimizer of before has to call it itself.
        """
        for variable, decay in zip(self._trainable_variables, self._decays if self.built else (), strict=False):
            if decay is not None:
                decay.attach(variable)

    def apply(self, grads: list[Any], trainable_variables: list[Any] | None = None) -> None:
        """As in Keras, with `loss_scale_factor` for sparse gradients too."""
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
            gradient: Dense, or `tf.IndexedSlices`: then only its rows are touched, but for the decay of small tables that a
                `RaFMLayer` reads whole.
            variable: The variable.
            learning_rate: A scalar.
        """
        index = self._get_variable_index(variable)
        table = self._trainable_variables[index]
        is_whole = is_read_whole(table)
        decay = None if is_whole else self._decays[index]
        if isinstance(gradient, tf.IndexedSlices):
            gradient = merged(gradient)
            if self.leaves_zeros_alone or (is_read_with_others(table) and not self.zeros_do_nothing):
                gradient = without_zeros(gradient)
        elif is_read_by_rows(table) or (is_whole and self.leaves_zeros_alone):
            gradient = without_zeros(gradient)
        own_rate = tf.cast(learning_rate, variable.dtype)
        if is_whole and self._decays_rows_of(table):
            variable.assign(variable * tf.cast(tf.exp(self._log_of_decay(learning_rate)), variable.dtype))
        tables = (variable, *(getattr(self, name)[index].value for name in self.state_names))
        if not isinstance(gradient, tf.IndexedSlices):
            self._update_all(tf.cast(gradient, variable.dtype), tables, own_rate)
            return
        factors = None
        if decay is not None:
            _refuse_constraint(table)
            factors = decay.advance(gradient.indices, self._log_of_decay(learning_rate), variable.dtype)
            factors = tf.reshape(factors, [-1] + [1] * (variable.shape.rank - 1))
        self._update_rows(gradient.indices, tf.cast(gradient.values, variable.dtype), tables, own_rate, factors)

    def get_config(self) -> dict[str, Any]:
        """The options."""
        config = super().get_config()
        for option in ("weight_decay", "use_ema", "ema_momentum", "ema_overwrite_frequency", "gradient_accumulation_steps"):
            del config[option]
        return {**config, "idle_decay": self.idle_decay}

    def _apply(self, handles: Sequence[tf.Tensor], gradient: tf.Tensor, learning_rate: tf.Tensor) -> None:
        """Update variables of one shape as a whole, in one pass over them.

        Args:
            handles: Of the weights and of their state, in the order of `state_names`.
            gradient: Of the weights, in their dtype.
            learning_rate: In their dtype.
        """
        raise NotImplementedError

    def _update_all(self, gradient: tf.Tensor, tables: Sequence[tf.Variable], learning_rate: tf.Tensor) -> None:
        """Update a variable and its state as a whole."""
        self._apply([table.handle for table in tables], gradient, learning_rate)

    def _update_rows(
        self,
        rows: tf.Tensor,
        gradient: tf.Tensor,
        tables: Sequence[tf.Variable],
        learning_rate: tf.Tensor,
        decay: tf.Tensor | None,
    ) -> None:
        """Update rows of a table and of its state: taken out, updated as a whole, put back.

        Args:
            rows: Each once: int `[r]`.
            gradient: Of these rows: `[r, …]`.
            tables: The table, and its state.
            learning_rate: In the dtype of the table.
            decay: What the rows have to be multiplied with first: `[r, 1, …]`, or `None`.
        """
        found = [read_rows(table, rows) for table in tables]
        if decay is not None:
            found[0] *= decay
        scratch = [in_scratch_variable(values, tables[0].device) for values in found]
        self._apply(scratch, gradient, learning_rate)
        for table, handle in zip(tables, scratch, strict=True):
            write_rows(table, rows, of_scratch_variable(handle, gradient))

    def _backend_update_step(self, gradients: list[Any], variables: list[Any], learning_rate: Any) -> None:
        self._once.forget()
        super()._backend_update_step(gradients, variables, tf.convert_to_tensor(learning_rate))
        self._once.forget()

    def _all_reduce_sum_gradients(self, gradients_and_variables: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
        context = tf.distribute.get_replica_context()
        if context is None or context.num_replicas_in_sync == 1:
            return super()._all_reduce_sum_gradients(gradients_and_variables)
        # A row behind the last one, so that no gradient is empty, and nothing is touched that no replica has read.
        extended = [
            (with_row(gradient, variable.shape[0]) if isinstance(gradient, tf.IndexedSlices) else gradient, variable)
            for gradient, variable in gradients_and_variables
        ]
        return [
            (rows_below(gradient, variable.shape[0]) if isinstance(gradient, tf.IndexedSlices) else gradient, variable)
            for gradient, variable in super()._all_reduce_sum_gradients(extended)
        ]

    def _log_of_decay(self, learning_rate: tf.Tensor) -> tf.Tensor:
        def compute() -> tf.Tensor:
            return log_of_decay(tf.cast(learning_rate, tf.float64) * self.idle_decay)

        return self._once("log_of_decay", compute)

    def _clip_gradients(self, gradients: list[Any]) -> list[Any]:
        if self.clipnorm or self.global_clipnorm or self.clipvalue:
            gradients = [merged(g) if isinstance(g, tf.IndexedSlices) else g for g in gradients]
        return super()._clip_gradients(gradients)

    def _decays_rows_of(self, table: keras.Variable) -> bool:
        return self.idle_decay > 0 and len(table.shape) >= 2 and self._use_weight_decay(table)

    def _decay_of(self, table: keras.Variable) -> IdleDecay:
        # Zero until the table gets its first sparse gradient: a dense kernel is never decayed.
        running_sum = self.add_variable((), dtype="float64", name=f"{table.name}_decay_sum")
        marks = self.add_variable((table.shape[0],), dtype="float64", name=f"{table.name}_decay_marks")
        settled_at = self.add_variable((), dtype="float64", name=f"{table.name}_decay_settled_at")
        return IdleDecay(table, running_sum, marks, settled_at)


def row_sparse_optimizer(optimizer: Any) -> RowSparse | None:
    """The optimizer itself, or that inside a `LossScaleOptimizer`, if it is one of these."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return inner if isinstance(inner, RowSparse) else None


@keras.saving.register_keras_serializable(package="keras_rafm")
class LazyAdam(RowSparse, keras.optimizers.Adam):
    """Adam (Kingma and Ba, ICLR 2015) that touches only the rows of a table that a batch reads.

    A row's moments are updated in the steps that read it, with the bias correction of the step's number, as is usual for
    lazy Adam. Dense gradients are handled as in `keras.optimizers.Adam`; small tables of a `RaFMLayer`, which it reads
    whole in training (`max_dense_rows`), have such. Its other tables may get dense ones too (from `factors_l2` over whole
    tables, and in a plain `keras.Model` on several replicas): there rows whose gradient is zero count as not read.

    Lazy Adam without decay overfits rare rows that nothing pulls back. `idle_decay` is decoupled weight decay of all rows
    of the tables, those out of the batch included: a row is multiplied by `1 − learning_rate · idle_decay` per step, done
    when it is next read (`rows.idle_decay`), and in tables that are read whole in every step. Tables are the factor
    tables of a `RaFMLayer`, and every variable of two or more axes that gets a sparse gradient, unless excluded by
    `exclude_from_weight_decay`. The linear weights of a `RaFMLayer` have one axis: they are not decayed.

    `RaFMLayer` reads rows as they are after the decay that waits on them. Other layers read them without: there it is done
    when the row is updated, and for all rows by `flush`.

    Args:
        learning_rate: A float, a `keras.optimizers.schedules.LearningRateSchedule` or a callable.
        idle_decay: Decay per unit of learning rate, 0 for none.
        beta_1: Decay rate of the first moments.
        beta_2: Decay rate of the second moments.
        epsilon: Added to the root of the second moment.
        name: Name of the optimizer.
        **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm` (repeated rows are summed up before) and `loss_scale_factor` of
            Keras.

    Raises:
        ValueError: A value is out of its range; or one of `weight_decay`, `use_ema` and `gradient_accumulation_steps`
            is asked for, which would touch whole tables.
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
        """The options."""
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
        """`β^t` of the step `t` that is being done, from 1."""
        return self._once((beta, dtype), lambda: tf.pow(tf.constant(beta, dtype), self._step(dtype)))

    def _step(self, dtype: tf.DType) -> tf.Tensor:
        return self._once(dtype, lambda: tf.cast(self.iterations + 1, dtype))


@keras.saving.register_keras_serializable(package="keras_rafm")
class SparseAdagrad(RowSparse, keras.optimizers.Adagrad):
    """Adagrad (Duchi et al., JMLR 2011) that touches only the rows of a table that a batch reads.

    (Small tables that a `RaFMLayer` reads whole are updated whole, with the same result.) Its result is that of
    `keras.optimizers.Adagrad` on dense gradients, since Adagrad leaves rows without a gradient as they are. It needs half
    of the state of Adam.

    Args:
        learning_rate: As in `LazyAdam`.
        initial_accumulator_value: Where the sums of squared gradients start.
        epsilon: Added to that sum before the root is taken.
        idle_decay: As in `LazyAdam`.
        name: Name of the optimizer.
        **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm` (repeated rows are summed up before) and `loss_scale_factor` of
            Keras.

    Raises:
        ValueError: As `LazyAdam`; or `initial_accumulator_value` plus `epsilon` is not above 0.
    """

    state_names = ("_accumulators",)
    zeros_do_nothing = True

    def __init__(
        self,
        learning_rate: Any = 0.05,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        idle_decay: float = 0.0,
        name: str = "sparse_adagrad",
        **kwargs: Any,
    ) -> None:
        if not initial_accumulator_value + epsilon > 0:  # the step of a row without a gradient would be 0 / 0
            raise ValueError(
                "`initial_accumulator_value` plus `epsilon` must be above 0. "
                f"Received: initial_accumulator_value={initial_accumulator_value}, epsilon={epsilon}"
            )
        super().__init__(
            learning_rate=learning_rate,
            # TensorFlow's kernel adds epsilon to the root, Keras adds it to the sum: so it is in the sum from the start.
            initial_accumulator_value=initial_accumulator_value + epsilon,
            epsilon=0.0,
            idle_decay=idle_decay,
            name=name,
            **kwargs,
        )
        self._options = {"initial_accumulator_value": initial_accumulator_value, "epsilon": epsilon}

    def get_config(self) -> dict[str, Any]:
        """The options."""
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
        weights, accumulator = handles
        return {
            "var": weights,
            "accum": accumulator,
            "lr": learning_rate,
            "epsilon": tf.constant(0, learning_rate.dtype),
        }


@keras.saving.register_keras_serializable(package="keras_rafm")
class SparseFtrl(RowSparse, keras.optimizers.Ftrl):
    """FTRL-Proximal (McMahan et al., KDD 2013), as used for click models, that touches only the rows a batch reads.

    A row is updated as by `keras.optimizers.Ftrl` in the steps that give it a gradient other than zero, and left alone in
    all others, where Keras' own would set a row that never had one to zero. L1 makes weights exactly zero; L1 and L2 act on
    a row when it is updated, and since FTRL computes a weight anew from all its gradients, there is no decay of idle rows.

    Args:
        learning_rate: As in `LazyAdam`.
        learning_rate_power: Power of the sums of squared gradients that the rate is divided by, 0 or less.
        initial_accumulator_value: Where the sums of squared gradients start, 0 or more.
        l1_regularization_strength: L1, 0 or more.
        l2_regularization_strength: L2, 0 or more.
        l2_shrinkage_regularization_strength: L2 added to the gradient alone, 0 or more.
        beta: The paper's β.
        name: Name of the optimizer.
        **kwargs: `clipnorm`, `clipvalue`, `global_clipnorm` (repeated rows are summed up before) and `loss_scale_factor` of
            Keras.

    Raises:
        ValueError: As `LazyAdam`.
    """

    state_names = ("_accumulators", "_linears")
    leaves_zeros_alone = True

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
            raise ValueError(f"SparseFtrl has no `idle_decay`: use L2. Received: idle_decay={kwargs['idle_decay']!r}")
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
        """The options."""
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
        # The kernel makes a weight of 0 of what is not a number, which would hide it.
        is_finite = tf.math.is_finite(tf.raw_ops.ReadVariableOp(resource=linear, dtype=dtype))
        lost = tf.where(is_finite, tf.constant(0, dtype), tf.constant(math.nan, dtype))
        tf.raw_ops.AssignAddVariableOp(resource=weights, value=lost)


class FlushIdleDecay(keras.callbacks.Callback):
    """Calls `flush` of the model's optimizer before validation and prediction and at the end of every epoch.

    For models other than `RaFMModel`, which does it by itself. Put it before callbacks that read weights.
    """

    def on_test_begin(self, logs: Any = None) -> None:
        """Before validation."""
        self._flush()

    def on_predict_begin(self, logs: Any = None) -> None:
        """Before prediction."""
        self._flush()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Before other callbacks read weights."""
        self._flush()

    def _flush(self) -> None:
        settle(self.model.trainable_variables)


def _refuse_constraint(table: keras.Variable) -> None:
    if table.constraint is not None:
        raise ValueError(
            f"`idle_decay` can't decay {table.path}, which has a constraint: rows out of the batch would be decayed later, "
            "without it. Use idle_decay=0 or exclude_from_weight_decay."
        )


def _filled(value: float, shape: Any, dtype: Any = None) -> tf.Tensor:
    return tf.fill(shape, keras.ops.cast(value, dtype))


def _divided(gradient: Any, divisor: float) -> Any:
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(gradient.values / divisor, gradient.indices, gradient.dense_shape)
    return gradient / divisor


class _Once:
    """Computes what all variables of an update share once: in a small batch a step costs its number of operations."""

    def __init__(self) -> None:
        self._results: dict[Any, Any] = {}

    def __call__(self, key: Any, compute: Callable[[], Any]) -> Any:
        if key not in self._results:
            self._results[key] = compute()
        return self._results[key]

    def forget(self) -> None:
        self._results = {}
