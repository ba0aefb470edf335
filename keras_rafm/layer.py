"""`RaFMLayer`: the score of a Rank-Aware Factorization Machine as a Keras layer."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from keras_rafm.checks.arguments import integer_or_auto, one_of, weights_per_level
from keras_rafm.rank_plan import PlanSizes, RankPlan
from keras_rafm.rows.idle_decay import settle
from keras_rafm.score import interactions
from keras_rafm.score.batch_sums import LINEAR
from keras_rafm.score.call_context import call_context, current_context
from keras_rafm.score.interactions import DependentGradient, LevelTerms, total
from keras_rafm.score.lookup import head_size
from keras_rafm.score.occurrences import check_symbolic_inputs, occurrences
from keras_rafm.score.table_layer import TableLayer

#: `dependent_loss_weight="auto"` for squared differences, measured on validation data: see benchmarks/README.md.
DEFAULT_SQUARED_ERROR_WEIGHT = 1.0

# What `max_dense_rows="auto"` means, by measurement: see benchmarks/README.md.
_MOST_DENSE_ROWS = 8192
_OCCURRENCES_PER_DENSE_ROW = 2


@keras.saving.register_keras_serializable(package="keras_rafm")
class RaFMLayer(TableLayer):
    """Score of a Rank-Aware Factorization Machine (Chen, Zheng, Wang, Ma, Huang, ICML 2019).

    `ŷ = b + Σ_i w_i x_i + Σ_{i<j} <v_i^(q), v_j^(q)> x_i x_j` with `q = min(k_i, k_j)`: every pair of features interacts at
    the highest rank that both can afford. Only active factors are stored: level `k` has a table `free_k` of
    `|F_k| − |F_{k+1}|` rows and a table `dependent_k` of `|F_{k+1}|` rows, both `D_k` wide. With one level, the layer is a
    plain FM.

    In a `keras_rafm.RaFMModel`, the lower losses of the bi-level update follow the compiled loss. In any other model, the
    layer adds them itself in training (`add_loss`): for each level, the mean squared difference to the next level's score.

    Inputs are one of:
        - integer ids `[B, F]` (int32 or int64; id −1 is padding), dense or `tf.RaggedTensor`;
        - `{"ids": ids, "values": values}`, with values `x_i` of the same shape, both dense or both ragged;
        - a `tf.SparseTensor` `[B, num_features]` (column = id, value = value) in row-major order.

    An id that occurs twice in a sample counts as two occurrences. A `keras.Model` casts its inputs to the declared dtype
    before any layer sees them, so the layer notices float, NaN or too large ids only in a direct call. `RaFMModel` checks
    its inputs before the cast.

    Values should be about 1 in size. The score is computed from squares of sums, so one value of 1,000 among values of 1
    costs three of the seven digits of float32. `dtype="float64"` has digits to spare.

    Output: `[B, 1]` in the compute dtype. Sums are computed in float32 (float64 under a float64 policy) whatever the
    compute dtype is. Tables are stored in the variable dtype.

    Args:
        plan: The `RankPlan`: the level of every feature and the rank of every level.
        use_linear: Whether there are linear weights `w`.
        use_bias: Whether there is a bias `b`.
        factors_initializer: Initialiser of the factor tables, or a sequence with one per level. Default: normal with a
            standard deviation of 0.01. Every table draws its own numbers, even from one initialiser with a seed.
        linear_initializer: Initialiser of `w`.
        factors_l2: Adds `factors_l2 · Σ v²` to the loss; a number or a sequence with one per level. Meant for optimizers
            without weight decay of their own. The decay of `keras_rafm.optimizers.LazyAdam` costs less.
        factors_l2_scope: `"tables"`: the sum is over whole tables. This regularises every row in every step, which makes
            RaFM accurate, but its gradient is as large as the tables. `"batch"`: the sum is over the distinct rows of the
            batch. This is cheap, but the loss that `evaluate` reports then depends on the batch size, and on several
            replicas it is the mean over their batches.
        linear_l2: Adds `linear_l2 · Σ w²` to the loss, over the same scope.
        dependent_gradient: Which loss trains the dependent factors: `"both"` (the upper loss through `U_k·T_k` and the
            lower loss, as in the authors' program), `"lower"` (the lower loss alone: strict bi-level optimisation) or
            `"upper"` (the upper loss alone: no imitation).
        dependent_loss_weight: Weight of the lower losses: a non-negative number, a sequence with one per level
            `1 … m−1`, or `"auto"`, a measured value for the family of the compiled loss.
        max_dense_rows: Training reads the tables of the highest levels whole and gives them dense gradients: as many levels
            as have at most this many features together. From the other tables it looks up the rows of the batch, and their
            gradients are `tf.IndexedSlices`. Optimizers update a small table as a whole faster than many of its rows, but
            the idle rows of such a table take part in every step, as with Keras's optimizers: under `LazyAdam` they keep
            moving by their momentum. `"auto"` means 8192, and less in `RaFMModel.fit` if a batch has fewer than two
            occurrences per row. For that `fit` must know the batch size: it is known for arrays, for datasets with a static
            batch dimension, and for unmodified keras_rafm datasets. `fit` decides when it first builds a graph. All tables
            are read by rows if `factors_l2_scope="batch"` is in effect or variables have 16 bits.
        seed: Integer from which the initial values of all tables are drawn, or `None`.
        **kwargs: `name`, `dtype` and `trainable` of `keras.layers.Layer`.

    Raises:
        TypeError: `plan` is not a `RankPlan`.
        ValueError: An option is not one of those above, or a sequence has the wrong length.
    """

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
        super().__init__(
            plan,
            use_linear=use_linear,
            use_bias=use_bias,
            factors_initializer=factors_initializer,
            linear_initializer=linear_initializer,
            factors_l2=factors_l2,
            factors_l2_scope=factors_l2_scope,
            linear_l2=linear_l2,
            seed=seed,
            **kwargs,
        )
        # Products with CSR matrices do not compile under XLA.
        self.supports_jit = False
        self.dependent_gradient = one_of(dependent_gradient, ("both", "lower", "upper"), "dependent_gradient")
        #: `"auto"`, or one weight per level `1 … m−1`.
        self.dependent_loss_weight: str | tuple[float, ...] = "auto"
        if not (isinstance(dependent_loss_weight, str) and dependent_loss_weight == "auto"):
            self.dependent_loss_weight = weights_per_level(
                dependent_loss_weight, plan.num_levels - 1, "dependent_loss_weight"
            )
        self.max_dense_rows = integer_or_auto(max_dense_rows, "max_dense_rows", at_least=0)
        has_penalty = bool(any(self.factors_l2) or self.linear_l2)
        # Whole tables decay in every step. In 16-bit variables the decay of one step is lost in rounding.
        by_rows = tf.as_dtype(self.variable_dtype).size < 4 or (self.factors_l2_scope == "batch" and has_penalty)
        at_most = _MOST_DENSE_ROWS if self.max_dense_rows == "auto" else self.max_dense_rows
        #: The number of slots whose tables training reads whole if batches are large.
        self._largest_head = 0 if by_rows else head_size(plan.level_sizes, at_most)
        # A penalty over whole tables has a gradient as large as the tables in any case.
        self._head_is_fixed = self.max_dense_rows != "auto" or has_penalty
        self._declared_head = self._largest_head

    def build(self, input_shape: Any = None) -> None:
        """Create all tables. Their shapes depend on the plan alone, so `input_shape` is not needed."""
        if not self.built:
            super().build(input_shape)
            self.declare_reads(self._declared_head, always=self._head_is_fixed)

    def call(self, inputs: Any, training: bool | None = None) -> tf.Tensor:
        """Return the score `ŷ_m`: float `[B, 1]`.

        Raises:
            TypeError: Ids are not int32 or int64, or values are not numbers.
            ValueError: Shapes do not fit, or the weights of this clone have not been set.
            tf.errors.InvalidArgumentError: An id is outside `[0, num_features)` and not −1, or a value is not finite.
        """
        served_score = current_context().served_score
        served = None if served_score is None else served_score(self, inputs)
        if served is not None:
            return self._as_output(served)
        with contextlib.nullcontext() if training else call_context(may_be_saved=True):
            linear, levels, penalty = self._terms(inputs, self._head_of_step(inputs) if training else 0)
        if penalty is not None:
            self.add_loss(_as_loss(penalty))
        if training and self.num_levels > 1:
            self._report_level_scores(linear, levels)
        return self._as_output(interactions.score(linear, levels))

    def compute_output_spec(self, inputs: Any, training: bool | None = None) -> keras.KerasTensor:
        """Return shape and dtype of the score, for every kind of input."""
        del training
        check_symbolic_inputs(inputs, self.num_features, where=self.name)
        first = keras.tree.flatten(inputs)[0]
        return keras.KerasTensor((first.shape[0], 1), dtype=self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, int]:
        """Return `(B, 1)`, given the shape of the ids or a mapping of shapes."""
        shape = input_shape["ids"] if isinstance(input_shape, Mapping) else input_shape
        return (shape[0], 1)

    def level_scores(self, inputs: Any) -> tf.Tensor:
        """Return the level scores `ŷ_1 … ŷ_m` of a batch: float `[B, m]`.

        `ŷ_k` is the model cut off at rank `D_k`; `ŷ_1` is a plain FM of rank `D_1` ("RaFM-low").

        Args:
            inputs: Any kind of input that the layer takes, as tensors or NumPy arrays.

        Raises:
            TypeError, ValueError, tf.errors.InvalidArgumentError: See `call`.
        """
        linear, levels, _ = self._terms(inputs, head=0)
        return tf.concat([self._as_output(score) for score in interactions.level_scores(linear, levels)], axis=1)

    def dependent_loss_weights(self, default: float) -> tuple[float, ...]:
        """Return the weights of the lower losses of levels `1 … m−1`: zeros if `dependent_gradient` is `"upper"`.

        Args:
            default: The weight that `dependent_loss_weight="auto"` means.
        """
        if self.dependent_gradient == "upper":
            return (0.0,) * (self.num_levels - 1)
        if isinstance(self.dependent_loss_weight, str):
            return (default,) * (self.num_levels - 1)
        return self.dependent_loss_weight

    def get_config(self) -> dict[str, Any]:
        """Return options, ranks, level sizes and a fingerprint. The level of each feature is in the slot map, a weight."""
        config = super().get_config()
        serialize = keras.saving.serialize_keras_object
        config.update(
            plan=self._config_of_plan(),
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
        """Make a layer whose tables have the right shapes. It raises when called until its weights are set."""
        config = dict(config)
        return cls(PlanSizes(**config.pop("plan")), **config)

    def _terms(self, inputs: Any, head: int) -> tuple[tf.Tensor, list[LevelTerms], tf.Tensor | None]:
        """Return `b + w·x` (`[B]`), the terms of every level, and the L2 penalty over the batch's rows or `None`.

        Args:
            inputs: Any kind of input.
            head: The number of slots whose tables are read whole.
        """
        dtype = "float64" if self.variable_dtype == "float64" else "float32"
        penalties = []

        def look_up(name: str, rows: tf.Tensor | None) -> tf.Tensor:
            values = self.look_up(name, rows, dtype)
            l2 = self._l2_over_batch(name)
            if l2 and rows is not None:
                penalties.append(l2 * tf.reduce_sum(tf.square(values)))
            return values

        batch = occurrences(inputs, self.num_features, dtype, where=self.name)
        sums = self.sum_batch(batch, look_up, head=head)
        levels = self.form.terms(sums.tables, self.dependent_gradient)
        linear = tf.zeros([batch.num_samples], dtype) if sums.linear is None else sums.linear
        if self.bias_weight is not None:
            linear += tf.cast(self.bias_weight.value, dtype)
        return linear, levels, total(penalties) if penalties else None

    def _l2_over_batch(self, name: str) -> float:
        if self.factors_l2_scope != "batch":
            return 0.0
        if name == LINEAR:
            return self.linear_l2
        return next(self.factors_l2[table.level - 1] for table in self.form.tables if table.name == name)

    def _report_level_scores(self, linear: tf.Tensor, levels: list[LevelTerms]) -> None:
        """Hand the level scores to the training step that collects them, or add the lower losses here."""
        # Not in the compute dtype: small differences between the scores vanish in float16.
        scores = interactions.imitating_scores(linear, levels)
        collected = current_context().level_scores
        if collected is not None:
            collected[self.name] = [score[:, None] for score in scores]
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

    def _head_of_step(self, inputs: Any) -> int:
        """Return the number of slots whose tables this graph of a training step reads whole, and tell optimizers."""
        if self._head_is_fixed or self._largest_head == 0:
            return self._largest_head
        head, batch_size = self._largest_head, current_context().batch_size
        ids = inputs["ids"] if isinstance(inputs, Mapping) else inputs
        shape = tf.TensorShape(None if isinstance(ids, tf.SparseTensor) else getattr(ids, "shape", None))
        num_fields = shape[1] if shape.rank == 2 else None
        if batch_size is not None and num_fields is not None:
            head = head_size(self.level_sizes, min(head, batch_size * num_fields // _OCCURRENCES_PER_DENSE_ROW))
        if head > self._declared_head and not tf.distribute.has_strategy():
            settle(self.variables)  # whole tables are read without looking at pending decay
        self._declared_head = head
        self.declare_reads(head, always=False)
        return head


def _as_loss(value: tf.Tensor) -> tf.Tensor:
    return tf.cast(value, keras.config.floatx())
