"""`TableLayer`: a Keras layer that owns the tables of a plan: it creates, looks up, sums, assigns and saves them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import distinct_ids, finite_array, integer_or_none, one_of, weights_per_level
from keras_rafm.rank_plan import PlanSizes, RankPlan, fingerprint_of_slots
from keras_rafm.rows.access import read_rows
from keras_rafm.rows.idle_decay import decayed, idle_decay_of, settle
from keras_rafm.rows.initializers import initializer_of_table, initializer_per_level
from keras_rafm.rows.replicas import with_dense_gradient
from keras_rafm.rows.sparse_gradients import declare_distinct, declare_reading, reading_of
from keras_rafm.rows.table_reading import TableReading
from keras_rafm.score.batch_sums import LINEAR, BatchSums, LookUp, sum_batch
from keras_rafm.score.call_context import current_context
from keras_rafm.score.factor_tables import FactorTable, SeparateFactors
from keras_rafm.score.occurrences import Occurrences

_UNSET_SLOT = -1


class TableLayer(keras.layers.Layer):
    """A layer that owns the slot map, the linear weights, the bias and the factor tables of a plan.

    `RaFMLayer` documents the arguments, attributes and methods.
    """

    built: bool

    def __init__(
        self,
        plan: RankPlan | PlanSizes,
        *,
        use_linear: bool,
        use_bias: bool,
        factors_initializer: Any,
        linear_initializer: Any,
        factors_l2: float | Sequence[float],
        factors_l2_scope: str,
        linear_l2: float,
        seed: int | None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(plan, PlanSizes):
            raise TypeError(f"`plan` must be a keras_rafm.RankPlan. Received: {plan!r} of type {type(plan).__name__}")
        super().__init__(autocast=False, **kwargs)
        self._sizes = PlanSizes(plan.ranks, plan.level_sizes, plan.fingerprint)
        self.form = SeparateFactors(self._sizes)
        self._initial_slots = plan.slots if isinstance(plan, RankPlan) else None
        self._slots_are_set = isinstance(plan, RankPlan)
        self.use_linear = use_linear
        self.use_bias = use_bias
        self.factors_initializers = initializer_per_level(factors_initializer, plan.num_levels)
        self.linear_initializer = keras.initializers.get(linear_initializer)
        self.factors_l2 = weights_per_level(factors_l2, plan.num_levels, "factors_l2")
        self.factors_l2_scope = one_of(factors_l2_scope, ("tables", "batch"), "factors_l2_scope")
        (self.linear_l2,) = weights_per_level(linear_l2, 1, "linear_l2")
        self.seed = integer_or_none(seed, "seed")

    @property
    def ranks(self) -> tuple[int, ...]:
        """`D_1 < … < D_m`."""
        return self._sizes.ranks

    @property
    def level_sizes(self) -> tuple[int, ...]:
        """`(|F_1|, …, |F_m|)`."""
        return self._sizes.level_sizes

    @property
    def num_levels(self) -> int:
        """`m`."""
        return self._sizes.num_levels

    @property
    def num_features(self) -> int:
        """`|F_1|`: ids are in `[0, num_features)`."""
        return self._sizes.num_features

    @property
    def plan(self) -> RankPlan:
        """The plan, rebuilt from the slot map, without the counts that it was made from."""
        self.require_slots()
        slots = self.slots.numpy()
        return RankPlan(self._sizes.levels_of_slots(slots), self.ranks, slots=slots)

    def build(self, input_shape: Any = None) -> None:
        """Create all tables. Their shapes depend on the plan alone, so `input_shape` is not needed."""
        del input_shape
        if self.built:
            return
        self.slots = self.add_weight(
            name="slots",
            shape=(self.num_features,),
            dtype="int32",
            # A closure over the array: Keras may run it long after this method, when it builds a model symbolically.
            initializer=_slots_initializer(self._initial_slots),
            trainable=False,
        )
        self.linear_weights = None
        if self.use_linear:
            self.linear_weights = self._add_table(LINEAR, (self.num_features,), self.linear_initializer, self.linear_l2, 0)
        self.bias_weight = None
        if self.use_bias:
            self.bias_weight = self.add_weight(name="bias", shape=(), initializer="zeros", autocast=False)
        variables = {
            table.name: self._add_table(
                table.name,
                (table.num_rows, table.width),
                self.factors_initializers[table.level - 1],
                self.factors_l2[table.level - 1],
                number,
            )
            for number, table in enumerate(self.form.tables, start=1)
        }
        self.free_tables = tuple(variables[table.name] for table in self.form.free)
        self.dependent_tables = tuple(variables[table.name] for table in self.form.dependent)
        self._initial_slots = None
        self.built = True

    def get_build_config(self) -> dict[str, Any]:
        """Return an empty config: `build` needs the plan alone."""
        return {}

    def build_from_config(self, config: Mapping[str, Any]) -> None:
        """Create all tables."""
        del config
        self.build()

    def variable_of(self, name: str) -> keras.Variable:
        """Return the variable of a factor table by its name, or the linear weights for `"linear"`."""
        if name == LINEAR:
            return self.linear_weights
        variables = zip((*self.form.free, *self.form.dependent), (*self.free_tables, *self.dependent_tables), strict=True)
        return next(variable for table, variable in variables if table.name == name)

    def sum_batch(self, batch: Occurrences, look_up: LookUp, *, head: int = 0, num_levels: int | None = None) -> BatchSums:
        """Look up the rows that a batch reads and sum them per sample. See `batch_sums.sum_batch`."""
        self.require_slots()
        return sum_batch(
            batch,
            # Read here and not inside a branch of the graph, where Keras would miss it when it exports a model.
            tf.convert_to_tensor(self.slots.value),
            self.level_sizes,
            self.form.tables,
            look_up,
            has_linear=self.linear_weights is not None,
            head=head,
            where=self.name,
            num_levels=num_levels,
        )

    def look_up(self, name: str, rows: tf.Tensor | None, dtype: str) -> tf.Tensor:
        """Return rows of a factor table or of the linear weights, with their pending decay applied.

        Args:
            name: See `variable_of`.
            rows: Distinct row numbers, int32 `[r]`; `None` for all rows of a table that is read whole.
            dtype: Float dtype of the result.

        Returns:
            `[r, D]`, or `[r]` for the linear weights.
        """
        table = self.variable_of(name)
        if rows is None:
            return tf.cast(tf.convert_to_tensor(table.value), dtype)
        rows, values = declare_distinct(rows), table.value
        context = current_context()
        if tf.distribute.get_strategy().num_replicas_in_sync > 1 and context.level_scores is None:
            values = with_dense_gradient(values)
        if reading_of(table).is_whole:
            # No decay is pending. A variable that was once read by rows is copied whenever it is read whole.
            return tf.cast(read_rows(tf.convert_to_tensor(values), rows), dtype)
        row_values = read_rows(values, rows)
        decay = None if context.is_serving else idle_decay_of(table)
        if decay is not None:
            row_values = decayed(row_values, decay.pending(rows, row_values.dtype))
        return tf.cast(row_values, dtype)

    def declare_reads(self, head: int, always: bool) -> None:
        """Tell optimizers how training reads each table.

        Args:
            head: The number of slots whose tables are read whole.
            always: Whether every graph reads them whole.
        """

        def declare(table: keras.Variable, start: int, end: int) -> None:
            if end <= head:
                reading = TableReading.ALWAYS_WHOLE if always else TableReading.WHOLE
            else:
                reading = TableReading.BY_ROWS_WITH_HEAD if start < head else TableReading.BY_ROWS
            declare_reading(table, reading)

        if self.linear_weights is not None:
            declare(self.linear_weights, 0, self.num_features)
        for table in self.form.tables:
            declare(self.variable_of(table.name), table.start, table.end)

    def factors(self, level: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the active factors of a level.

        Args:
            level: `k` in `1 … m`.

        Returns:
            Feature ids, int32 `[|F_k|]`, and their factors `v_i^(k)`, `[|F_k|, D_k]` in the variable dtype.

        Raises:
            ValueError: The level is out of range, or the weights of this clone have not been set.
        """
        tables = self._settled_tables(level)
        size = self.level_sizes[level - 1]
        return _features_by_slot(self.slots.numpy())[:size], np.concatenate(
            [self.variable_of(table.name).numpy() for table in tables]
        )

    def assign_factors(self, level: int, feature_ids: npt.ArrayLike, matrix: npt.ArrayLike) -> None:
        """Set the factors `v_i^(k)` of some features of `F_k`: the reverse of `factors`.

        Args:
            level: `k` in `1 … m`.
            feature_ids: Distinct integers `[n]`, features of level `k` or above.
            matrix: Finite numbers `[n, D_k]`.

        Raises:
            TypeError: The ids are not integers.
            ValueError: The level or an id is out of range, an id is repeated or of a lower level, shapes do not fit, or a
                number is not finite.
        """
        tables = self._settled_tables(level)
        size = self.level_sizes[level - 1]
        ids = distinct_ids(feature_ids, self.num_features)
        values = finite_array(matrix, (ids.size, self.ranks[level - 1]), "matrix")
        slots = self.slots.numpy()[ids]
        if np.any(slots >= size):
            raise ValueError(
                f"`feature_ids` must be of level {level} or above. Received: feature {ids[np.argmax(slots >= size)]}, "
                f"which has no factors of level {level}"
            )
        for table in tables:
            inside = (slots >= table.start) & (slots < table.end)
            _assign_rows(self.variable_of(table.name), slots[inside] - table.start, values[inside])

    def linear(self) -> npt.NDArray[Any]:
        """Return the linear weights `w` by feature id: `[num_features]`; zeros without a linear term."""
        self.require_slots()
        if self.linear_weights is None:
            return np.zeros(self.num_features, self.variable_dtype)
        settle([self.linear_weights])
        return self.linear_weights.numpy()[self.slots.numpy()]

    def assign_linear(self, feature_ids: npt.ArrayLike, weights: npt.ArrayLike) -> None:
        """Set the linear weights `w_i` of some features.

        Args:
            feature_ids: Distinct integers `[n]`.
            weights: Finite numbers `[n]`.

        Raises:
            TypeError: The ids are not integers.
            ValueError: The layer has no linear term, an id is out of range or repeated, shapes do not fit, or a number is
                not finite.
        """
        self.require_slots()
        if self.linear_weights is None:
            raise ValueError(f"{self.name} has no linear term (use_linear=False)")
        settle([self.linear_weights])
        ids = distinct_ids(feature_ids, self.num_features)
        _assign_rows(self.linear_weights, self.slots.numpy()[ids], finite_array(weights, (ids.size,), "weights"))

    def bias(self) -> float:
        """Return the bias `b`; 0 without one."""
        self.build()
        return 0.0 if self.bias_weight is None else float(self.bias_weight.numpy())

    def assign_bias(self, bias: float) -> None:
        """Set the bias `b` to a finite number.

        Raises:
            ValueError: The layer has no bias, or the number is not finite.
        """
        self.build()
        if self.bias_weight is None:
            raise ValueError(f"{self.name} has no bias (use_bias=False)")
        self.bias_weight.assign(finite_array(bias, (), "bias"))

    def set_weights(self, weights: Sequence[npt.ArrayLike]) -> None:
        """Set all weights; a layer that was never called creates its tables first."""
        self.build()
        settle(self.variables)
        super().set_weights(weights)

    def get_weights(self) -> list[npt.NDArray[Any]]:
        """Return all weights, after applying pending decay."""
        settle(self.variables)
        return super().get_weights()

    def save_own_variables(self, store: Any) -> None:
        """Write the tables, after applying pending decay."""
        settle(self.variables)
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Load the tables and check that they belong to this layer's plan.

        Raises:
            ValueError: The stored slot map belongs to another plan.
        """
        settle(self.variables)
        super().load_own_variables(store)
        self._slots_are_set = False
        self.require_slots()

    def require_slots(self) -> None:
        """Create the tables if needed, and check once that the slot map is that of the plan.

        A layer made from a config has no slot map until its weights are set.

        Raises:
            ValueError: The slot map is not set, or belongs to another plan.
        """
        self.build()
        if self._slots_are_set or _keras_infers_shapes():
            return
        with tf.init_scope():
            slots = self.slots.numpy()
        if slots[0] == _UNSET_SLOT:
            raise ValueError(
                f"{self.name} was made from a config, which does not say which feature has which level. "
                "Set its weights (set_weights, load_weights) before using it."
            )
        if fingerprint_of_slots(slots) != self._sizes.fingerprint:
            raise ValueError(
                f"The weights given to {self.name} belong to another RankPlan. Expected a slot map with the fingerprint "
                f"{self._sizes.fingerprint}, as in the config. Received: {fingerprint_of_slots(slots)}"
            )
        self._slots_are_set = True

    def _add_table(
        self, name: str, shape: tuple[int, ...], initializer: keras.initializers.Initializer, l2: float, number: int
    ) -> keras.Variable:
        has_penalty = self.factors_l2_scope == "tables" and l2
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer_of_table(initializer, self.seed, number),
            regularizer=_L2(l2) if has_penalty else None,
            # The layer's own autocast=False is not enough: under a mixed policy, whole tables would be cast.
            autocast=False,
        )

    def _config_of_plan(self) -> dict[str, Any]:
        sizes = self._sizes.get_config()
        if self.built and self._slots_are_set:
            # set_weights may have set the slot map of another plan of the same sizes.
            sizes["fingerprint"] = fingerprint_of_slots(self.slots.numpy())
        return sizes

    def _settled_tables(self, level: int) -> tuple[FactorTable, ...]:
        """Return the tables with the factors of a level, after applying pending decay to all tables."""
        if level not in range(1, self.num_levels + 1):
            raise ValueError(f"`level` must be in 1 … {self.num_levels}. Received: level={level}")
        self.require_slots()
        settle(self.variables)
        return self.form.tables_of_level(level)


class _L2(keras.regularizers.L2):
    """An L2 penalty in Keras's default float dtype, which a compiled loss has, whatever the dtype of the table."""

    def __call__(self, x: Any) -> tf.Tensor:
        return tf.cast(super().__call__(x), keras.config.floatx())


def _features_by_slot(slots: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    features = np.empty_like(slots)
    features[slots] = np.arange(slots.size, dtype=slots.dtype)
    return features


def _slots_initializer(slots: npt.NDArray[np.int32] | None) -> Callable[..., tf.Tensor]:
    def initialize(shape: Any, dtype: Any = None) -> tf.Tensor:
        return tf.fill(shape, tf.constant(_UNSET_SLOT, dtype)) if slots is None else tf.constant(slots, dtype)

    return initialize


def _keras_infers_shapes() -> bool:
    """Return whether Keras runs an enclosing layer in a temporary graph, as when it loads one: weights come later."""
    return not tf.executing_eagerly() and tf.compat.v1.get_default_graph().name.startswith("scratch_graph")


def _assign_rows(variable: keras.Variable, rows: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
    table = variable.numpy()
    table[rows] = values
    variable.assign(table)
