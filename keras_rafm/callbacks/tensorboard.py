"""`TensorBoard`: Keras' callback, extended by the levels of every `RaFMLayer`."""

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
    """Log what `keras.callbacks.TensorBoard` logs, and the levels of every `RaFMLayer` of the model.

    Every level has its own run (`level_1_rank_64`, …), so that a chart shows one line per level. With several
    `RaFMLayer`s, tags begin with the name of the layer and a `/`. Steps are epochs, as in Keras.

    | page | tag | content |
    |---|---|---|
    | Text, run `train` | `plan` | ranks, features, share of occurrences, factors and size of each level |
    | Text, run `train` | `samples_by_frequency` | number of rows of the analysis data in each frequency bucket |
    | Custom Scalars | | upper and lower losses in one chart, the losses of all levels in another |
    | Scalars | `levels/dependent_loss` | lower loss in training: Keras' `epoch_dependent_loss_k` in the level's run |
    | | `levels/loss` | compiled loss of the model with `ŷ_k` in place of `ŷ_m` |
    | | `levels/correlation_with_next_level` | Pearson correlation of `ŷ_k` and `ŷ_{k+1}` |
    | | `levels/mean_absolute_difference_to_next_level` | mean of `abs(ŷ_k − ŷ_{k+1})` |
    | | `log_loss_by_frequency/1-3`, … | log-loss for `ŷ_k` of samples whose rarest feature occurs 1-3 times in training |
    | | `rmse_by_frequency/1-3`, … | for models without a cross-entropy: root of the mean squared error instead |
    | Histograms, Distributions | `norms/free_factors`, `norms/dependent_factors` | norms `abs(v_i^(k))` of the rows |
    | | `linear_weights` (run `train`) | `w` |
    | Projector, run `train` | | factors of the most frequent features of each level |

    Losses and scores on the analysis data are those of inference (no dropout), without regularisation. They are computed
    in every `analysis_freq`-th epoch, beginning with the first, and after the last epoch. One analysis costs two passes
    over the tables and one over the analysis data.

    Frequency buckets are those of `keras_rafm.frequency_buckets`. If several outputs depend on a score, the tags of
    losses by frequency contain the name of the output. Outputs that have another number of elements than their labels
    are left out.

    Args:
        log_dir: Directory for the logs.
        analysis_data: Validation data: `Samples`, a tuple `(inputs, labels)` of arrays or tensors (in the structures that
            the model takes), or a `tf.data.Dataset` of batches of such tuples. The model must then be functional or
            sequential and call every `RaFMLayer` once, outside of nested models. `None`: losses and scores of the levels
            are left out.
        analysis_samples: The largest number of rows to use: rows of arrays at even distances, the first rows of a dataset.
        analysis_freq: The number of epochs from one analysis to the next.
        counts: Occurrences of each feature in the training data: numbers `[num_features]`, or the `RankPlan` that was made
            from them (a layer does not keep the counts of its plan). For several layers also a mapping from their names
            to one of these. `None`: losses by frequency and counts are left out.
        feature_names: Names of the features: a sequence with one name per id, or a function from ids to names. For
            several layers also a mapping from their names to one of these. Default: the ids.
        num_embedded: The largest number of features to write for the projector per level. The most frequent features of
            the level are written with their free factors. Features of higher levels are written with their dependent
            factors; they take up to half of the number, or more if the level has too few features. 0 for none.
        **kwargs: Options of `keras.callbacks.TensorBoard`.

    Raises:
        TypeError: A number is not an integer, or `analysis_data` or `feature_names` has another type than those above.
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
        """Check that the options fit the model, and describe its plan."""
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
        """Write Keras' summaries of the epoch, and the analysis if it is due."""
        # With update_freq="batch" or a number, Keras would write an epoch's summaries only if its last batch was due.
        with self.summary.record_if(True):
            super().on_epoch_end(epoch, logs)
            self._write_dependent_losses(epoch, logs or {})
        self._epoch = epoch
        # The last epoch is analysed here, if it can be recognised, and not in `on_train_end`: `EarlyStopping` may have
        # restored the weights of another epoch by then.
        is_last = self.model.stop_training or epoch + 1 == (self.params or {}).get("epochs")
        if epoch % self.analysis_freq == 0 or is_last:
            self._analyse(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        """Write the analysis of the last epoch if it was not recognised as the last."""
        if self._epoch is not None and self._epoch != self._analysed_epoch:
            self._analyse(self._epoch)
        super().on_train_end(logs)
        self._scores = None  # frees the analysis data

    def _run(self, name: str) -> Any:
        """Return the writer of a run. Keras closes it together with its own writers."""
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
                    f"{shown.prefix}plan", table_of_levels(shown), description=f"Size of the levels of {shown.layer.name}"
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
                if value is not None:  # only a RaFMModel has lower losses
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
                    "Norms of the free factors: the highest-level embeddings of the features of this level",
                )
                if level < layer.num_levels:
                    write_histogram(
                        f"{shown.prefix}norms/dependent_factors",
                        layer.dependent_tables[level - 1],
                        "Norms of the dependent factors: the embeddings of features of higher levels at this level",
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
                    for output in level_scores.outputs_with_loss(result.dependent_outputs, outputs):
                        for bucket in loss_by_bucket(
                            output.labels, output.predictions, buckets, output.loss, output.from_logits
                        ):
                            title = "Log-loss" if output.loss == "log_loss" else "Root of the mean squared error"
                            scalar(
                                f"{shown.prefix}{output.loss}_by_frequency/{output.prefix}{bucket.name}",
                                bucket.loss,
                                description=f"{title} of the {bucket.num_samples:,} rows of the analysis data whose rarest "
                                f"feature occurs {bucket.name} times in the training data",
                            )
