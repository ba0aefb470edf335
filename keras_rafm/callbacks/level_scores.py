"""The level scores of a model on the analysis data, and its outputs and losses at each level."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.callbacks.analysis_data import take_rows
from keras_rafm.callbacks.shown_layer import ShownLayer
from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.checks.model_inputs import check_integer_inputs
from keras_rafm.frequency_buckets import FrequencyLoss, bucket_of_counts, rarest_counts
from keras_rafm.layer import RaFMLayer
from keras_rafm.score.occurrences import occurrences
from keras_rafm.training.downstream import find_downstreams
from keras_rafm.training.functional_graph import inputs_of_call, nodes_above
from keras_rafm.training.imitation import imitations_of, names_of_outputs


class LevelResults(NamedTuple):
    """The level scores of one layer, and the outputs of the model at each level.

    Attributes:
        scores: `ŷ_1 … ŷ_m`, float64 `[N, m]`.
        outputs: For each level, the model's flat outputs with the level score in place of the score.
        dependent_outputs: The indices of the outputs that depend on the score.
    """

    scores: npt.NDArray[np.float64]
    outputs: list[list[npt.NDArray[Any]]]
    dependent_outputs: list[int]


class OutputWithLoss(NamedTuple):
    """An output whose loss is shown by frequency.

    Attributes:
        prefix: The name of the output and a `/` if several outputs depend on the score; otherwise empty.
        labels: The labels of the output.
        predictions: The values of the output, as many as labels.
        loss: The loss to show.
        from_logits: Whether the values are logits, if the loss is a log-loss.
    """

    prefix: str
    labels: npt.NDArray[Any]
    predictions: npt.NDArray[Any]
    loss: FrequencyLoss
    from_logits: bool


class LevelScores:
    """The level scores of every `RaFMLayer` of a model on some data, and the model's outputs at each level.

    Args:
        model: A functional or sequential model.
        layers: Its `RaFMLayer`s.
        data: The `analysis_data` of the callback.
        max_rows: The number of rows to use, if there are as many.

    Raises:
        TypeError: `data` has the wrong type.
        ValueError: The model can't be cut at its scores, or the data do not fit it.
    """

    def __init__(self, model: keras.Model, layers: list[RaFMLayer], data: Any, max_rows: int) -> None:
        self._model = model
        # Subclassed models, and sequential models without an input, have no `outputs`.
        outputs = getattr(model, "outputs", None)
        if not outputs:
            raise ValueError(
                "`analysis_data` needs a functional or sequential model; leave it out for others. "
                f"Received: {model.name}, a {type(model).__name__} without `outputs`"
            )
        try:
            self._downstreams = find_downstreams(outputs, layers)
        except ValueError as error:
            raise ValueError(f"`analysis_data` can't be used with {model.name}; leave it out. {error}") from error
        layer_inputs = []
        for downstream in self._downstreams:
            (node,) = (node for node in nodes_above(outputs) if node.operation is downstream.layer)
            layer_inputs.append(inputs_of_call(node))
        joining = [downstream.joining for downstream in self._downstreams]
        self._is_sequential = not hasattr(model, "input")
        self._values = keras.Model(
            model.inputs[0] if self._is_sequential else model.input, [layer_inputs, list(outputs), joining]
        )
        self._names = ["output"] if self._is_sequential else names_of_outputs(model)
        self._buckets: dict[str, npt.NDArray[np.int64]] = {}
        self._batches, self._labels = take_rows(data, max_rows, model)
        try:
            self._forward(self._batches[0])
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            raise ValueError(f"`analysis_data` does not fit {model.name}: {error}") from error

    def compute(self) -> list[LevelResults]:
        """Return the results of each layer, with the weights that the model has now."""
        batches = [self._forward(inputs) for inputs in self._batches]
        results = []
        for index, downstream in enumerate(self._downstreams):
            scores = np.concatenate([batch[index][0] for batch in batches]).astype(np.float64)
            by_level = [
                [np.concatenate(parts) for parts in zip(*outputs, strict=True)]
                for outputs in zip(*(batch[index][1] for batch in batches), strict=True)
            ]
            results.append(LevelResults(scores, by_level, downstream.outputs))
        return results

    def compiled_loss(self, outputs: list[npt.NDArray[Any]]) -> float | None:
        """Return the compiled loss of these flat outputs; `None` if the model was compiled without a loss."""
        loss = self._model._compile_loss
        if loss is None:
            return None
        predicted = outputs[0] if self._is_sequential else keras.tree.pack_sequence_as(self._model.output, outputs)
        if isinstance(predicted, (list, tuple)) and len(predicted) == 1:
            predicted = predicted[0]
        # With several outputs, the loss object keeps running means of their losses. The analysis must not change them.
        state = [variable.numpy() for variable in loss.variables]
        value = loss(self._labels, keras.tree.map_structure(tf.convert_to_tensor, predicted))
        for variable, previous in zip(loss.variables, state, strict=False):  # the first call creates variables
            variable.assign(previous)
        return None if value is None else float(tf.reduce_mean(value))

    def outputs_with_loss(self, indices: list[int], outputs: list[npt.NDArray[Any]]) -> Iterator[OutputWithLoss]:
        """Yield those of some outputs that have a loss, and as many labels as values."""
        imitations = imitations_of(self._model.loss, None, self._names)
        for index in indices:
            imitation, labels = imitations[index], self._labels_of(index)
            if imitation is None or labels is None or labels.size != outputs[index].size:
                continue
            prefix = f"{self._names[index]}/" if len(indices) > 1 else ""
            from_logits = imitation.is_cross_entropy and bool(imitation.loss.from_logits)
            loss: FrequencyLoss = "log_loss" if imitation.is_cross_entropy else "rmse"
            yield OutputWithLoss(prefix, labels, predictions=outputs[index], loss=loss, from_logits=from_logits)

    def buckets(self, shown: ShownLayer) -> npt.NDArray[np.int64]:
        """Return the frequency bucket of every row: int64 `[N]`."""
        layer, counts = shown.layer, shown.counts
        assert counts is not None
        if layer.name not in self._buckets:
            index = next(i for i, downstream in enumerate(self._downstreams) if downstream.layer is layer)
            ids = [_ragged_ids(self._values(inputs, training=False)[0][index], layer) for inputs in self._batches]
            padded = tf.concat(ids, axis=0).to_tensor(PADDING_ID).numpy()
            self._buckets[layer.name] = bucket_of_counts(rarest_counts(padded, counts))
        return self._buckets[layer.name]

    def _forward(self, inputs: Any) -> list[tuple[npt.NDArray[Any], list[list[npt.NDArray[Any]]]]]:
        """Return, for each layer, the level scores `[B, m]` of a batch and the model's flat outputs at each level."""
        if not self._is_sequential:
            check_integer_inputs(inputs, self._model)
        layer_inputs, outputs, joining = self._values(inputs, training=False)
        results = []
        for downstream, inputs_of_layer, joining_values in zip(self._downstreams, layer_inputs, joining, strict=True):
            scores = downstream.layer.level_scores(inputs_of_layer)
            by_level = []
            for level in range(downstream.layer.num_levels):
                score = scores[:, level : level + 1]
                dependent_outputs = [score]
                if downstream.model is not None:
                    dependent_outputs = keras.tree.flatten(downstream.model([score, *joining_values], training=False))
                at_level = list(outputs)
                for index, output in zip(downstream.outputs, dependent_outputs, strict=True):
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


def _ragged_ids(inputs: Any, layer: RaFMLayer) -> tf.RaggedTensor:
    """Return the feature ids in the inputs of a layer, given in any form: int64 `[B, (F)]`."""
    batch = occurrences(inputs, layer.num_features, "float32", where=layer.name)
    return tf.RaggedTensor.from_value_rowids(tf.cast(batch.ids, tf.int64), batch.samples, nrows=batch.num_samples)
