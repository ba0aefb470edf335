"""The signatures of an exported model: which ones a model can have, their inputs, and their answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_rafm.serving.model_inputs import NamedSpec, by_name
from keras_rafm.serving.raw_inputs import RawInputs
from keras_rafm.serving.served_model import Answer, ServedModel

#: All signatures that an exported model may have.
SIGNATURES = ("serving_default", "ragged", "raw", "examples", "classify", "regress", "low", "level_scores")

_PREDICT = "tensorflow/serving/predict"


class Signature(NamedTuple):
    """A signature.

    Attributes:
        name: The name of the signature.
        inputs: Its inputs.
        outputs: A short description of each tensor of its answer.
        answer: Computes the answer from tensors in the order of `inputs`.
        method: The method of TF Serving's API that calls it.
    """

    name: str
    inputs: Sequence[NamedSpec]
    outputs: Mapping[str, str]
    answer: Callable[..., Answer]
    method: str = _PREDICT


def make_signatures(served: ServedModel, raw: RawInputs | None, wanted: Sequence[str] | None) -> list[Signature]:
    """Return the signatures of a model.

    Args:
        served: The model.
        raw: The raw columns of its schema, if it is exported with one.
        wanted: The names of the signatures beside `serving_default`. `None`: all that the model can have.

    Raises:
        ValueError: A name is unknown, or the model can't have such a signature.
    """
    possible = _possible_signatures(served, raw)
    if wanted is None:
        return [signature for signature in possible.values() if isinstance(signature, Signature)]
    chosen = []
    for name in dict.fromkeys(("serving_default", *wanted)):
        if name not in possible:
            raise ValueError(f"`signatures` must be among {', '.join(SIGNATURES)}. Received: {name!r}")
        signature = possible[name]
        if not isinstance(signature, Signature):
            raise ValueError(f"the model can't have the signature '{name}': {signature}")
        chosen.append(signature)
    return chosen


def _possible_signatures(served: ServedModel, raw: RawInputs | None) -> dict[str, Signature | str]:
    """Return each signature by its name, or the reason why the model can't have it."""
    inputs, meanings = served.inputs, served.meanings()
    padded, flat = inputs.padded_specs(), inputs.flat_specs()
    answers = _SharedAnswers(served, raw)
    possible: dict[str, Signature | str] = {
        "serving_default": Signature("serving_default", padded, meanings, answers.of_padded),
        "ragged": inputs.why_not_flat
        or Signature("ragged", flat, meanings, lambda *request: served.answer(inputs.from_flat(by_name(flat, request)))),
        "raw": "it is exported without a schema",
    }
    if raw is not None:
        possible["raw"] = Signature("raw", raw.specs(), meanings, answers.of_padded_columns)
    why_no_examples = inputs.why_not_in_examples if raw is None else None
    examples = tf.TensorSpec([None], tf.string, "examples")
    possible["examples"] = why_no_examples or Signature(
        "examples", [NamedSpec(examples, _meaning_of_examples(served, raw))], meanings, answers.of_examples
    )
    possible["classify"], possible["regress"] = _classify_and_regress(served, answers.of_examples, why_no_examples)
    why_no_levels = "it has one level" if served.num_levels == 1 else None
    possible["low"] = why_no_levels or Signature(
        "low",
        padded,
        {name: f"{meaning}, of the model cut off at rank D_1, a plain FM" for name, meaning in meanings.items()},
        lambda *request: served.low(inputs.from_padded(by_name(padded, request))),
    )
    possible["level_scores"] = (
        why_no_levels
        or served.why_not_columns
        or Signature(
            "level_scores",
            padded,
            served.meanings_of_levels(),
            lambda *request: served.level_scores(inputs.from_padded(by_name(padded, request))),
        )
    )
    return possible


class _SharedAnswers:
    """The answers that several signatures share. Each is a function that the SavedModel holds once."""

    def __init__(self, served: ServedModel, raw: RawInputs | None) -> None:
        inputs, padded = served.inputs, served.inputs.padded_specs()
        self._raw = raw
        self.of_padded = _graph_function(
            "answer_padded",
            lambda *request: served.answer(inputs.from_padded(by_name(padded, request))),
            [named.spec for named in padded],
        )
        examples_spec = [tf.TensorSpec([None], tf.string)]
        if raw is None:
            self.of_examples = _graph_function(
                "answer_examples", lambda examples: served.answer(inputs.from_examples(examples)), examples_spec
            )
            return
        # Columns of lists are `tf.RaggedTensor`s here.
        self._of_columns = _graph_function(
            "answer_columns",
            lambda *columns: self.of_padded(
                *raw.to_padded({c.name: tensor for c, tensor in zip(raw.columns, columns, strict=True)}).values()
            ),
            [column.spec for column in raw.columns],
        )
        self.of_examples = _graph_function(
            "answer_examples", lambda examples: self._of_columns(*raw.from_examples(examples)), examples_spec
        )

    def of_padded_columns(self, *tensors: tf.Tensor) -> Answer:
        """Answer a request of raw columns, in which missing values pad shorter lists."""
        assert self._raw is not None
        return self._of_columns(
            *(
                tf.RaggedTensor.from_tensor(tensor, row_splits_dtype=tf.int64) if column.is_list else tensor
                for column, tensor in zip(self._raw.columns, tensors, strict=True)
            )
        )


def _graph_function(name: str, function: Callable[..., Any], specs: Sequence[Any]) -> Callable[..., Any]:
    """Return a function as a `tf.function` of this name, which the graphs of several signatures can call."""

    def named(*arguments: Any) -> Any:
        return function(*arguments)

    named.__name__ = name
    return tf.function(named, input_signature=specs, autograph=False)


def _classify_and_regress(
    served: ServedModel, answer: Callable[[tf.Tensor], Answer], why_not: str | None
) -> tuple[Signature | str, Signature | str]:
    """Return `classify` and `regress`, which TF Serving calls by methods of their own."""
    output = served.only_output
    why_not = why_not or served.why_not_columns or ("it has several outputs" if output is None else None)
    if why_not is not None or output is None:
        return str(why_not), str(why_not)
    spec = NamedSpec(tf.TensorSpec([None], tf.string, "inputs"), "serialised tf.train.Examples, as in `examples`")

    def classify(examples: tf.Tensor) -> Answer:
        probability = tf.cast(answer(examples)["probability"], tf.float32)
        classes = tf.repeat(tf.constant([["0", "1"]]), tf.shape(probability)[0], axis=0)
        return {"classes": classes, "scores": tf.concat([1 - probability, probability], axis=1)}

    def regress(examples: tf.Tensor) -> Answer:
        return {"outputs": tf.cast(answer(examples)["probability" if output.is_log_loss else "score"], tf.float32)}

    meanings = {"classes": "the classes 0 and 1", "scores": "the probability of each"}
    classifier = Signature("classify", [spec], meanings, classify, "tensorflow/serving/classify")
    meaning = "the probability of class 1" if output.is_log_loss else "the model's output"
    regressor = Signature("regress", [spec], {"outputs": meaning}, regress, "tensorflow/serving/regress")
    return classifier if output.is_log_loss else "it was not compiled with a log-loss", regressor


def _meaning_of_examples(served: ServedModel, raw: RawInputs | None) -> str:
    if raw is not None:
        names = [f"'{column.name}' ({column.dtype})" for column in raw.columns]
        return f"serialised tf.train.Examples with the features {', '.join(names)}; absent ones are missing values"
    features = served.inputs.example_features()
    return "serialised tf.train.Examples with the features " + ", ".join(
        f"'{name}' ({feature.dtype.name})" for name, feature in features.items()
    )
