"""A functional model prepared for serving: its inputs, its layers and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rafm.layer import RaFMLayer
from keras_rafm.score.call_context import call_context
from keras_rafm.serving.model_inputs import InputValues, ModelInputs
from keras_rafm.serving.served_layer import Precision, ServedLayer
from keras_rafm.training.functional_graph import is_sigmoid_layer, node_of, rafm_layers_of, run_graph, takes_values
from keras_rafm.training.imitation import OutputImitation, imitations_of, names_of_outputs

#: The named tensors of a response.
Answer = dict[str, tf.Tensor]


class ServedModel:
    """A functional model for serving.

    Args:
        model: The model. Its idle rows must be settled.
        compiled: The model that was compiled: `model` itself, or the Sequential that it is a functional view of.
        level: `k`: the level score `ŷ_k` takes the place of `ŷ_m`. `None`: the highest level.
        precision: How factors are stored.

    Raises:
        ValueError: The model has no such level, or its inputs can't be served (see `ModelInputs`).
    """

    def __init__(
        self, model: keras.Model, compiled: keras.Model, level: int | None = None, precision: Precision = "trained"
    ) -> None:
        self.inputs = ModelInputs(model)
        #: The trained layers, those of nested models included.
        self.rafm_layers = rafm_layers_of(model)
        highest = max(layer.num_levels for layer in self.rafm_layers)
        if level is not None and not 1 <= level <= highest:
            raise ValueError(f"`level` must be in 1 … {highest}. Received: level={level}")
        self.num_levels = highest if level is None else level
        #: Their forms for serving, by the `id` of the trained layer.
        self.layers = {
            id(layer): ServedLayer(
                layer,
                level=min(self.num_levels, layer.num_levels),
                precision=precision,
                has_values=takes_values(layer),
            )
            for layer in self.rafm_layers
        }
        self._model = model
        self._outputs = _served_outputs(model, compiled)
        # One run of the graph gives the outputs and the logits below their sigmoids.
        self._logits = [_logit_below_sigmoid(output) for output in model.outputs]

    @property
    def only_output(self) -> ServedOutput | None:
        """The output of a model that has one output with one number per sample; `None` for other models."""
        return self._outputs[0] if len(self._outputs) == 1 and self.why_not_columns is None else None

    @property
    def why_not_columns(self) -> str | None:
        """Why the outputs of several levels can't stand side by side as columns; `None` if they can."""
        for output in self._model.outputs:
            if len(output.shape) != 2 or output.shape[1] != 1:
                return f"an output is of shape {tuple(output.shape)} and not [batch, 1]"
        return None

    def answer(self, input_values: InputValues) -> Answer:
        """Return scores, probabilities and classes of all outputs."""
        return self._answer_at_level(input_values, self.num_levels, {})

    def low(self, input_values: InputValues) -> Answer:
        """Return scores, probabilities and classes of the model cut off at level 1."""
        return self._answer_at_level(input_values, 1, {})

    def level_scores(self, input_values: InputValues) -> Answer:
        """Return scores and probabilities of all levels side by side: `[B, m]`."""
        occurrences: dict[Any, Any] = {}
        levels = range(1, self.num_levels + 1)
        answers = [self._answer_at_level(input_values, level, occurrences) for level in levels]
        return {
            name_of_levels: tf.concat([answer[name] for answer in answers], axis=1)
            for output in self._outputs
            for name, name_of_levels in output.names_of_levels().items()
        }

    def raw_outputs(self, input_values: InputValues) -> list[tf.Tensor]:
        """Return the flat outputs of the model, without turning them into scores and probabilities."""
        return self._run(input_values, self._model.outputs, self.num_levels, {})

    def meanings(self) -> dict[str, str]:
        """Return a short description of each tensor of `answer`."""
        return {name: meaning for output in self._outputs for name, meaning in output.meanings().items()}

    def meanings_of_levels(self) -> dict[str, str]:
        """Return a short description of each tensor of `level_scores`."""
        return {
            name_of_levels: f"{output.meanings()[name]} at each level: column k is for the model cut off at rank D_k"
            for output in self._outputs
            for name, name_of_levels in output.names_of_levels().items()
        }

    def _answer_at_level(self, input_values: InputValues, level: int, occurrences: dict[Any, Any]) -> Answer:
        tensors = [*self._model.outputs, *(logit for logit in self._logits if logit is not None)]
        results = self._run(input_values, tensors, level, occurrences)
        logits = iter(results[len(self._logits) :])
        answer: Answer = {}
        for served, output, logit in zip(self._outputs, results, self._logits, strict=False):
            answer.update(served.answer(output, None if logit is None else next(logits)))
        return answer

    def _run(
        self, input_values: InputValues, tensors: list[Any], level: int, occurrences: dict[Any, Any]
    ) -> list[tf.Tensor]:
        """Run the graph with a level score in place of each layer's score.

        Args:
            input_values: The values of the model inputs.
            tensors: The tensors of the graph to return.
            level: The level; a layer with fewer levels gives its highest level score.
            occurrences: What served layers read from their inputs, kept so that runs at several levels share it.
        """

        def score(layer: RaFMLayer, inputs: Any) -> tf.Tensor:
            served = self.layers[id(layer)]
            tensors_of_call = tuple(inputs.values()) if isinstance(inputs, Mapping) else (inputs,)
            key = (id(layer), *map(id, tensors_of_call))
            if key not in occurrences:
                # Keeping the tensors makes sure that no later tensor gets one of their identities.
                occurrences[key] = (served.occurrences(inputs), tensors_of_call)
            (level_score,) = served.scores(occurrences[key][0], [min(level, served.num_levels)])
            return level_score

        with call_context(is_serving=True, served_score=score):
            return run_graph(tensors, input_values)


