"""`TensorBoard`: Keras' callback, which also shows what the levels of every `RaFMLayer` do."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorboard.plugins.custom_scalar import layout_pb2  # type: ignore[import-untyped]
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.histogram import metadata as histogram_metadata  # type: ignore[import-untyped]
from tensorboard.plugins.projector import ProjectorConfig  # type: ignore[import-untyped]

from keras_rafm.arguments import integer
from keras_rafm.data.samples import Samples
from keras_rafm.downstream import find_downstreams, nodes_above
from keras_rafm.frequency_buckets import (
    FrequencyLoss,
    bucket_name,
    bucket_of_counts,
    checked_counts,
    loss_by_bucket,
    rarest_counts,
)
from keras_rafm.idle_decay import settle
from keras_rafm.imitation import imitations_of, names_of_outputs
from keras_rafm.input_checks import check_integer_inputs
from keras_rafm.layer import RaFMLayer
from keras_rafm.occurrences import occurrences
from keras_rafm.rank_plan import RankPlan
from keras_rafm.row_access import read_rows

_ROWS_AT_ONCE = 4096
_BYTES_AT_ONCE = 2**24
_FEATURES_AT_ONCE = 2**22
_HISTOGRAM_BUCKETS = 30
_UPPER_AND_LOWER = "Upper loss (epoch_loss) and lower losses (levels/dependent_loss: a level imitates the next one)"
_LEVEL_LOSSES = "Loss of the model cut off at each level (levels/loss), on the analysis data"


class TensorBoard(keras.callbacks.TensorBoard):
    """As `keras.callbacks.TensorBoard`, plus what the levels of every `RaFMLayer` of the model do.

    Every level has a run of its own (`level_1_rank_64`, …), so that a chart shows the levels as lines beside each other.
    With several `RaFMLayer`s the name of the layer and a `/` stand in front of each tag. Steps are epochs, as with Keras.

    | where | tag | what |
    |---|---|---|
    | Text, run `train` | `plan` | ranks, features, share of occurrences, factors and size of each level |
    | Text, run `train` | `samples_by_frequency` | how many rows of the analysis data each frequency bucket has |
    | Custom Scalars | | upper and lower losses in one chart, the losses of all levels in another |
    | Scalars | `levels/dependent_loss` | lower loss in training: Keras' `epoch_dependent_loss_k`, beside the next ones |
    | | `levels/loss` | compiled loss of the model with `ŷ_k` in place of `ŷ_m` |
    | | `levels/correlation_with_next_level` | Pearson correlation of `ŷ_k` and `ŷ_{k+1}` |
    | | `levels/mean_absolute_difference_to_next_level` | mean of `abs(ŷ_k − ŷ_{k+1})` |
    | | `log_loss_by_frequency/1-3`, … | log-loss for `ŷ_k` of samples whose rarest feature occurs 1-3 times in training |
    | | `rmse_by_frequency/1-3`, … | instead of it for models without a cross-entropy: root of the mean squared error |
    | Histograms, Distributions | `norms/free_factors`, `norms/dependent_factors` | lengths `abs(v_i^(k))` of the rows |
    | | `linear_weights` (run `train`) | `w` |
    | Projector, run `train` | | factors of the most frequent features of each level |

    Losses and scores are those of inference (no dropout), without regularisation, on the analysis data. They are computed
    in every `analysis_freq`-th epoch, from the first one on, and after the last one. An epoch's analysis costs two passes
    over the tables and one over the analysis data.

    Buckets of frequency are those of `keras_rafm.frequency_buckets`. With several outputs below a score, its losses by
    frequency have the name of the output in their tags. Outputs whose labels have another number of elements are left out.

    Args:
        log_dir: Directory for the logs.
        analysis_data: Validation data: `Samples`, a tuple `(inputs, labels)` of arrays or tensors (in the structures that
            the model takes), or a `tf.data.Dataset` of batches of such. `None` leaves out what needs it. The model must
            be functional or sequential then, with every `RaFMLayer` called once, outside of nested models.
        analysis_samples: At most so many rows of it are used: of arrays at even distances, of a dataset the first ones.
        analysis_freq: In every how many epochs.
        counts: Occurrences of each feature in the training data: numbers `[num_features]`, or the `RankPlan` that was made
            from them (a layer forgets the counts of its plan); for several layers also a mapping from the layer's name to
            one of these. `None` leaves out losses by frequency and counts.
        feature_names: Names of the features: a sequence with one per id, or a function of an id; for several layers also
            a mapping from the layer's name to one of these. Default: the ids.
        num_embedded: So many features of each level at most are written for the projector, the most frequent ones: of
            features of the level itself with their free factors, and (up to a half, or more where there are less of these)
            of features of higher levels with their dependent factors. 0 for none.
        **kwargs: Options of `keras.callbacks.TensorBoard`.

    Raises:
        TypeError: A number is not an integer, or the kind of `analysis_data` or `feature_names` is not one of those above.
        ValueError: A number is too small. When `fit` starts: the model has no `RaFMLayer`; counts, names or analysis data
            do not fit it; or it can't be cut at its scores.

    Example:

    ```python
    board = keras_rafm.callbacks.TensorBoard("logs/frappe", analysis_data=validation, counts=plan)
    model.fit(train, validation_data=validation_batches, epochs=20, callbacks=[board])
    # Then: tensorboard --logdir logs
    ```
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str] = "logs",
        *,
        analysis_data: Any = None,
        analysis_samples: int = 16384,
        analysis_freq: int = 1,
        counts: Any = None,
        feature_names: Any = None,
        num_embedded: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(log_dir=log_dir, **kwargs)
        if not (analysis_data is None or isinstance(analysis_data, (Samples, tf.data.Dataset)) or _is_pair(analysis_data)):
            raise TypeError(
                "`analysis_data` must be keras_rafm.data.Samples, a tuple (inputs, labels) or a tf.data.Dataset of such. "
                f"Received: {_kind(analysis_data)}"
            )
        self.analysis_data = analysis_data
        self.analysis_samples = integer(analysis_samples, "analysis_samples", at_least=1)
        self.analysis_freq = integer(analysis_freq, "analysis_freq", at_least=1)
        self.counts = counts
        self.feature_names = feature_names
        self.num_embedded = integer(num_embedded, "num_embedded", at_least=0)
        self._layers: list[_ShownLayer] = []
        self._scores: _LevelScores | None = None
        self._described: keras.Model | None = None
        self._epoch: int | None = None
        self._analysed_epoch: int | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that everything fits, describe the plan."""
        super().on_train_begin(logs)
        self._epoch = self._analysed_epoch = None
        found = [layer for layer in self.model._flatten_layers(include_self=False) if isinstance(layer, RaFMLayer)]
        if not found:
            raise ValueError(f"keras_rafm.callbacks.TensorBoard needs a model with a RaFMLayer. {self.model.name} has none")
        counts = _per_layer(self.counts, found, "counts")
        names = _per_layer(self.feature_names, found, "feature_names")
        self._layers = [
            _ShownLayer(layer, f"{layer.name}/" if len(found) > 1 else "", counts[layer.name], names[layer.name])
            for layer in found
        ]
        self._scores = None
        if self.analysis_data is not None:
            self._scores = _LevelScores(self.model, found, self.analysis_data, self.analysis_samples)
        if self._described is not self.model:
            self._described = self.model
            with self.summary.record_if(True):
                self._describe()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Write what Keras writes, and the analysis if it is due."""
        # With update_freq="batch" or a number Keras would write the summaries of an epoch only if its last batch was due.
        with self.summary.record_if(True):
            super().on_epoch_end(epoch, logs)
            self._write_dependent_losses(epoch, logs or {})
        self._epoch = epoch
        # EarlyStopping may put back the weights of another epoch when training ends: what is the last one as far as can be
        # told is analysed now.
        is_last = self.model.stop_training or epoch + 1 == (self.params or {}).get("epochs")
        if epoch % self.analysis_freq == 0 or is_last:
            self._analyse(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        """Write the analysis of the last epoch if training was stopped after it."""
        if self._epoch is not None and self._epoch != self._analysed_epoch:
            self._analyse(self._epoch)
        super().on_train_end(logs)
        self._scores = None  # the sample takes memory

    def _run(self, name: str) -> Any:
        """The writer of a run; Keras closes it with its own."""
        if name == "train":
            return self._train_writer
        if name not in self._writers:
            self._writers[name] = self.summary.create_file_writer(os.path.join(self.log_dir, name))
        return self._writers[name]

    def _describe(self) -> None:
        with self._run("train").as_default(step=0):
            _write_layout()
            for shown in self._layers:
                self.summary.text(
                    f"{shown.prefix}plan", shown.table(), description=f"What the levels of {shown.layer.name} cost"
                )
                if self._scores is not None and shown.counts is not None:
                    self.summary.text(
                        f"{shown.prefix}samples_by_frequency",
                        _table_of_buckets(self._scores.buckets(shown)),
                        description="Rows of the analysis data by the training count of their rarest feature",
                    )

    def _analyse(self, epoch: int) -> None:
        self._analysed_epoch = epoch
        for shown in self._layers:
            settle(shown.layer.variables)
        with self.summary.record_if(True):
            for shown in self._layers:
                self._write_norms(shown, epoch)
            if self._scores is not None:
                self._write_scores(self._scores, epoch)
        if self.num_embedded:
            _write_embeddings(os.path.join(self.log_dir, "train"), self._layers, self.num_embedded)
        for writer in self._writers.values():
            writer.flush()

    def _write_dependent_losses(self, epoch: int, logs: Mapping[str, Any]) -> None:
        for shown in self._layers:
            for level, rank in enumerate(shown.layer.ranks, start=1):
                value = logs.get(f"{shown.prefix.replace('/', '_')}dependent_loss_{level}")
                if value is not None:  # models other than RaFMModel have none
                    with self._run(_name_of_run(level, rank)).as_default(step=epoch):
                        about = "Mean loss of this level's scores against those of the next level, in training"
                        self.summary.scalar(f"{shown.prefix}levels/dependent_loss", value, description=about)

    def _write_norms(self, shown: _ShownLayer, epoch: int) -> None:
        layer = shown.layer
        for level, rank in enumerate(layer.ranks, start=1):
            with self._run(_name_of_run(level, rank)).as_default(step=epoch):
                _write_histogram(
                    f"{shown.prefix}norms/free_factors",
                    layer.free_tables[level - 1],
                    "Lengths of the free factors: of features of this level, each feature's own highest embedding",
                )
                if level < layer.num_levels:
                    _write_histogram(
                        f"{shown.prefix}norms/dependent_factors",
                        layer.dependent_tables[level - 1],
                        "Lengths of the dependent factors: what features of higher levels show to those of this level",
                    )
        if layer.linear_weights is not None:
            with self._run("train").as_default(step=epoch):
                _write_histogram(f"{shown.prefix}linear_weights", layer.linear_weights, "Linear weights w")

    def _write_scores(self, level_scores: _LevelScores, epoch: int) -> None:
        scalar = self.summary.scalar
        for shown, result in zip(self._layers, level_scores.compute(), strict=True):
            for index, rank in enumerate(shown.layer.ranks):
                outputs = result.outputs[index]
                loss = level_scores.compiled_loss(outputs)
                with self._run(_name_of_run(index + 1, rank)).as_default(step=epoch):
                    if loss is not None:
                        about = (
                            "Compiled loss on the analysis data, without regularisation, of the model cut off at a level"
                        )
                        scalar(f"{shown.prefix}levels/loss", loss, description=about)
                    if index + 1 < shown.layer.num_levels:
                        _write_agreement(f"{shown.prefix}levels/", *result.scores[:, index : index + 2].T)
                    if shown.counts is None:
                        continue
                    buckets = level_scores.buckets(shown)
                    for judged in level_scores.judged_outputs(result.reached, outputs):
                        for bucket in loss_by_bucket(
                            judged.labels, judged.outputs, buckets, judged.loss, judged.from_logits
                        ):
                            title = "Log-loss" if judged.loss == "log_loss" else "Root of the mean squared error"
                            scalar(
                                f"{shown.prefix}{judged.loss}_by_frequency/{judged.name}{bucket.name}",
                                bucket.loss,
                                description=f"{title} of the {bucket.num_samples:,} rows of the analysis data whose rarest "
                                f"feature occurs {bucket.name} times in the training data",
                            )


class _ShownLayer:
    """A layer, how its tags begin, and what is known about its features."""

    def __init__(self, layer: RaFMLayer, prefix: str, counts: Any, names: Any) -> None:
        where = f"{layer.name}: "
        if isinstance(counts, RankPlan):
            if counts.counts is None:
                raise ValueError(
                    f"{where}`counts` must be counts or a RankPlan made from counts. Received: {counts!r} without"
                )
            counts = counts.counts
        if not (names is None or callable(names)):
            if isinstance(names, str) or not (isinstance(names, (Sequence, np.ndarray))):
                raise TypeError(f"{where}`feature_names` must be a sequence or a function. Received: {_kind(names)}")
            if len(names) != layer.num_features:
                raise ValueError(
                    f"{where}`feature_names` must have one name per feature ({layer.num_features}). Received: {len(names)}"
                )
        layer.build()  # a subclassed model calls it in its first step only
        self.layer = layer
        self.prefix = prefix
        self._embedded: list[_Embedded] = []
        self.counts = None if counts is None else checked_counts(counts, layer.num_features, where)
        self._names: Callable[[int], Any] = names if callable(names) else str if names is None else names.__getitem__

    def slots_of(self, features: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Slots of some features: a copy of all of them may be large."""
        return read_rows(self.layer.slots.value, tf.constant(features, tf.int64)).numpy()

    @functools.cached_property
    def ranges(self) -> list[tuple[int, int, int]]:
        """`(D_k, |F_k|, |F_{k+1}|)` per level."""
        sizes = self.layer.level_sizes
        return list(zip(self.layer.ranks, sizes, (*sizes[1:], 0), strict=True))

    def name_of(self, feature: int) -> str:
        """Its name, on one line and without tabs."""
        return " ".join(str(self._names(feature)).split())

    def table(self) -> str:
        """Markdown: what `RankPlan.summary` prints."""
        layer = self.layer
        total, of_levels = None, []
        if self.counts is not None:
            # Few features are of higher levels: sums over F_k cost less than sums over levels.
            slots = layer.slots.numpy()
            sums = [self.counts[slots < size].sum(dtype=np.float64) for size in layer.level_sizes[1:]]
            total = float(self.counts.sum(dtype=np.float64))
            of_levels = [upper - lower for upper, lower in itertools.pairwise((total, *sums, 0.0))]
        rows = [("level", "rank", "features", "occurrences", "free factors", "dependent factors", "MB")]
        for level, (rank, size, above) in enumerate(self.ranges, start=1):
            share = f"{of_levels[level - 1] / total:.1%}" if total else "?"
            rows.append(
                (f"{level}", f"{rank}", f"{size - above:,}", share, *self._costs(rank * (size - above), rank * above))
            )
        free = sum(rank * (size - above) for rank, size, above in self.ranges)
        dependent = sum(rank * above for rank, _, above in self.ranges)
        everything = "100.0%" if total else ""
        rows.append(("**RaFM**", "", f"{layer.num_features:,}", everything, *self._costs(free, dependent)))
        for rank in dict.fromkeys((layer.ranks[-1], layer.ranks[0])):
            costs = self._costs(rank * layer.num_features, 0)
            rows.append((f"plain FM of rank {rank}", f"{rank}", f"{layer.num_features:,}", "", *costs))
        about = (
            f"Levels of `{layer.name}`: features, their share of the occurrences in the training data, and what they cost. "
            "Free factors are each feature's own; dependent ones are what features of higher levels show to this level."
        )
        return f"{about}\n\n{_markdown(rows)}"

    def _costs(self, free: int, dependent: int) -> tuple[str, str, str]:
        size = tf.as_dtype(self.layer.variable_dtype).size
        return f"{free:,}", f"{dependent:,}", f"{size * (free + dependent) / 1e6:,.2f}"

    def embedded(self, at_most: int) -> list[_Embedded]:
        """The features that the projector shows, per level; found once."""
        if not self._embedded:
            for _, size, above in self.ranges:
                free = min(size - above, max(at_most - above, (at_most + 1) // 2))
                self._embedded.append(
                    _Embedded(self._most_frequent(0, above, at_most - free), self._most_frequent(above, size, free))
                )
        return self._embedded

    def _most_frequent(self, start: int, end: int, number: int) -> npt.NDArray[np.int64]:
        """Ids of the most frequent features in a range of slots, in falling order; those of low slots without counts."""
        best = np.zeros(0, np.int64)
        if min(number, end - start) == 0:
            return best
        slots = self.layer.slots.numpy()
        for first in range(0, slots.size, _FEATURES_AT_ONCE):
            part = slots[first : first + _FEATURES_AT_ONCE]
            features = np.concatenate([best, first + np.flatnonzero((part >= start) & (part < end))])
            values = -slots[features] if self.counts is None else self.counts[features].astype(np.float64)
            if features.size > number:
                kept = values >= np.partition(values, features.size - number)[features.size - number]
                features, values = features[kept], values[kept]
            best = features[np.lexsort((slots[features], -values))[:number]]
        return best


class _Embedded(NamedTuple):
    """Ids of the features, int64, of which the projector shows dependent and free factors of a level."""

    dependent: npt.NDArray[np.int64]
    free: npt.NDArray[np.int64]


class _Result(NamedTuple):
    """Of one layer: its `ŷ_1 … ŷ_m` float64 `[N, m]`, the model's flat outputs per level, and which depend on the score."""

    scores: npt.NDArray[np.float64]
    outputs: list[list[npt.NDArray[Any]]]
    reached: list[int]


class _Judged(NamedTuple):
    """An output whose loss is shown by frequency."""

    name: str
    labels: npt.NDArray[Any]
    outputs: npt.NDArray[Any]
    loss: FrequencyLoss
    from_logits: bool


class _LevelScores:
    """The level scores of every layer of a model on a sample of data, and the outputs with each in place of the score."""

    def __init__(self, model: keras.Model, layers: list[RaFMLayer], data: Any, at_most: int) -> None:
        self._model = model
        outputs = getattr(model, "outputs", None)  # neither a subclassed nor a sequential model that has no input has it
        if not outputs:
            raise ValueError(
                f"`analysis_data` needs a functional or sequential model. {model.name} is a {type(model).__name__} without "
                "`outputs`: leave `analysis_data` out."
            )
        try:
            self._downstreams = find_downstreams(outputs, layers)
        except ValueError as error:
            raise ValueError(f"`analysis_data` can't be used with {model.name}, leave it out: {error}") from error
        self._structures = []
        for downstream in self._downstreams:
            (arguments,) = (node.arguments for node in nodes_above(outputs) if node.operation is downstream.layer)
            self._structures.append(arguments.args[0] if arguments.args else arguments.kwargs["inputs"])
        wanted = [*keras.tree.flatten(self._structures), *outputs, *(t for d in self._downstreams for t in d.joining)]
        self._is_sequential = not hasattr(model, "input")
        self._values = keras.Model(model.inputs[0] if self._is_sequential else model.input, wanted)
        self._names = ["output"] if self._is_sequential else names_of_outputs(model)
        self._buckets: dict[str, npt.NDArray[np.int64]] = {}
        self._batches, self._labels = _sample(data, at_most, model)
        try:
            self._forward(self._batches[0])
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(f"`analysis_data` does not fit {model.name}: {error}") from error

    def compute(self) -> list[_Result]:
        """One result per layer."""
        batches = [self._forward(inputs) for inputs in self._batches]
        results = []
        for index, downstream in enumerate(self._downstreams):
            scores = np.concatenate([batch[index][0] for batch in batches]).astype(np.float64)
            by_level = [
                [np.concatenate(parts) for parts in zip(*outputs, strict=True)]
                for outputs in zip(*(batch[index][1] for batch in batches), strict=True)
            ]
            results.append(_Result(scores, by_level, downstream.outputs))
        return results

    def compiled_loss(self, outputs: list[npt.NDArray[Any]]) -> float | None:
        """What the model's loss is for these flat outputs; `None` if it was compiled without one."""
        loss = self._model._compile_loss
        if loss is None:
            return None
        predicted = outputs[0] if self._is_sequential else keras.tree.pack_sequence_as(self._model.output, outputs)
        if isinstance(predicted, (list, tuple)) and len(predicted) == 1:
            predicted = predicted[0]
        # With several outputs it keeps means of their losses, which the analysis must not enter.
        state = [variable.numpy() for variable in loss.variables]
        value = loss(self._labels, keras.tree.map_structure(tf.convert_to_tensor, predicted))
        for variable, kept in zip(loss.variables, state, strict=False):  # the first call makes them
            variable.assign(kept)
        return None if value is None else float(tf.reduce_mean(value))

    def judged_outputs(self, reached: list[int], outputs: list[npt.NDArray[Any]]) -> Iterator[_Judged]:
        """Those outputs that have a loss and labels of their shape."""
        imitations = imitations_of(self._model.loss, None, self._names)
        for index in reached:
            imitation, labels = imitations[index], self._labels_of(index)
            if imitation is None or labels is None or labels.size != outputs[index].size:
                continue
            name = f"{self._names[index]}/" if len(reached) > 1 else ""
            from_logits = imitation.is_cross_entropy and bool(imitation.loss.from_logits)
            loss: FrequencyLoss = "log_loss" if imitation.is_cross_entropy else "rmse"
            yield _Judged(name, labels, outputs[index], loss, from_logits)

    def buckets(self, shown: _ShownLayer) -> npt.NDArray[np.int64]:
        """The frequency bucket of every row: int64 `[N]`."""
        layer, counts = shown.layer, shown.counts
        assert counts is not None
        if layer.name not in self._buckets:
            index = next(i for i, downstream in enumerate(self._downstreams) if downstream.layer is layer)
            ids = [_padded_ids(self._layer_inputs(inputs)[index], layer) for inputs in self._batches]
            width = max(part.shape[1] for part in ids)
            ids = [np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=-1) for part in ids]
            self._buckets[layer.name] = bucket_of_counts(rarest_counts(np.concatenate(ids), counts))
        return self._buckets[layer.name]

    def _layer_inputs(self, inputs: Any) -> list[Any]:
        flat = self._values(inputs, training=False)
        return keras.tree.pack_sequence_as(self._structures, flat[: len(keras.tree.flatten(self._structures))])

    def _forward(self, inputs: Any) -> list[tuple[npt.NDArray[Any], list[list[npt.NDArray[Any]]]]]:
        """Per layer: level scores `[B, m]`, and the model's flat outputs per level, of one batch."""
        if not self._is_sequential:
            check_integer_inputs(inputs, self._model)
        flat = list(self._values(inputs, training=False))
        num_inputs, num_outputs = len(keras.tree.flatten(self._structures)), len(self._model.outputs)
        layer_inputs = keras.tree.pack_sequence_as(self._structures, flat[:num_inputs])
        outputs, joining = flat[num_inputs : num_inputs + num_outputs], flat[num_inputs + num_outputs :]
        results = []
        for downstream, its_inputs in zip(self._downstreams, layer_inputs, strict=True):
            its_joining, joining = joining[: len(downstream.joining)], joining[len(downstream.joining) :]
            scores = downstream.layer.level_scores(its_inputs)
            by_level = []
            for level in range(downstream.layer.num_levels):
                score = scores[:, level : level + 1]
                reached = [score] if downstream.model is None else downstream.model([score, *its_joining], training=False)
                at_level = list(outputs)
                for index, output in zip(downstream.outputs, keras.tree.flatten(reached), strict=True):
                    at_level[index] = output
                by_level.append([keras.ops.convert_to_numpy(output) for output in at_level])
            results.append((scores.numpy(), by_level))
        return results

    def _labels_of(self, index: int) -> npt.NDArray[Any] | None:
        if len(self._names) == 1:
            return keras.tree.flatten(self._labels)[0]
        if isinstance(self._labels, Mapping):
            return self._labels.get(self._names[index])
        flat = keras.tree.flatten(self._labels)
        return flat[index] if len(flat) == len(self._names) else None


def _write_agreement(prefix: str, score: npt.NDArray[np.float64], next_score: npt.NDArray[np.float64]) -> None:
    """How a level's scores (`[N]`) agree with those of the next level."""
    if min(score.std(), next_score.std()) > 0:  # else it has no meaning
        tf.summary.scalar(
            f"{prefix}correlation_with_next_level",
            np.corrcoef(score, next_score)[0, 1],
            description="Pearson correlation of a level's scores on the analysis data with those of the next level",
        )
    tf.summary.scalar(
        f"{prefix}mean_absolute_difference_to_next_level",
        np.abs(score - next_score).mean(),
        description="Mean absolute difference of a level's scores on the analysis data to those of the next level",
    )


def _write_histogram(tag: str, table: keras.Variable, description: str) -> None:
    """A histogram of the norms of the rows of a table, or of the numbers of a vector.

    Summaries of TensorFlow would take some 300 bytes per number; this one never holds more than a block of rows.
    """
    low, high, number = np.inf, -np.inf, 0
    for values in _blocks_of_norms(table):
        if tf.size(values):
            low, high = min(low, float(tf.reduce_min(values))), max(high, float(tf.reduce_max(values)))
            number += int(tf.size(values))
    if not number:
        return
    counts = np.zeros(_HISTOGRAM_BUCKETS)
    if low == high:
        counts[-1] = number  # as TensorFlow's own histograms
    else:
        for values in _blocks_of_norms(table):
            bounds = tf.constant([low, high], values.dtype)
            counts += tf.histogram_fixed_width(values, bounds, _HISTOGRAM_BUCKETS).numpy()
    edges = np.linspace(low, high, _HISTOGRAM_BUCKETS + 1)
    metadata = histogram_metadata.create_summary_metadata(display_name=None, description=description)
    tensor = tf.constant(np.stack([edges[:-1], edges[1:], counts], axis=1), tf.float64)
    tf.summary.write(tag, tensor, metadata=metadata)


def _blocks_of_norms(table: keras.Variable) -> Iterator[tf.Tensor]:
    """The finite norms of the rows of a table `[n, D]`, or the finite numbers of a vector `[n]`, in blocks."""
    values = table.value
    dtype = tf.float64 if values.dtype == tf.float64 else tf.float32
    width = max(1, values.shape[1:].num_elements())
    block = max(1, _BYTES_AT_ONCE // (width * values.dtype.size))
    for start in range(0, values.shape[0], block):
        rows = tf.cast(read_rows(values, tf.range(start, min(start + block, values.shape[0]))), dtype)
        norms = tf.norm(rows, axis=1) if rows.shape.rank > 1 else rows
        is_finite = tf.math.is_finite(norms)
        yield norms if tf.reduce_all(is_finite) else tf.boolean_mask(norms, is_finite)


def _write_layout() -> None:
    """What the page "Custom Scalars" shows."""
    charts = [
        layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=tags))
        for title, tags in (
            (_UPPER_AND_LOWER, [r"^epoch_loss$", r"^(.*/)?levels/dependent_loss$"]),
            (_LEVEL_LOSSES, [r"^(.*/)?levels/loss$"]),
        )
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="RaFM: losses of the levels", chart=charts)])
    metadata = layout_metadata.create_summary_metadata()
    tf.summary.write(layout_metadata.CONFIG_SUMMARY_TAG, tf.constant(layout.SerializeToString()), metadata=metadata)


