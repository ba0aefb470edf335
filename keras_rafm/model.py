"""`RaFMModel`: a functional Keras model whose `train_step` does the bi-level update."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf

from keras_rafm.checks.model_inputs import check_integer_inputs
from keras_rafm.optimizers import FlushIdleDecay, LazyAdam, row_sparse_optimizer
from keras_rafm.rows.idle_decay import settle
from keras_rafm.rows.replicas import each_row_on_one_replica
from keras_rafm.score.call_context import LevelScores, call_context
from keras_rafm.score.interactions import total
from keras_rafm.training.downstream import Downstream, find_downstreams
from keras_rafm.training.epochs import CountedSteps, EpochInProgress, known_batch_size, with_one_iterator
from keras_rafm.training.imitation import default_weight, imitations_of, names_of_outputs


@keras.saving.register_keras_serializable(package="keras_rafm")
class RaFMModel(keras.Model):
    """A functional `keras.Model` that trains its `RaFMLayer`s by the bi-level update (Chen et al., ICML 2019, section 4).

    In one forward and one backward pass, the dependent factors of level `k` learn to imitate the next level:
    they minimise `L(stop(f(ŷ_{k+1})), f(ŷ_k))`, where `f` is the part of the model below the score, while everything else
    minimises the compiled loss. `L` follows the compiled loss: cross-entropy for `BinaryCrossentropy` (from logits or
    from probabilities, without label smoothing), else the squared difference; with the same sample weights, reduction
    and loss weights. Which gradients the dependent factors take and how much the lower losses weigh are options of
    `RaFMLayer`.

    `fit` logs `loss` (the compiled loss plus regularisation, as `evaluate`), `dependent_loss_1 …
    dependent_loss_{m−1}` (without `dependent_loss_weight`; with the layer's name in front where there are several
    `RaFMLayer`s) and the metrics.

    Integer inputs are checked before Keras casts them: floats, or integers that the declared dtype can't hold, raise.

    Under a synchronous distribution strategy training equals that on one device where batches divide evenly over the
    replicas. Exceptions are gradient clipping, which Keras does before it sums over replicas, and the layer option
    `factors_l2_scope="batch"`.

    Args:
        inputs: `keras.Input`s, in any structure that `keras.Model` takes.
        outputs: Tensors computed from them, at least one through a `RaFMLayer`.
        name: Name of the model.
        **kwargs: `trainable` of `keras.Model`.

    Raises:
        ValueError: There is no `RaFMLayer`, or one is called more than once or is inside a nested model.

    Example:

    ```python
    ids = keras.Input((10,), dtype="int32", name="ids")
    model = keras_rafm.RaFMModel(ids, keras_rafm.RaFMLayer(plan)(ids))
    model.compile(keras_rafm.optimizers.LazyAdam(4e-3), keras.losses.BinaryCrossentropy(from_logits=True))
    ```
    """

    train_function: Any

    def __init__(self, inputs: Any, outputs: Any, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        downstreams = find_downstreams(self.outputs, list(self._flatten_layers(include_self=False)))
        joining = {id(tensor): tensor for downstream in downstreams for tensor in downstream.joining}
        # Wrapped so that Keras does not take the helper models for parts of this one.
        self._graph = _CutGraph(downstreams, list(joining.values()), self)
        self._dependent_loss_trackers: list[keras.metrics.Metric] = []
        self._loss_weights = None
        self._own_train_function: Any = None
        self._epoch: EpochInProgress | None = None
        self._batch_size: int | None = None

    def compile(self, optimizer: Any = None, loss: Any = None, loss_weights: Any = None, **kwargs: Any) -> None:
        """As `keras.Model.compile`; resolves the lower losses from the loss.

        Args:
            optimizer: Default: `keras_rafm.optimizers.LazyAdam()`.
            loss: As in Keras.
            loss_weights: As in Keras.
            **kwargs: As in Keras.

        Raises:
            ValueError: `loss` or `loss_weights` do not fit the outputs.
        """
        imitations_of(loss, loss_weights, names_of_outputs(self))
        self._loss_weights = loss_weights
        if not self._dependent_loss_trackers:
            self._dependent_loss_trackers = [keras.metrics.Mean(name=name) for name in self._graph.dependent_loss_names()]
        settle(self.variables)
        super().compile(optimizer=optimizer or LazyAdam(), loss=loss, loss_weights=loss_weights, **kwargs)
        row_sparse = row_sparse_optimizer(self.optimizer)
        if row_sparse is not None:
            row_sparse.attach()

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compile as a saved model was."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: Any = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As `keras.Model.fit`.

        Weights are up to date whenever callbacks may read them. Arrays and datasets of known length are read through one
        iterator for all epochs, where Keras starts two per epoch; under a distribution strategy as in Keras.
        """
        reads = {
            "x": x,
            "y": y,
            "sample_weight": sample_weight,
            "batch_size": batch_size,
            "shuffle": shuffle,
            "class_weight": class_weight,
            "validation_split": validation_split,
            "validation_data": validation_data,
            "steps_per_epoch": steps_per_epoch,
        }
        settle(self.variables)
        batch_size = known_batch_size(reads)
        if batch_size is not None:
            batch_size = max(1, batch_size // self.distribute_strategy.num_replicas_in_sync)
        self._batch_size = batch_size
        first: list[keras.callbacks.Callback] = [FlushIdleDecay()]
        outer, self._epoch = self._epoch, None
        if self.compiled and not tf.distribute.has_strategy() and self.distribute_strategy is tf.distribute.get_strategy():
            if not self.optimizer.built and type(self).train_step is RaFMModel.train_step:
                self.optimizer.build(self.trainable_variables)  # inside the first step it would be traced twice
            several = self.steps_per_execution > 1
            if not several or self._makes_counted_steps():
                given, reads = reads, with_one_iterator(reads, epochs - initial_epoch)
                if several and reads is not given:
                    self._epoch = EpochInProgress(reads["steps_per_epoch"])
                    first.append(self._epoch)
        if isinstance(callbacks, keras.callbacks.CallbackList):
            for callback in first:
                callback.set_model(self)
            callbacks.callbacks[:0] = first
        else:
            callbacks = [*first, *(keras.tree.flatten(callbacks) if callbacks else ())]
        try:
            return super().fit(
                epochs=epochs, verbose=verbose, callbacks=callbacks, initial_epoch=initial_epoch, **reads, **kwargs
            )
        finally:
            self._epoch = outer

    def make_train_function(self, force: bool = False) -> None:
        """As `keras.Model.make_train_function`; with several steps per execution, `fit` does none beyond an epoch's end."""
        if self.train_function is not None and not force:
            return
        super().make_train_function(force=force)
        of_keras = self.train_function
        counted = CountedSteps(self.train_step, self.steps_per_execution, self.jit_compile, self.run_eagerly)

        def train_function(iterator: Any) -> Any:
            epoch = self._epoch
            if epoch is None or not isinstance(iterator, tf.data.Iterator):  # not what `fit` reads
                return of_keras(iterator)
            return counted(iterator, epoch)

        self.train_function = self._own_train_function = train_function

    def _makes_counted_steps(self) -> bool:
        """Whether `fit` will train by the function that `make_train_function` makes here."""
        is_own = self.train_function is None or self.train_function is self._own_train_function
        return is_own and type(self).make_train_function is RaFMModel.make_train_function

    def get_weights(self) -> list[Any]:
        """As `keras.Model.get_weights`, with the decay that waits on idle rows done, as in all that follow here."""
        settle(self.variables)
        return super().get_weights()

    def set_weights(self, weights: Any) -> None:
        """As `keras.Model.set_weights`."""
        settle(self.variables)
        super().set_weights(weights)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`."""
        settle(self.variables)
        return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.predict`."""
        settle(self.variables)
        return super().predict(*args, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.save`."""
        settle(self.variables)
        return super().save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.save_weights`."""
        settle(self.variables)
        return super().save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.load_weights`."""
        settle(self.variables)
        super().load_weights(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.export`; `keras_rafm.export` writes what TF Serving expects.

        Ids that training never saw contribute nothing, as there.
        """
        settle(self.variables)
        with call_context(is_serving=True):
            return super().export(*args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        """Run the graph on inputs that pass the check of integer inputs."""
        # Under a distribution strategy Keras builds the model on the mean of the replicas' batches, whose ids are floats:
        # there the steps check, and only there.
        checked = []
        if tf.executing_eagerly() or not tf.distribute.has_strategy():
            checked = check_integer_inputs(inputs, self)
        with tf.control_dependencies(checked):
            return super().call(inputs, training=training, mask=mask, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """One bi-level update: one forward pass, one backward pass."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        checked = []
        if tf.distribute.has_strategy() or self._graph.bypasses_call:
            checked = check_integer_inputs(x, self)
        with tf.GradientTape() as tape:
            level_scores: LevelScores = {}
            context = call_context(level_scores=level_scores, batch_size=self._batch_size)
            with tf.control_dependencies(checked), context:
                y_pred, joining_values = self._graph.forward(x)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
            dependent_losses, weighted = self._dependent_losses(level_scores, joining_values, sample_weight)
            # A loss without a reduction has one entry per sample: what is minimised is their sum.
            scaled = self.optimizer.scale_loss(tf.reduce_sum(loss) + weighted)
        weights = self.trainable_weights
        if weights:
            gradients = tape.gradient(scaled, weights)
            if row_sparse_optimizer(self.optimizer) is None:
                gradients = each_row_on_one_replica(gradients)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        else:
            warnings.warn(f"{self.name} has no trainable weights.", stacklevel=2)

        # The loss is divided by the number of replicas since gradients are summed over them; logs are means.
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        batch_size = tf.shape(keras.tree.flatten(y_pred)[0])[0]
        loss_tracker = next(metric for metric in self.metrics if metric.name == "loss")  # Keras lists its own first
        loss_tracker.update_state(loss * num_replicas, sample_weight=batch_size)
        for tracker, value in zip(self._dependent_loss_trackers, dependent_losses, strict=True):
            tracker.update_state(value * num_replicas, sample_weight=batch_size)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        """As `keras.Model.test_step`: the lower losses belong to training alone."""
        self._check_under_strategy(data)
        logs = super().test_step(data)
        for tracker in self._dependent_loss_trackers:
            logs.pop(tracker.name, None)
        return logs

    def predict_step(self, data: Any) -> Any:
        """As `keras.Model.predict_step`, on inputs that pass the check of integer inputs."""
        self._check_under_strategy(data)
        return super().predict_step(data)

    def _check_under_strategy(self, data: Any) -> None:
        if tf.distribute.has_strategy():
            x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            check_integer_inputs(x, self)

    def _dependent_losses(
        self, level_scores: LevelScores, joining_values: dict[int, tf.Tensor], sample_weight: Any
    ) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The lower loss of every level of every layer, and their weighted sum."""
        names = names_of_outputs(self)
        imitations = imitations_of(self.loss, self._loss_weights, names)
        weight_of_output = _weight_of_output(sample_weight, names)
        losses, weighted = [], []
        for downstream in self._graph.downstreams:
            scores = level_scores.get(downstream.layer.name)
            if scores is None:  # one level, nothing imitates
                continue
            joining = [joining_values[id(tensor)] for tensor in downstream.joining]
            outputs_by_level = [downstream.rerun(score, joining) for score in scores]
            reached = [(imitations[index], weight_of_output[index]) for index in downstream.outputs]
            weights = downstream.layer.dependent_loss_weights(default_weight([imitation for imitation, _ in reached]))
            for weight, (outputs, next_outputs) in zip(weights, itertools.pairwise(outputs_by_level), strict=True):
                terms = [
                    imitation(next_output, output, weights_of_samples)
                    for (imitation, weights_of_samples), output, next_output in zip(
                        reached, outputs, next_outputs, strict=True
                    )
                    if imitation is not None
                ]
                losses.append(total(terms) if terms else tf.zeros([], keras.config.floatx()))
                if weight:
                    weighted.append(weight * losses[-1])
        return losses, total(weighted) if weighted else tf.zeros([], keras.config.floatx())


class _CutGraph:
    """The downstream parts of a model, and a forward pass that also yields what joins them."""

    def __init__(self, downstreams: list[Downstream], joining: list[keras.KerasTensor], model: RaFMModel) -> None:
        self.downstreams = downstreams
        self._joining = joining
        self._outputs = model.output
        self._num_outputs = len(model.outputs)
        self._model = keras.Model(model.input, [*model.outputs, *joining]) if joining else model

    @property
    def bypasses_call(self) -> bool:
        """Whether `forward` runs a helper model instead of the model's own `call`."""
        return bool(self._joining)

    def forward(self, x: Any) -> tuple[Any, dict[int, tf.Tensor]]:
        """The outputs in training mode, and the value of every joining tensor by its `id`."""
        if not self._joining:
            return self._model(x, training=True), {}
        values = self._model(x, training=True)
        outputs = keras.tree.pack_sequence_as(self._outputs, values[: self._num_outputs])
        if isinstance(outputs, (list, tuple)) and len(outputs) == 1:
            outputs = outputs[0]
        return outputs, {id(t): value for t, value in zip(self._joining, values[self._num_outputs :], strict=True)}

    def dependent_loss_names(self) -> list[str]:
        several = len(self.downstreams) > 1
        return [
            f"{downstream.layer.name}_dependent_loss_{level}" if several else f"dependent_loss_{level}"
            for downstream in self.downstreams
            for level in range(1, downstream.layer.num_levels)
        ]


def _weight_of_output(sample_weight: Any, output_names: list[str]) -> list[Any]:
    if isinstance(sample_weight, Mapping):
        return [sample_weight.get(name) for name in output_names]
    if isinstance(sample_weight, (list, tuple)):
        return list(sample_weight)
    return [sample_weight] * len(output_names)
