"""`TensorBoard`: Keras' callback, which also shows what the levels of every `RaFMLayer` do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras

from keras_rafm.callbacks.analysis_data import check_kind
from keras_rafm.callbacks.level_scores import LevelScores
from keras_rafm.callbacks.projector import Projector
from keras_rafm.callbacks.shown_layer import ShownLayer, name_of_run, shown_layers
from keras_rafm.callbacks.summaries import write_agreement, write_histogram, write_layout
from keras_rafm.callbacks.tables import table_of_buckets, table_of_levels
from keras_rafm.checks.arguments import integer
from keras_rafm.frequency_buckets import loss_by_bucket
from keras_rafm.rows.idle_decay import settle


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
        check_kind(analysis_data)
        self.analysis_data = analysis_data
        self.analysis_samples = integer(analysis_samples, "analysis_samples", at_least=1)
        self.analysis_freq = integer(analysis_freq, "analysis_freq", at_least=1)
        self.counts = counts
        self.feature_names = feature_names
        self.num_embedded = integer(num_embedded, "num_embedded", at_least=0)
        self._layers: list[ShownLayer] = []
        self._projector: Projector | None = None
        self._scores: LevelScores | None = None
        self._described: keras.Model | None = None
        self._epoch: int | None = None
        self._analysed_epoch: int | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Check that everything fits, describe the plan."""
        super().on_train_begin(logs)
        self._epoch = self._analysed_epoch = None
        self._layers = shown_layers(self.model, self.counts, self.feature_names)
        self._projector = None
        if self.num_embedded:
            self._projector = Projector(os.path.join(self.log_dir, "train"), self._layers, self.num_embedded)
        self._scores = None
        if self.analysis_data is not None:
            layers = [shown.layer for shown in self._layers]
            self._scores = LevelScores(self.model, layers, self.analysis_data, self.analysis_samples)
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
            write_layout()
            for shown in self._layers:
                self.summary.text(
                    f"{shown.prefix}plan", table_of_levels(shown), description=f"What the levels of {shown.layer.name} cost"
                )
                if self._scores is not None and shown.counts is not None:
                    self.summary.text(
                        f"{shown.prefix}samples_by_frequency",
                        table_of_buckets(self._scores.buckets(shown)),
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
        if self._projector is not None:
            self._projector.write()
        for writer in self._writers.values():
            writer.flush()

    def _write_dependent_losses(self, epoch: int, logs: Mapping[str, Any]) -> None:
        for shown in self._layers:
            for level, rank in enumerate(shown.layer.ranks, start=1):
                value = logs.get(f"{shown.prefix.replace('/', '_')}dependent_loss_{level}")
                if value is not None:  # models other than RaFMModel have none
                    with self._run(name_of_run(level, rank)).as_default(step=epoch):
                        about = "Mean loss of this level's scores against those of the next level, in training"
                        self.summary.scalar(f"{shown.prefix}levels/dependent_loss", value, description=about)

    def _write_norms(self, shown: ShownLayer, epoch: int) -> None:
        layer = shown.layer
        for level, rank in enumerate(layer.ranks, start=1):
            with self._run(name_of_run(level, rank)).as_default(step=epoch):
                write_histogram(
                    f"{shown.prefix}norms/free_factors",
                    layer.free_tables[level - 1],
                    "Lengths of the free factors: of features of this level, each feature's own highest embedding",
                )
                if level < layer.num_levels:
                    write_histogram(
                        f"{shown.prefix}norms/dependent_factors",
                        layer.dependent_tables[level - 1],
                        "Lengths of the dependent factors: what features of higher levels show to those of this level",
                    )
        if layer.linear_weights is not None:
            with self._run("train").as_default(step=epoch):
                write_histogram(f"{shown.prefix}linear_weights", layer.linear_weights, "Linear weights w")

    def _write_scores(self, level_scores: LevelScores, epoch: int) -> None:
        scalar = self.summary.scalar
        for shown, result in zip(self._layers, level_scores.compute(), strict=True):
            for index, rank in enumerate(shown.layer.ranks):
                outputs = result.outputs[index]
                loss = level_scores.compiled_loss(outputs)
                with self._run(name_of_run(index + 1, rank)).as_default(step=epoch):
                    if loss is not None:
                        about = (
                            "Compiled loss on the analysis data, without regularisation, of the model cut off at a level"
                        )
                        scalar(f"{shown.prefix}levels/loss", loss, description=about)
                    if index + 1 < shown.layer.num_levels:
                        write_agreement(f"{shown.prefix}levels/", *result.scores[:, index : index + 2].T)
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
