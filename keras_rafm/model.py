"""`RaFMModel`: a functional Keras model that is trained by the bi-level update."""

from __future__ import annotations

import warnings
from typing import Any

import keras
import tensorflow as tf

from keras_rafm.checks.model_inputs import check_integer_inputs
from keras_rafm.optimizers import FlushIdleDecay, LazyAdam, row_sparse_optimizer
from keras_rafm.rows.idle_decay import settle
from keras_rafm.rows.replicas import each_row_on_one_replica
from keras_rafm.score.call_context import LevelScores, call_context
from keras_rafm.training.cut_graph import CutGraph
from keras_rafm.training.epochs import CountedSteps, EpochInProgress, known_batch_size, with_one_iterator
from keras_rafm.training.imitation import imitations_of, names_of_outputs


@keras.saving.register_keras_serializable(package="keras_rafm")
class RaFMModel(keras.Model):
    """A functional `keras.Model` that trains its `RaFMLayer`s by the bi-level update (Chen et al., ICML 2019, section 4).

    The free factors and all other weights minimise the compiled loss. The dependent factors of level `k` also learn to
    imitate the next level: they minimise `L(stop(f(ŷ_{k+1})), f(ŷ_k))`, where `f` is the part of the model between the
    score and the outputs. One forward and one backward pass do both. `RaFMLayer` has options for the gradients that
    dependent factors take (`dependent_gradient`) and for the weight of the lower losses (`dependent_loss_weight`).

    `L` follows from the compiled loss: cross-entropy for `BinaryCrossentropy` (from logits or from probabilities, without
    label smoothing), the squared difference for every other loss. Sample weights, reduction and loss weights are those of
    the compiled loss.

    `fit` logs these values:
        - `loss`: the compiled loss plus regularisation, as `evaluate` reports it;
        - `dependent_loss_1` to `dependent_loss_{m−1}`: the lower losses, not multiplied by `dependent_loss_weight`. In a
          model with several `RaFMLayer`s, the name of the layer comes first: `rafm_dependent_loss_1`;
        - the metrics.

    The model checks integer inputs before Keras casts them. Floats, and integers that the declared dtype can't hold, raise
    an error.

    Under a synchronous distribution strategy, training gives the same result as on one device if batches divide evenly
    over the replicas. There are two exceptions: gradient clipping, which Keras does before it sums gradients over
    replicas, and the layer option `factors_l2_scope="batch"`.

    Args:
        inputs: `keras.Input`s, in any structure that `keras.Model` takes.
        outputs: Tensors computed from the inputs, at least one of them through a `RaFMLayer`.
        name: The name of the model.
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
        # Keras does not look into this object, so it does not take the helper models in it for parts of this model.
        self._graph = CutGraph(self, list(self._flatten_layers(include_self=False)))
        self._dependent_loss_trackers: list[keras.metrics.Metric] = []
        self._loss_weights = None
        self._own_train_function: Any = None
        self._epoch: EpochInProgress | None = None
        self._batch_size: int | None = None

    def compile(self, optimizer: Any = None, loss: Any = None, loss_weights: Any = None, **kwargs: Any) -> None:
        """Configure the model for training as `keras.Model.compile` does. The lower losses follow from the loss.

        Args:
            optimizer: A Keras optimizer, by default `keras_rafm.optimizers.LazyAdam()`.
            loss: See `keras.Model.compile`.
            loss_weights: See `keras.Model.compile`.
            **kwargs: Further arguments of `keras.Model.compile`.

        Raises:
            ValueError: `loss` or `loss_weights` does not match the outputs.
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
        """Compile the model as it was compiled when it was saved."""
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
        """Train the model as `keras.Model.fit` does. The arguments are those of Keras.

        Callbacks see settled weights: pending decay is applied before any callback may read them. Arrays and datasets of
        known length are read through one iterator for all epochs, whereas Keras starts two per epoch. Under a distribution
        strategy they are read as Keras does.
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
        self._batch_size = self._batch_size_per_replica(reads)
        enclosing_epoch = self._epoch  # a callback of another `fit` may call `fit`
        reads, self._epoch = self._with_one_iterator(reads, epochs - initial_epoch)
        first_callbacks: list[keras.callbacks.Callback] = [
            FlushIdleDecay(),
            *([] if self._epoch is None else [self._epoch]),
        ]
        if isinstance(callbacks, keras.callbacks.CallbackList):
            for callback in first_callbacks:
                callback.set_model(self)
            callbacks.callbacks[:0] = first_callbacks
        else:
            callbacks = [*first_callbacks, *(keras.tree.flatten(callbacks) if callbacks else ())]
        try:
            return super().fit(
                epochs=epochs, verbose=verbose, callbacks=callbacks, initial_epoch=initial_epoch, **reads, **kwargs
            )
        finally:
            self._epoch = enclosing_epoch

    def _batch_size_per_replica(self, reads: dict[str, Any]) -> int | None:
        batch_size = known_batch_size(reads)
        return None if batch_size is None else max(1, batch_size // self.distribute_strategy.num_replicas_in_sync)

    def _with_one_iterator(self, reads: dict[str, Any], num_epochs: int) -> tuple[dict[str, Any], EpochInProgress | None]:
        """Return the arguments of `fit`, changed to read from one iterator if possible, and a counter of steps if needed.

        The counter is `None` if every execution of `train_function` does a single step, or if Keras counts the steps.
        """
        is_on_one_device = not tf.distribute.has_strategy() and self.distribute_strategy is tf.distribute.get_strategy()
        if not self.compiled or not is_on_one_device:
            return reads, None
        if not self.optimizer.built and type(self).train_step is RaFMModel.train_step:
            # The first step would build the optimizer too, but would then be traced twice.
            self.optimizer.build(self.trainable_variables)
        does_several_steps = self.steps_per_execution > 1
        if does_several_steps and not self._will_count_steps():
            return reads, None
        endless_reads = with_one_iterator(reads, num_epochs)
        if does_several_steps and endless_reads is not reads:
            return endless_reads, EpochInProgress(endless_reads["steps_per_epoch"])
        return endless_reads, None

    def _will_count_steps(self) -> bool:
        """Return whether `fit` will train by the function that `make_train_function` of this class makes."""
        is_own_function = self.train_function is None or self.train_function is self._own_train_function
        return is_own_function and type(self).make_train_function is RaFMModel.make_train_function

    def make_train_function(self, force: bool = False) -> None:
        """Create `train_function` as Keras does.

        If it does several steps per execution, none of them is beyond the end of an epoch.
        """
        if self.train_function is not None and not force:
            return
        super().make_train_function(force=force)
        keras_train_function = self.train_function
        counted_steps = CountedSteps(self.train_step, self.steps_per_execution, self.jit_compile, self.run_eagerly)

        def train_function(iterator: Any) -> Any:
            epoch = self._epoch
            if epoch is None or not isinstance(iterator, tf.data.Iterator):  # `fit` does not count steps
                return keras_train_function(iterator)
            return counted_steps(iterator, epoch)

        self.train_function = self._own_train_function = train_function

    def get_weights(self) -> list[Any]:
        """Return the weights as `keras.Model.get_weights` does, with pending decay applied."""
        settle(self.variables)
        return super().get_weights()

    def set_weights(self, weights: Any) -> None:
        """Set the weights as `keras.Model.set_weights` does. Pending decay does not act on the new values."""
        settle(self.variables)
        super().set_weights(weights)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Evaluate the model as `keras.Model.evaluate` does, with pending decay applied."""
        settle(self.variables)
        return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Compute outputs as `keras.Model.predict` does, with pending decay applied."""
        settle(self.variables)
        return super().predict(*args, **kwargs)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        """Save the model as `keras.Model.save` does, with pending decay applied."""
        settle(self.variables)
        return super().save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> Any:
        """Save the weights as `keras.Model.save_weights` does, with pending decay applied."""
        settle(self.variables)
        return super().save_weights(*args, **kwargs)

    def load_weights(self, *args: Any, **kwargs: Any) -> None:
        """Load weights as `keras.Model.load_weights` does. Pending decay does not act on the new values."""
        settle(self.variables)
        super().load_weights(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Export the model as `keras.Model.export` does, with pending decay applied.

        `keras_rafm.export` writes a SavedModel with the layout and the signatures that TensorFlow Serving expects. In both,
        ids outside `[0, num_features)` contribute nothing to the score.
        """
        settle(self.variables)
        with call_context(is_serving=True):
            return super().export(*args, **kwargs)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None, **kwargs: Any) -> Any:
        """Check integer inputs and compute the outputs."""
        # Under a distribution strategy Keras builds the model on the mean of the replicas' batches, whose ids are floats.
        # So the training, test and prediction steps check the inputs instead.
        checked = []
        if tf.executing_eagerly() or not tf.distribute.has_strategy():
            checked = check_integer_inputs(inputs, self)
        with tf.control_dependencies(checked):
            return super().call(inputs, training=training, mask=mask, **kwargs)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Do one bi-level update, in one forward and one backward pass, and return the logs."""
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
            dependent_losses, weighted_sum = self._graph.dependent_losses(
                loss=self.loss,
                loss_weights=self._loss_weights,
                level_scores=level_scores,
                joining_values=joining_values,
                sample_weight=sample_weight,
            )
            # A loss without a reduction has one entry per sample, and training minimises their sum.
            scaled = self.optimizer.scale_loss(tf.reduce_sum(loss) + weighted_sum)
        weights = self.trainable_weights
        if weights:
            gradients = tape.gradient(scaled, weights)
            if row_sparse_optimizer(self.optimizer) is None:
                gradients = each_row_on_one_replica(gradients)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        else:
            warnings.warn(f"{self.name} has no trainable weights.", stacklevel=2)

        self._update_trackers(loss, dependent_losses, y_pred)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _update_trackers(self, loss: tf.Tensor, dependent_losses: list[tf.Tensor], y_pred: Any) -> None:
        # Keras divides the loss by the number of replicas, because gradients are summed over them. Logs are means.
        num_replicas = tf.distribute.get_strategy().num_replicas_in_sync
        batch_size = tf.shape(keras.tree.flatten(y_pred)[0])[0]
        loss_tracker = next(metric for metric in self.metrics if metric.name == "loss")  # Keras lists its own metric first
        loss_tracker.update_state(loss * num_replicas, sample_weight=batch_size)
        for tracker, value in zip(self._dependent_loss_trackers, dependent_losses, strict=True):
            tracker.update_state(value * num_replicas, sample_weight=batch_size)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Do one step of `evaluate` and return its logs, without the lower losses, which belong to training alone."""
        self._check_under_strategy(data)
        logs = super().test_step(data)
        for tracker in self._dependent_loss_trackers:
            logs.pop(tracker.name, None)
        return logs

    def predict_step(self, data: Any) -> Any:
        """Check integer inputs and do one step of `predict`."""
        self._check_under_strategy(data)
        return super().predict_step(data)

    def _check_under_strategy(self, data: Any) -> None:
        if tf.distribute.has_strategy():
            x, _, _ = keras.utils.unpack_x_y_sample_weight(data)
            check_integer_inputs(x, self)