def _write_embeddings(directory: str, layers: list[_ShownLayer], at_most: int) -> None:
    """Tensors, metadata and configuration for the projector, which looks for them in the directory of a run."""
    tf.io.gfile.makedirs(directory)
    config = ProjectorConfig()
    for shown in layers:
        layer = shown.layer
        for level, (embedded, (rank, _, above)) in enumerate(
            zip(shown.embedded(at_most), shown.ranges, strict=True), start=1
        ):
            features = np.concatenate(embedded)
            if features.size == 0:
                continue
            parts = [read_rows(layer.free_tables[level - 1].value, shown.slots_of(embedded.free) - above)]
            if level < layer.num_levels:
                parts.insert(0, read_rows(layer.dependent_tables[level - 1].value, shown.slots_of(embedded.dependent)))
            name = f"{shown.prefix}{_name_of_run(level, rank)}"
            file = f"projector_{name.replace('/', '_')}"
            _write_tsv(
                os.path.join(directory, f"{file}_tensor.tsv"),
                ([f"{x:.6g}" for x in row] for row in tf.concat(parts, axis=0).numpy().tolist()),
            )
            header = ["name", "level", "factors"] if shown.counts is None else ["name", "count", "level", "factors"]
            lines = [header]
            for feature, slot in zip(features.tolist(), shown.slots_of(features).tolist(), strict=True):
                count = [] if shown.counts is None else [f"{shown.counts[feature]:g}"]
                its_level = sum(slot < size for _, size, _ in shown.ranges)
                lines.append([shown.name_of(feature), *count, str(its_level), "free" if slot >= above else "dependent"])
            _write_tsv(os.path.join(directory, f"{file}_metadata.tsv"), lines)
            embedding = config.embeddings.add()
            embedding.tensor_name = name
            embedding.tensor_path = f"{file}_tensor.tsv"
            embedding.metadata_path = f"{file}_metadata.tsv"
            embedding.tensor_shape.extend([features.size, rank])
    with tf.io.gfile.GFile(os.path.join(directory, "projector_config.pbtxt"), "w") as file:
        file.write(str(config))