class ServedOutput(NamedTuple):
    """The tensors of an answer that belong to one output of the model.

    Attributes:
        suffix: The end of the names of these tensors: empty if the model has one output.
        is_log_loss: Whether the output was trained with a log-loss.
        from_logits: Whether that log-loss takes logits.
    """

    suffix: str
    is_log_loss: bool
    from_logits: bool

    def meanings(self) -> dict[str, str]:
        """Return a short description of each tensor."""
        if not self.is_log_loss:
            return {f"score{self.suffix}": "the model's output"}
        return {
            f"score{self.suffix}": "the logit",
            f"probability{self.suffix}": "the probability of class 1",
            f"class{self.suffix}": "1 where the probability is above 0.5, else 0",
        }

    def names_of_levels(self) -> dict[str, str]:
        """Return the names that scores and probabilities have in `level_scores`."""
        names = {f"score{self.suffix}": f"level_scores{self.suffix}"}
        return {**names, f"probability{self.suffix}": f"level_probabilities{self.suffix}"} if self.is_log_loss else names

    def answer(self, output: tf.Tensor, logit: tf.Tensor | None) -> Answer:
        """Return the tensors.

        Args:
            output: The output of the model.
            logit: The tensor that a sigmoid makes the output from, if there is one.
        """
        if not self.is_log_loss:
            return {f"score{self.suffix}": output}
        if self.from_logits:
            score, probability = output, tf.sigmoid(output)
        else:
            score, probability = _logit(output) if logit is None else logit, output
        is_one = tf.cast(probability > 0.5, tf.int64)
        return {f"score{self.suffix}": score, f"probability{self.suffix}": probability, f"class{self.suffix}": is_one}


def _served_outputs(model: keras.Model, compiled: keras.Model) -> list[ServedOutput]:
    names = names_of_outputs(model)
    suffixes = [f"_{name}" if names.count(name) == 1 else f"_{name}_{index}" for index, name in enumerate(names)]
    losses: list[OutputImitation | None] = [None] * len(names)
    if compiled.compiled and compiled.loss is not None:
        losses = imitations_of(compiled.loss, None, names)
    return [
        ServedOutput(
            suffix if len(names) > 1 else "",
            is_log_loss=loss is not None and loss.is_cross_entropy,
            from_logits=loss is not None and loss.is_cross_entropy and loss.loss.from_logits,
        )
        for suffix, loss in zip(suffixes, losses, strict=True)
    ]


def _logit(probability: tf.Tensor) -> tf.Tensor:
    # A float32 probability of exactly 0 or 1 would make an infinite score. 16 bits can't represent the limits below.
    wide = tf.cast(probability, tf.float32) if probability.dtype.size < 4 else probability
    limit = tf.constant(1e-7, wide.dtype)
    clipped = tf.clip_by_value(wide, limit, 1 - limit)
    return tf.cast(tf.math.log(clipped) - tf.math.log1p(-clipped), probability.dtype)


def _logit_below_sigmoid(output: keras.KerasTensor) -> keras.KerasTensor | None:
    """Return the tensor that a sigmoid layer makes an output from; `None` for other outputs."""
    node = node_of(output)
    return node.input_tensors[0] if is_sigmoid_layer(node.operation) else None
