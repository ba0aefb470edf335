"""`RaFMLayer`: the score of a Rank-Aware Factorization Machine as a Keras layer."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import (
    distinct_ids,
    finite_array,
    integer_or_auto,
    integer_or_none,
    one_of,
    weights_per_level,
)
from keras_rafm.rank_plan import PlanSizes, RankPlan, fingerprint_of_slots
from keras_rafm.rows.access import read_rows
from keras_rafm.rows.idle_decay import decayed, idle_decay_of, settle
from keras_rafm.rows.replicas import with_dense_gradient
from keras_rafm.rows.sparse_gradients import declare_distinct, declare_read_by_rows, declare_read_whole, is_read_whole
from keras_rafm.score import interactions
from keras_rafm.score.call_context import active_recording, expected_batch_size, inference, is_serving, served_score
from keras_rafm.score.interactions import DependentGradient, LevelSums, LevelTerms, total
from keras_rafm.score.lookup import find_reads, head_size, ranges_of_slots
from keras_rafm.score.occurrences import check_symbolic_inputs, occurrences
from keras_rafm.score.row_sums import TableSums, sum_tables
from keras_rafm.training.imitation import DEFAULT_SQUARED_ERROR_WEIGHT

_UNSET_SLOT = -1
# `max_dense_rows="auto"`, both by measurement: `benchmarks/README.md`.
_MOST_DENSE_ROWS = 8192
_OCCURRENCES_PER_DENSE_ROW = 2
_SMALL_TABLE_BYTES = 2**26


@keras.saving.register_keras_serializable(package="keras_rafm")
class RaFMLayer(keras.layers.Layer):
    """Score of a Rank-Aware Factorization Machine (Chen, Zheng, Wang, Ma, Huang, ICML 2019).

    `ŷ = b + Σ_i w_i x_i + Σ_{i<j} <v_i^(q), v_j^(q)> x_i x_j` with `q = min(k_i, k_j)`: every pair of features
    interacts at the highest rank that both can afford. Only active factors are stored: level `k` has a table `free_k` of
    `|F_k| − |F_{k+1}|` rows and a table `dependent_k` of `|F_{k+1}|` rows, both `D_k` wide. With one level it is a
    plain FM.

    In a `keras_rafm.RaFMModel` the lower problem of the bi-level update follows the compiled loss. In any other model the
    layer adds it itself in training (`add_loss`): per level, the mean squared difference to the next level's score.

    Inputs, one of:
        - integer ids `[B, F]` (int32 or int64; id −1 is padding), dense or `tf.RaggedTensor`;
        - `{"ids": ids, "values": values}`, values `x_i` of the same shape, both dense or both ragged;
        - a `tf.SparseTensor` `[B, num_features]` (column = id, value = value) in row-major order.

    An id that occurs twice in a sample is two terms. A `keras.Model` casts its inputs to the declared dtype before any
    layer sees them, so that float, NaN or too large ids are noticed here only in a direct call; `RaFMModel`
    checks first.

    Values should be about 1 in size: the score is computed from squares of sums, so that one value of 1,000 beside others
    of 1 costs three of the seven digits of float32 (`dtype="float64"` has digits to spare).

    Output: `[B, 1]` in the compute dtype. Sums are computed in float32 (float64 under a float64 policy) whatever the
    compute dtype, and tables are kept in the variable dtype.

    Args:
        plan: The `RankPlan`: level of every feature, rank of every level.
        use_linear: Whether there are weights `w`.
        use_bias: Whether there is a bias `b`.
        factors_initializer: Initialiser of the factor tables, or a sequence with one per level. Default: normal, 0.01.
            Each table draws its own numbers, also from one initialiser with a seed.
        linear_initializer: Initialiser of `w`.
        factors_l2: The loss gets `factors_l2 · Σ v²`; a number or a sequence with one per level. For optimizers without a
            decay of their own: `keras_rafm.optimizers.LazyAdam` has one that costs less.
        factors_l2_scope: `"tables"`: the sum is over the whole tables. It pulls on every row in every step, which is what
            makes RaFM accurate, at the cost of a gradient as large as the tables. `"batch"`: over the distinct rows
            that the batch reads, at the cost of these; the loss that `evaluate` reports then depends on the batch
            size, and on several replicas it is the mean of what each one's batch gives.
        linear_l2: The loss gets `linear_l2 · Σ w²`, over the same scope.
        dependent_gradient: Which loss moves the dependent factors: `"both"` (the upper one through `U_k·T_k` and the
            lower one; the authors' program), `"lower"` (strict bi-level) or `"upper"` (no imitation).
        dependent_loss_weight: Weight of the lower losses: a non-negative number, a sequence with one per level
            `1 … m−1`, or `"auto"`: a measured value that depends on the family of the loss.
        max_dense_rows: In training, the tables of the highest levels are read whole and get dense gradients, as many levels
            as have no more features than this together; of all others the rows that the batch reads are looked up, and
            their gradients are `tf.IndexedSlices`. Optimizers update a small table as a whole faster than many rows of it.
            Its idle rows take part in every step, as with Keras' optimizers: under `LazyAdam` they move on by their
            momentum. `"auto"`: 8192; in `RaFMModel.fit`, if the batch size is known, less where a batch has less than two
            occurrences per row. It is known of arrays, of datasets with it in their shapes, and of those that `keras_rafm`
            makes, as long as no other is made of them. That is decided when `fit` first makes a graph. With penalties over
            the batch (`factors_l2_scope`) and in 16-bit variables all tables are read by rows.
        seed: Integer from which every table's initialisation is drawn, or `None`.
        **kwargs: `name`, `dtype`, `trainable` of `keras.layers.Layer`.

    Raises:
        TypeError: `plan` is not a `RankPlan`.
        ValueError: An option is not one of those above, or a sequence has the wrong length.
    """

    built: bool

    def __init__(
        self,
        plan: RankPlan | PlanSizes,
        *,
        use_linear: bool = True,
        use_bias: bool = True,
        factors_initializer: Any = None,
        linear_initializer: Any = "zeros",
        factors_l2: float | Sequence[float] = 0.0,
        factors_l2_scope: str = "tables",
        linear_l2: float = 0.0,
        dependent_gradient: DependentGradient = "both",
        dependent_loss_weight: str | float | Sequence[float] = "auto",
        max_dense_rows: int | Literal["auto"] = "auto",
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(plan, PlanSizes):
            raise TypeError(f"`plan` must be a keras_rafm.RankPlan. Received: {plan!r} of type {type(plan).__name__}")
        super().__init__(autocast=False, **kwargs)
        # CSR products do not compile under XLA.
        self.supports_jit = False
        self._sizes = PlanSizes(plan.ranks, plan.level_sizes, plan.fingerprint)
        self._initial_slots = plan.slots if isinstance(plan, RankPlan) else None
        self._slots_are_set = isinstance(plan, RankPlan)
        self.use_linear = use_linear
        self.use_bias = use_bias
        self.factors_initializers = self._one_initializer_per_level(factors_initializer)
        self.linear_initializer = keras.initializers.get(linear_initializer)
        self.factors_l2 = weights_per_level(factors_l2, plan.num_levels, "factors_l2")
        self.factors_l2_scope = one_of(factors_l2_scope, ("tables", "batch"), "factors_l2_scope")
        (self.linear_l2,) = weights_per_level(linear_l2, 1, "linear_l2")
        self.dependent_gradient = one_of(dependent_gradient, ("both", "lower", "upper"), "dependent_gradient")
        #: `"auto"`, or one weight per level `1 … m−1`.
        self.dependent_loss_weight: str | tuple[float, ...] = "auto"
        if not (isinstance(dependent_loss_weight, str) and dependent_loss_weight == "auto"):
            self.dependent_loss_weight = weights_per_level(
                dependent_loss_weight, plan.num_levels - 1, "dependent_loss_weight"
            )
        self.max_dense_rows = integer_or_auto(max_dense_rows, "max_dense_rows", at_least=0)
        # The decay of one step, which whole tables take in every step, is lost in the rounding of 16-bit variables.
        by_rows = tf.as_dtype(self.variable_dtype).size < 4
        by_rows |= self.factors_l2_scope == "batch" and bool(any(self.factors_l2) or self.linear_l2)
        # The slots whose tables are read whole in training if batches are large.
        at_most = _MOST_DENSE_ROWS if self.max_dense_rows == "auto" else self.max_dense_rows
        self._head = 0 if by_rows else head_size(plan.level_sizes, at_most)
        # A penalty over whole tables has a gradient as large as they are anyway.
        self._head_is_fixed = self.max_dense_rows != "auto" or bool(any(self.factors_l2) or self.linear_l2)
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
        """The plan, rebuilt from the slot map (without the counts that it was made from)."""
        self._require_slots()
        slots = self.slots.numpy()
        return RankPlan(self._sizes.levels_of_slots(slots), self.ranks, slots=slots)

    def build(self, input_shape: Any = None) -> None:
        """Create all tables. Their shapes follow from the plan alone, so the input shape is not needed."""
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
        # The layer's own autocast=False is not enough: under a mixed policy, whole tables would be cast.
        exact: dict[str, Any] = {"autocast": False}
        over_tables = self.factors_l2_scope == "tables"
        self.linear_weights = None
        if self.use_linear:
            self.linear_weights = self.add_weight(
                name="linear",
                shape=(self.num_features,),
                initializer=self._seeded(self.linear_initializer, 0),
                regularizer=_l2(self.linear_l2) if over_tables else None,
                **exact,
            )
        self.bias_weight = None
        if self.use_bias:
            self.bias_weight = self.add_weight(name="bias", shape=(), initializer="zeros", **exact)
        free_tables: list[keras.Variable] = []
        dependent_tables: list[keras.Variable] = []
        for index, (rank, size, above) in enumerate(self._sizes.levels_with_next()):
            options = {"regularizer": _l2(self.factors_l2[index]) if over_tables else None, **exact}
            initializer = self.factors_initializers[index]
            free_tables.append(
                self.add_weight(
                    name=f"free_{index + 1}",
                    shape=(size - above, rank),
                    initializer=self._seeded(initializer, 1 + 2 * index),
                    **options,
                )
            )
            if index < self.num_levels - 1:  # nothing is above the last level
                dependent_tables.append(
                    self.add_weight(
                        name=f"dependent_{index + 1}",
                        shape=(above, rank),
                        initializer=self._seeded(initializer, 2 + 2 * index),
                        **options,
                    )
                )
        self.free_tables = tuple(free_tables)
        self.dependent_tables = tuple(dependent_tables)
        self._declare_reads(self._head)
        self._initial_slots = None
        self.built = True

    def get_build_config(self) -> dict[str, Any]:
        """Nothing: `build` needs the plan's sizes alone."""
        return {}

    def build_from_config(self, config: Mapping[str, Any]) -> None:
        """Create all tables."""
        del config
        self.build()

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """`ŷ_m`: float `[B, 1]`.

        Raises:
            TypeError: Ids are not int32 or int64, or values are not numbers.
            ValueError: Shapes do not fit, or this is a clone whose weights have not been set.
            tf.errors.InvalidArgumentError: An id is outside `[0, num_features)` and not −1, or a value is not finite.
        """
        served = served_score(self, inputs)
        if served is not None:
            return self._as_output(served)
        with contextlib.nullcontext() if training else inference():
            linear, levels, penalty = self._terms(inputs, self._head_for(inputs) if training else 0)
        if penalty is not None:
            self.add_loss(_as_loss(penalty))
        if training:
            self._report_level_scores(linear, levels)
        return self._as_output(interactions.score(linear, levels))

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> keras.KerasTensor:
        """Shape and dtype of the score: Keras infers them here for every kind of input."""
        del training
        check_symbolic_inputs(inputs, self.num_features, where=self.name)
        first = keras.tree.flatten(inputs)[0]
        return keras.KerasTensor((first.shape[0], 1), dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """`(B, 1)`, from the shape of the ids or a mapping of shapes."""
        shape = input_shape["ids"] if isinstance(input_shape, Mapping) else input_shape
        return (shape[0], 1)

    def level_scores(self, inputs: Any) -> tf.Tensor:
        """`ŷ_1 … ŷ_m` of a batch: float `[B, m]`.

        `ŷ_k` is the model cut off at rank `D_k`; `ŷ_1` is a plain FM of rank `D_1` ("RaFM-low").

        Args:
            inputs: Any kind of input that the layer takes, tensors or NumPy arrays.

        Raises:
            As `call`.
        """
        linear, levels, _ = self._terms(inputs, head=0)
        return tf.concat([self._as_output(s) for s in interactions.level_scores(linear, levels)], axis=1)

    def factors(self, level: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """The active factors of a level.

        Args:
            level: `k` in `1 … m`.

        Returns:
            Feature ids int32 `[|F_k|]` and their factors `v_i^(k)`, `[|F_k|, D_k]` in the variable dtype.

        Raises:
            ValueError: There is no such level, or this is a clone whose weights have not been set.
        """
        size, _ = self._range_of_level(level)
        parts = [self.free_tables[level - 1].numpy()]
        if level < self.num_levels:
            parts.insert(0, self.dependent_tables[level - 1].numpy())
        return self._feature_of_slot()[:size], np.concatenate(parts)

    def assign_factors(self, level: int, feature_ids: npt.ArrayLike, matrix: npt.ArrayLike) -> None:
        """Set the factors `v_i^(k)` of some features of `F_k`: the reverse of `factors`.

        Args:
            level: `k` in `1 … m`.
            feature_ids: Ints `[n]`, each of level `k` or above, none twice.
            matrix: Finite numbers `[n, D_k]`.

        Raises:
            TypeError: The ids are not integers.
            ValueError: An id is out of range, of lower level or there twice; shapes do not fit; a number is not finite.
        """
        size, above = self._range_of_level(level)
        ids = distinct_ids(feature_ids, self.num_features)
        values = finite_array(matrix, (ids.size, self.ranks[level - 1]), "matrix")
        slots = self.slots.numpy()[ids]
        if np.any(slots >= size):
            raise ValueError(
                f"`feature_ids` must be of level {level} or above. Received: feature {ids[np.argmax(slots >= size)]}, "
                f"which has no factors of level {level}"
            )
        free = slots >= above
        _assign_rows(self.free_tables[level - 1], slots[free] - above, values[free])
        if level < self.num_levels:
            _assign_rows(self.dependent_tables[level - 1], slots[~free], values[~free])

    def linear(self) -> npt.NDArray[Any]:
        """The linear weights `w` by feature id: `[num_features]`; zeros without a linear term."""
        self._require_slots()
        if self.linear_weights is None:
            return np.zeros(self.num_features, self.variable_dtype)
        settle([self.linear_weights])
        return self.linear_weights.numpy()[self.slots.numpy()]

    def assign_linear(self, feature_ids: npt.ArrayLike, weights: npt.ArrayLike) -> None:
        """Set the linear weights `w_i` of some features.

        Args:
            feature_ids: Ints `[n]`, none twice.
            weights: Finite numbers `[n]`.

        Raises:
            TypeError: The ids are not integers.
            ValueError: The layer has no linear term, an id is out of range or there twice, shapes do not fit, or a
                number is not finite.
        """
        self._require_slots()
        if self.linear_weights is None:
            raise ValueError(f"{self.name} has no linear term (use_linear=False)")
        settle([self.linear_weights])
        ids = distinct_ids(feature_ids, self.num_features)
        _assign_rows(self.linear_weights, self.slots.numpy()[ids], finite_array(weights, (ids.size,), "weights"))

    def bias(self) -> float:
        """The bias `b`; 0 without one."""
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

    def dependent_loss_weights(self, default: float) -> tuple[float, ...]:
        """Weights of the lower losses of levels `1 … m−1`; `default` for `"auto"`, zeros in mode `"upper"`."""
        if self.dependent_gradient == "upper":
            return (0.0,) * (self.num_levels - 1)
        if isinstance(self.dependent_loss_weight, str):
            return (default,) * (self.num_levels - 1)
        return self.dependent_loss_weight

    def get_config(self) -> dict[str, Any]:
        """Options, ranks, level sizes and a fingerprint. Levels of single features are in the slot map, a weight."""
        config = super().get_config()
        sizes = self._sizes.get_config()
        if self.built and self._slots_are_set:
            # set_weights may have brought the slot map of another plan of the same sizes.
            sizes["fingerprint"] = fingerprint_of_slots(self.slots.numpy())
        serialize = keras.saving.serialize_keras_object
        config.update(
            plan=sizes,
            use_linear=self.use_linear,
            use_bias=self.use_bias,
            factors_initializer=[serialize(initializer) for initializer in self.factors_initializers],
            linear_initializer=serialize(self.linear_initializer),
            factors_l2=self.factors_l2,
            factors_l2_scope=self.factors_l2_scope,
            linear_l2=self.linear_l2,
            dependent_gradient=self.dependent_gradient,
            dependent_loss_weight=self.dependent_loss_weight,
            max_dense_rows=self.max_dense_rows,
            seed=self.seed,
        )
        return config

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> RaFMLayer:
        """A layer whose tables have the right shapes. It raises when called until its weights are set."""
        config = dict(config)
        return cls(PlanSizes(**config.pop("plan")), **config)

    def set_weights(self, weights: Sequence[npt.ArrayLike]) -> None:
        """Set all weights; a layer that was never called creates its tables first."""
        self.build()
        settle(self.variables)
        super().set_weights(weights)

    def get_weights(self) -> list[npt.NDArray[Any]]:
        """All weights, the decay that waits on idle rows done."""
        settle(self.variables)
        return super().get_weights()

    def save_own_variables(self, store: Any) -> None:
        """Write the tables, the decay that waits on idle rows done."""
        settle(self.variables)
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Load the tables and check that they belong to this layer's plan.

        Raises:
            ValueError: The stored slot map is of another plan.
        """
        settle(self.variables)
        super().load_own_variables(store)
        self._slots_are_set = False
        self._require_slots()

    def _terms(self, inputs: Any, head: int) -> tuple[tf.Tensor, list[LevelTerms], tf.Tensor | None]:
        """`b + w·x` (`[B]`), the terms of every level, and the L2 penalty over the batch's rows if that is the scope.

        Args:
            inputs: Any kind of input.
            head: Slots whose tables are read whole.
        """
        self._require_slots()
        dtype = "float64" if self.variable_dtype == "float64" else "float32"
        found = occurrences(inputs, self.num_features, dtype, where=self.name)
        # Read here and not inside a branch of the graph, where Keras would overlook it when it exports a model.
        slots = tf.convert_to_tensor(self.slots.value)
        reads = find_reads(found, slots, self.level_sizes, head, where=self.name)
        penalties = []

        def look_up(table: keras.Variable, rows: tf.Tensor | None, l2: float) -> tf.Tensor:
            if rows is None:
                return tf.cast(tf.convert_to_tensor(table.value), dtype)
            found_rows = _look_up(table, declare_distinct(rows), dtype)
            if self.factors_l2_scope == "batch" and l2:
                penalties.append(l2 * tf.reduce_sum(tf.square(found_rows)))
            return found_rows

        # The same occurrences read all tables of one range of slots, and its part of `w` if it is that of a free table.
        ranges = ranges_of_slots(self.level_sizes)
        tables_of_range: dict[tuple[int, int], list[tuple[str, int]]] = {range_: [] for range_ in ranges}
        for index, (_, size, above) in enumerate(self._sizes.levels_with_next()):
            tables_of_range[above, size].append(("free", index))
            if index < self.num_levels - 1:
                tables_of_range[0, above].append(("dependent", index))
        weights_of_range: dict[tuple[int, int], tf.Tensor] = {}
        if self.linear_weights is not None:
            weights = look_up(self.linear_weights, reads.slots, self.linear_l2)
            free_ranges = [(above, size) for _, size, above in reversed(self._sizes.levels_with_next())]
            counts = {range_: part.num_rows for range_, part in zip(ranges, reads.ranges, strict=True)}
            parts = [weights] if self.num_levels == 1 else tf.split(weights, [counts[range_] for range_ in free_ranges])
            weights_of_range = dict(zip(free_ranges, parts, strict=True))

        linear = []
        sums: dict[tuple[str, int], TableSums] = {}
        for (range_, keys), part in zip(tables_of_range.items(), reads.ranges, strict=True):
            rows = []
            for kind, index in keys:
                table = (self.free_tables if kind == "free" else self.dependent_tables)[index]
                rows.append(look_up(table, part.rows, self.factors_l2[index]))
            its_sums, its_linear = sum_tables(part, reads.num_samples, rows, weights_of_range.get(range_))
            sums.update(zip(keys, its_sums, strict=True))
            if its_linear is not None:
                linear.append(its_linear)
        levels = [LevelSums(*sums["free", index], *sums.get(("dependent", index), ())) for index in range(self.num_levels)]
        terms = interactions.terms_of_levels(levels, self.dependent_gradient)
        linear_part = total(linear) if linear else tf.zeros([reads.num_samples], dtype)
        if self.bias_weight is not None:
            linear_part += tf.cast(self.bias_weight.value, dtype)
        return linear_part, terms, total(penalties) if penalties else None

    def _report_level_scores(self, linear: tf.Tensor, levels: list[LevelTerms]) -> None:
        if self.num_levels == 1:
            return
        # Not in the compute dtype: small differences between the scores vanish in float16.
        scores = interactions.imitating_scores(linear, levels)
        recording = active_recording()
        if recording is not None:
            recording[self.name] = [s[:, None] for s in scores]
            return
        weights = self.dependent_loss_weights(DEFAULT_SQUARED_ERROR_WEIGHT)
        for weight, (level_score, next_score) in zip(weights, itertools.pairwise(scores), strict=True):
            if weight:
                squares = tf.square(tf.stop_gradient(next_score) - level_score)
                # A replica may get none of the samples of a last batch, and the mean of none is NaN.
                mean = tf.math.divide_no_nan(tf.reduce_sum(squares), tf.cast(tf.size(squares), squares.dtype))
                self.add_loss(_as_loss(weight * mean))

    def _as_output(self, scores: tf.Tensor) -> tf.Tensor:
        return tf.cast(scores, self.compute_dtype)[:, None]

    def _head_for(self, inputs: Any) -> int:
        """The slots whose tables are read whole in this graph of a training step; tells optimizers."""
        if self._head_is_fixed or self._head == 0:
            return self._head
        head, batch_size = self._head, expected_batch_size()
        ids = inputs["ids"] if isinstance(inputs, Mapping) else inputs
        shape = tf.TensorShape(None if isinstance(ids, tf.SparseTensor) else getattr(ids, "shape", None))
        num_fields = shape[1] if shape.rank == 2 else None
        if batch_size is not None and num_fields is not None:
            head = head_size(self.level_sizes, min(head, batch_size * num_fields // _OCCURRENCES_PER_DENSE_ROW))
        if head > self._declared_head and not tf.distribute.has_strategy():
            settle(self.variables)  # reading whole tables does without what waits on rows
        self._declare_reads(head)
        return head

    def _declare_reads(self, head: int) -> None:
        """Tell optimizers how each table is read in training."""

        def declare(table: keras.Variable, start: int, end: int) -> None:
            if end <= head:
                declare_read_whole(table, always=self._head_is_fixed)
            else:
                declare_read_by_rows(table, with_others=start < head)

        self._declared_head = head
        if self.linear_weights is not None:
            declare(self.linear_weights, 0, self.num_features)
        for index, (_, size, above) in enumerate(self._sizes.levels_with_next()):
            declare(self.free_tables[index], above, size)
            if index < self.num_levels - 1:
                declare(self.dependent_tables[index], 0, above)

    def _range_of_level(self, level: int) -> tuple[int, int]:
        """The end and the start of the slots of a level, whose tables are settled for a look at them."""
        if level not in range(1, self.num_levels + 1):
            raise ValueError(f"`level` must be in 1 … {self.num_levels}. Received: level={level}")
        self._require_slots()
        settle(self.variables)
        return self._sizes.levels_with_next()[level - 1][1:]

    def _feature_of_slot(self) -> npt.NDArray[np.int32]:
        slots = self.slots.numpy()
        features = np.empty_like(slots)
        features[slots] = np.arange(slots.size, dtype=slots.dtype)
        return features

    def _require_slots(self) -> None:
        """A layer made from a config has no slot map until its weights are set: seen here once, then remembered."""
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
                f"The weights given to {self.name} are of another RankPlan: its slot map has the fingerprint "
                f"{fingerprint_of_slots(slots)}, the config {self._sizes.fingerprint}"
            )
        self._slots_are_set = True

    def _one_initializer_per_level(self, given: Any) -> tuple[keras.initializers.Initializer, ...]:
        if given is None:
            given = keras.initializers.RandomNormal(stddev=0.01)
        if not isinstance(given, (list, tuple)):
            given = [given] * self.num_levels
        if len(given) != self.num_levels:
            raise ValueError(
                f"`factors_initializer` must be one initialiser or one per level ({self.num_levels}). "
                f"Received: {len(given)}"
            )
        return tuple(keras.initializers.get(initializer) for initializer in given)

    def _seeded(self, initializer: keras.initializers.Initializer, table: int) -> Callable[..., tf.Tensor]:
        """A copy that draws numbers of its own: equal seeds would give tables of one shape equal rows."""
        config = initializer.get_config() if isinstance(initializer, keras.initializers.Initializer) else {}
        if "seed" not in config:
            return initializer
        base = config["seed"] if self.seed is None else self.seed
        if isinstance(base, int):
            config["seed"] = int(np.random.SeedSequence([base % 2**64, table]).generate_state(1)[0] >> 1)
        elif base is not None:
            return initializer  # a keras.random.SeedGenerator moves on by itself, a copy of it would start again
        return _in_graph(initializer.__class__.from_config(config))


class _L2(keras.regularizers.L2):
    """In Keras' default float dtype, which a compiled loss has, whatever the dtype of the table."""

    def __call__(self, x: Any) -> tf.Tensor:
        return _as_loss(super().__call__(x))


def _l2(factor: float) -> keras.regularizers.Regularizer | None:
    return _L2(factor) if factor else None


def _as_loss(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(value, keras.config.floatx())


def _in_graph(initializer: keras.initializers.Initializer) -> Callable[..., tf.Tensor]:
    """The same numbers from one graph, which holds two arrays of the size of a table at a time where Keras holds three."""

    def initialize(shape: Any, dtype: Any = None) -> tf.Tensor:
        if math.prod(shape) * tf.as_dtype(dtype).size < _SMALL_TABLE_BYTES:  # making a graph takes tens of milliseconds
            return initializer(shape, dtype=dtype)
        return tf.function(lambda: initializer(shape, dtype=dtype), autograph=False)()

    return initialize


def _slots_initializer(slots: npt.NDArray[np.int32] | None) -> Callable[..., tf.Tensor]:
    def initialize(shape: Any, dtype: Any = None) -> tf.Tensor:
        return tf.fill(shape, tf.constant(_UNSET_SLOT, dtype)) if slots is None else tf.constant(slots, dtype)

    return initialize


def _keras_infers_shapes() -> bool:
    """Whether Keras runs an enclosing layer in a graph that is thrown away, as when it loads one: weights come later."""
    return not tf.executing_eagerly() and tf.compat.v1.get_default_graph().name.startswith("scratch_graph")


def _look_up(table: keras.Variable, rows: tf.Tensor, dtype: str) -> tf.Tensor:
    """Rows of a table, as they are after the decay that waits on them: `[r, …]`."""
    values = table.value
    if tf.distribute.get_strategy().num_replicas_in_sync > 1 and active_recording() is None:
        values = with_dense_gradient(values)
    if is_read_whole(table):
        # Nothing waits on its rows. A variable that was once read by rows is copied whenever it is read whole.
        return tf.cast(read_rows(tf.convert_to_tensor(values), rows), dtype)
    found = read_rows(values, rows)
    decay = None if is_serving() else idle_decay_of(table)
    if decay is not None:
        found = decayed(found, decay.pending(rows, found.dtype))
    return tf.cast(found, dtype)


def _assign_rows(variable: keras.Variable, rows: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
    table = variable.numpy()
    table[rows] = values
    variable.assign(table)