def _write_tsv(path: str, rows: Any) -> None:
    with tf.io.gfile.GFile(path, "w") as file:
        file.write("".join("\t".join(row) + "\n" for row in rows))


def _sample(data: Any, at_most: int, model: keras.Model) -> tuple[list[Any], Any]:
    """Batches of inputs (tensors and arrays), and the labels of all of them (arrays)."""
    if isinstance(data, Samples):
        data = (_inputs_of_samples(data, model), data.labels[:, np.newaxis])
    if isinstance(data, tuple):
        if any(isinstance(leaf, tf.SparseTensor) for leaf in keras.tree.flatten(data[0])):
            data = tf.data.Dataset.from_tensor_slices(data).batch(min(at_most, _ROWS_AT_ONCE))
        else:
            inputs, labels = data
            return _sample_of_arrays(inputs, labels, at_most)
    batches, labels, missing = [], [], at_most
    for element in data:
        if not _is_pair(element):
            raise TypeError(f"`analysis_data` must be a dataset of (inputs, labels). Received: {_kind(element)}")
        inputs, y = (keras.tree.map_structure(functools.partial(_first_rows, number=missing), part) for part in element)
        batches.append(inputs)
        labels.append(keras.tree.map_structure(keras.ops.convert_to_numpy, y))
        missing -= _num_rows(keras.tree.flatten(labels[-1])[0])
        if missing <= 0:
            break
    if missing == at_most:
        raise ValueError("`analysis_data` must have rows. Received none")
    return batches, keras.tree.map_structure(lambda *parts: np.concatenate(parts), *labels)


def _sample_of_arrays(inputs: Any, labels: Any, at_most: int) -> tuple[list[Any], Any]:
    leaves = keras.tree.flatten((inputs, labels))
    sizes = sorted({_num_rows(leaf) for leaf in leaves})
    if len(sizes) != 1 or sizes[0] == 0:
        raise ValueError(f"`analysis_data` must have one row or more, as many in every array. Received: {sizes} rows")
    rows = np.arange(sizes[0])
    if rows.size > at_most:
        rows = np.linspace(0, rows.size - 1, at_most).astype(np.int64)

    def take(leaf: Any, rows: npt.NDArray[np.int64]) -> Any:
        return leaf[rows] if isinstance(leaf, np.ndarray) else tf.gather(leaf, rows)

    batches = [
        keras.tree.map_structure(functools.partial(take, rows=rows[start : start + _ROWS_AT_ONCE]), inputs)
        for start in range(0, rows.size, _ROWS_AT_ONCE)
    ]
    return batches, keras.tree.map_structure(lambda leaf: keras.ops.convert_to_numpy(take(leaf, rows)), labels)


def _inputs_of_samples(samples: Samples, model: keras.Model) -> Any:
    """The ids, and the values if the model takes them."""
    declared = getattr(model, "input", None)
    if isinstance(declared, Mapping):
        unknown = set(declared) - {"ids", "values"}
        if unknown:
            raise ValueError(
                f"`analysis_data` as Samples has ids and values, but {model.name} also takes {sorted(unknown)}. "
                "Give a tuple (inputs, labels) or a tf.data.Dataset."
            )
        inputs = samples.inputs()
        return {name: inputs[name] for name in declared}
    if len(model.inputs) != 1:
        raise ValueError(
            f"`analysis_data` as Samples needs a model of ids, or of a dict of ids and values. {model.name} takes "
            f"{len(model.inputs)} inputs: give a tuple (inputs, labels) or a tf.data.Dataset."
        )
    return samples.ids


def _first_rows(leaf: Any, number: int) -> Any:
    if isinstance(leaf, tf.SparseTensor):
        size = tf.concat([tf.minimum(leaf.dense_shape[:1], number), leaf.dense_shape[1:]], axis=0)
        return tf.sparse.slice(leaf, tf.zeros_like(size), size)
    return leaf[:number]


def _num_rows(leaf: Any) -> int:
    shape = getattr(leaf, "shape", None)
    if shape is None or len(shape) == 0:
        raise TypeError(f"`analysis_data` must hold arrays or tensors with a row per sample. Received: {_kind(leaf)}")
    return int(leaf.nrows()) if isinstance(leaf, tf.RaggedTensor) else int(shape[0])


def _padded_ids(inputs: Any, layer: RaFMLayer) -> npt.NDArray[np.int64]:
    """The ids that a layer is given by any kind of input: int64 `[B, F]`, −1 for padding."""
    found = occurrences(inputs, layer.num_features, "float32", where=layer.name)
    ids = tf.RaggedTensor.from_value_rowids(tf.cast(found.ids, tf.int64), found.samples, nrows=found.num_samples)
    return ids.to_tensor(default_value=-1).numpy()


def _per_layer(given: Any, layers: list[RaFMLayer], argument: str) -> dict[str, Any]:
    """What is given for each layer, by its name."""
    names = [layer.name for layer in layers]
    if not isinstance(given, Mapping):
        return dict.fromkeys(names, given)
    unknown = set(given) - set(names)
    if unknown:
        raise ValueError(f"`{argument}` must name RaFMLayers of the model ({names}). Received: {sorted(map(str, unknown))}")
    return {name: given.get(name) for name in names}


def _name_of_run(level: int, rank: int) -> str:
    return f"level_{level}_rank_{rank}"


def _table_of_buckets(buckets: npt.NDArray[np.int64]) -> str:
    rows = [("training count of the rarest feature", "rows", "share")]
    for bucket, number in zip(*np.unique(buckets, return_counts=True), strict=True):
        rows.append((bucket_name(int(bucket)), f"{number:,}", f"{number / buckets.size:.1%}"))
    about = "How many rows of the analysis data the losses by frequency are means of: those of few rows are mostly chance."
    return f"{about}\n\n{_markdown(rows)}"


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + " ---: |" * len(rows[0]))
    return "\n".join(lines)


def _is_pair(data: Any) -> bool:
    return isinstance(data, tuple) and len(data) == 2


def _kind(data: Any) -> str:
    return f"{type(data).__name__} of {len(data)}" if isinstance(data, (tuple, list)) else type(data).__name__
