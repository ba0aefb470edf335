"""The signatures of an exported model: which there are, what they take and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rafm.data.columns.encoder import Encoder, tables_from_files
from keras_rafm.data.formats.examples import parse_examples
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.schema import Schema
from keras_rafm.layer import RaFMLayer
from keras_rafm.score.call_context import call_context
from keras_rafm.serving.model_inputs import Fed, ModelInputs, NamedSpec, takes_values
from keras_rafm.serving.served_layer import Precision, ServedLayer
from keras_rafm.training.downstream import node_of, run_graph
from keras_rafm.training.imitation import OutputImitation, imitations_of, names_of_outputs

#: All signatures that an exported model may have.
SIGNATURES = ("serving_default", "ragged", "raw", "examples", "classify", "regress", "low", "level_scores")

_PREDICT = "tensorflow/serving/predict"
_Answer = dict[str, tf.Tensor]


class Signature(NamedTuple):
    """A signature.

    Attributes:
        name: Its name.
        inputs: What it takes.
        outputs: The meaning of each tensor of its answer.
        answer: Of those inputs.
        method: What TF Serving calls it by.
    """

    name: str
    inputs: Sequence[NamedSpec]
    outputs: Mapping[str, str]
    answer: Callable[..., _Answer]
    method: str = _PREDICT


class ServedModel:
    """A functional model for serving.

    Args:
        model: The model, whose idle rows are settled.
        compiled: What it was compiled as, if that is another object.
        level: The level whose scores take the place of `ŷ_m`; `None`: the highest.
        precision: How factors are stored.

    Raises:
        ValueError: As `ModelInputs`, or there is no such level.
    """

    def __init__(
        self, model: keras.Model, compiled: keras.Model, level: int | None = None, precision: Precision = "trained"
    ) -> None:
        self.inputs = ModelInputs(model)
        #: All, those in nested models too.
        self.rafm_layers = [own for own in model._flatten_layers(include_self=False) if isinstance(own, RaFMLayer)]
        most = max(layer.num_levels for layer in self.rafm_layers)
        if level is not None and not 1 <= level <= most:
            raise ValueError(f"`level` must be in 1 … {most}. Received: level={level}")
        self.num_levels = most if level is None else level
        self.layers = {
            id(layer): ServedLayer(
                layer,
                min(self.num_levels, layer.num_levels),
                precision,
                has_values=takes_values(layer),
            )
            for layer in self.rafm_layers
        }
        self._model = model
        self._heads = _heads(model, compiled)
        # One run gives the outputs, and the logits that their sigmoids were computed from.
        self._logits = [_logit_of(output) for output in model.outputs]

    @property
    def single_head(self) -> _Head | None:
        """The output of a model that has one, and that one a number per sample."""
        return self._heads[0] if len(self._heads) == 1 and self.why_not_columns is None else None

    @property
    def why_not_columns(self) -> str | None:
        """Why the outputs of several levels can't stand side by side as columns; `None` if they can."""
        for output in self._model.outputs:
            if len(output.shape) != 2 or output.shape[1] != 1:
                return f"an output is of shape {tuple(output.shape)} and not [batch, 1]"
        return None

    def answer(self, fed: Fed) -> _Answer:
        """Scores, probabilities and classes of all outputs."""
        return self._answer(fed, self.num_levels, {})

    def low(self, fed: Fed) -> _Answer:
        """The same of level 1."""
        return self._answer(fed, 1, {})

    def level_scores(self, fed: Fed) -> _Answer:
        """Scores and probabilities of all levels side by side: `[B, m]`."""
        remembered: dict[Any, Any] = {}
        by_level = [self._answer(fed, level, remembered) for level in range(1, self.num_levels + 1)]
        return {
            of_levels: tf.concat([answer[name] for answer in by_level], axis=1)
            for head in self._heads
            for name, of_levels in head.names_of_levels().items()
        }

    def raw_outputs(self, fed: Fed) -> list[tf.Tensor]:
        """The flat outputs of the model as they are."""
        return self._run(fed, self._model.outputs, self.num_levels, {})

    def meanings(self) -> dict[str, str]:
        """Of the tensors of an answer."""
        return {name: meaning for head in self._heads for name, meaning in head.meanings().items()}

    def meanings_of_levels(self) -> dict[str, str]:
        """Of those of `level_scores`."""
        return {
            of_levels: f"{head.meanings()[name]}, at each level: column k is that of the model cut off at rank D_k"
            for head in self._heads
            for name, of_levels in head.names_of_levels().items()
        }

    def _answer(self, fed: Fed, level: int, remembered: dict[Any, Any]) -> _Answer:
        outputs = [*self._model.outputs, *(logit for logit in self._logits if logit is not None)]
        results = self._run(fed, outputs, level, remembered)
        logits = iter(results[len(self._logits) :])
        answer: _Answer = {}
        for head, output, logit in zip(self._heads, results, self._logits, strict=False):
            answer.update(head.answer(output, None if logit is None else next(logits)))
        return answer

    def _run(self, fed: Fed, outputs: list[Any], level: int, remembered: dict[Any, Any]) -> list[tf.Tensor]:
        def score(layer: RaFMLayer, inputs: Any) -> tf.Tensor:
            served = self.layers[id(layer)]
            given = tuple(inputs.values()) if isinstance(inputs, Mapping) else (inputs,)
            key = (id(layer), *map(id, given))
            if key not in remembered:
                # With what was given, so that nothing else gets its identity.
                remembered[key] = (served.occurrences(inputs), given)
            (own,) = served.scores(remembered[key][0], [min(level, served.num_levels)])
            return own

        with call_context(is_serving=True, served_score=score):
            return run_graph(outputs, fed)


class _Head(NamedTuple):
    """What an answer says of one output of the model.

    Attributes:
        suffix: Of the names of its tensors.
        is_log_loss: Whether it was trained by a log-loss, ...
        from_logits: ... and is a logit.
    """

    suffix: str
    is_log_loss: bool
    from_logits: bool

    def meanings(self) -> dict[str, str]:
        if not self.is_log_loss:
            return {f"score{self.suffix}": "the model's output"}
        return {
            f"score{self.suffix}": "the logit",
            f"probability{self.suffix}": "the probability of class 1",
            f"class{self.suffix}": "1 where the probability is above 0.5, else 0",
        }

    def names_of_levels(self) -> dict[str, str]:
        """What scores and probabilities are called in `level_scores`."""
        names = {f"score{self.suffix}": f"level_scores{self.suffix}"}
        return {**names, f"probability{self.suffix}": f"level_probabilities{self.suffix}"} if self.is_log_loss else names

    def answer(self, output: tf.Tensor, logit: tf.Tensor | None) -> _Answer:
        if not self.is_log_loss:
            return {f"score{self.suffix}": output}
        if self.from_logits:
            score, probability = output, tf.sigmoid(output)
        else:
            score, probability = _logit(output) if logit is None else logit, output
        is_one = tf.cast(probability > 0.5, tf.int64)
        return {f"score{self.suffix}": score, f"probability{self.suffix}": probability, f"class{self.suffix}": is_one}


class RawInputs:
    """The raw columns of a schema as inputs of a model.

    Args:
        schema: The schema.
        served: The model that was made for it.
        folder: Where the schema is saved, from where its vocabularies become assets.
    """

    def __init__(self, schema: Schema, served: ServedModel, folder: Path) -> None:
        self.encoder: Encoder = schema.new_encoder(tables_from_files(folder, schema.columns))
        self.columns = schema.raw_columns(training=False)
        self._dtypes = {own.spec.name: own.spec.dtype for own in served.inputs.padded()}

    def named(self) -> list[NamedSpec]:
        """The columns."""
        return named_columns(self.columns)

    def padded(self, raw: Mapping[str, Any]) -> list[tf.Tensor]:
        """What `serving_default` takes, from the columns."""
        encoded = self.encoder(raw)
        return [tf.cast(encoded[name], dtype) for name, dtype in self._dtypes.items()]

    def parsed(self, texts: tf.Tensor) -> list[Any]:
        """The columns of serialised `tf.train.Example`s; absent features are missing values."""
        found = parse_examples(texts, self.columns, "the request", tf.constant(0, tf.int64), frozenset())
        return [found[column.name] for column in self.columns]


def named_columns(columns: Sequence[RawColumn]) -> list[NamedSpec]:
    """Raw columns as inputs of a signature."""
    missing = {"string": "an empty string", "int64": "−2**63", "float32": "NaN"}
    return [
        NamedSpec(
            tf.TensorSpec([None, None] if column.is_list else [None], tf.as_dtype(column.dtype), column.name),
            f"column '{column.name}'; {missing[column.dtype]} where a value is missing"
            + (", also behind shorter lists" if column.is_list else ""),
        )
        for column in columns
    ]


def make_signatures(served: ServedModel, raw: RawInputs | None, wanted: Sequence[str] | None) -> list[Signature]:
    """The signatures of a model.

    Args:
        served: The model.
        raw: Its raw columns, if it is exported with a schema.
        wanted: Their names; `None`: all that the model can have.

    Raises:
        ValueError: A name is unknown, or the model can't have such a signature.
    """
    possible = _possible(served, raw)
    if wanted is None:
        return [own for own in possible.values() if isinstance(own, Signature)]
    chosen = []
    for name in dict.fromkeys(("serving_default", *wanted)):
        if name not in possible:
            raise ValueError(f"`signatures` must be of {', '.join(SIGNATURES)}. Received: {name!r}")
        own = possible[name]
        if not isinstance(own, Signature):
            raise ValueError(f"the model can't have the signature '{name}': {own}")
        chosen.append(own)
    return chosen


def _possible(served: ServedModel, raw: RawInputs | None) -> dict[str, Signature | str]:
    """Every signature, or why there can't be one."""
    inputs, meanings = served.inputs, served.meanings()
    padded, flat = inputs.padded(), inputs.flat()
    answers = _Answers(served, raw)
    possible: dict[str, Signature | str] = {
        "serving_default": Signature("serving_default", padded, meanings, answers.of_padded),
        "ragged": inputs.why_not_flat
        or Signature("ragged", flat, meanings, lambda *own: served.answer(inputs.from_flat(_by_name(flat, own)))),
        "raw": "it is exported without a schema",
    }
    if raw is not None:
        possible["raw"] = Signature("raw", raw.named(), meanings, answers.of_padded_columns)
    why_no_examples = inputs.why_not_in_examples if raw is None else None
    texts = tf.TensorSpec([None], tf.string, "examples")
    possible["examples"] = why_no_examples or Signature(
        "examples", [NamedSpec(texts, _meaning_of_examples(served, raw))], meanings, answers.of_examples
    )
    possible["classify"], possible["regress"] = _of_example_methods(served, answers.of_examples, why_no_examples)
    why_no_levels = "it has one level" if served.num_levels == 1 else None
    possible["low"] = why_no_levels or Signature(
        "low",
        padded,
        {name: f"{meaning}, of the model cut off at rank D_1, a plain FM" for name, meaning in meanings.items()},
        lambda *own: served.low(inputs.from_padded(_by_name(padded, own))),
    )
    possible["level_scores"] = (
        why_no_levels
        or served.why_not_columns
        or Signature(
            "level_scores",
            padded,
            served.meanings_of_levels(),
            lambda *own: served.level_scores(inputs.from_padded(_by_name(padded, own))),
        )
    )
    return possible


class _Answers:
    """What several signatures have in common, each a function that a SavedModel holds once."""

    def __init__(self, served: ServedModel, raw: RawInputs | None) -> None:
        inputs, padded = served.inputs, served.inputs.padded()
        self._raw = raw
        self.of_padded = _part(
            "answer_padded",
            lambda *own: served.answer(inputs.from_padded(_by_name(padded, own))),
            [named.spec for named in padded],
        )
        texts = [tf.TensorSpec([None], tf.string)]
        if raw is None:
            self.of_examples = _part("answer_examples", lambda own: served.answer(inputs.parsed(own)), texts)
            return
        # Of lists as a `tf.RaggedTensor`.
        self._of_columns = _part(
            "answer_columns",
            lambda *own: self.of_padded(*raw.padded({c.name: x for c, x in zip(raw.columns, own, strict=True)})),
            [column.spec for column in raw.columns],
        )
        self.of_examples = _part("answer_examples", lambda own: self._of_columns(*raw.parsed(own)), texts)

    def of_padded_columns(self, *columns: tf.Tensor) -> _Answer:
        """With lists that end with missing values."""
        assert self._raw is not None
        return self._of_columns(
            *(
                tf.RaggedTensor.from_tensor(own, row_splits_dtype=tf.int64) if column.is_list else own
                for column, own in zip(self._raw.columns, columns, strict=True)
            )
        )


def _part(name: str, function: Callable[..., Any], specs: Sequence[Any]) -> Callable[..., Any]:
    """A function of a graph that others call."""

    def part(*arguments: Any) -> Any:
        return function(*arguments)

    part.__name__ = name
    return tf.function(part, input_signature=specs, autograph=False)


def _of_example_methods(
    served: ServedModel, answer: Callable[[tf.Tensor], _Answer], why_not: str | None
) -> tuple[Signature | str, Signature | str]:
    """`classify` and `regress`, which TF Serving knows by methods of their own."""
    head = served.single_head
    why_not = why_not or served.why_not_columns or ("it has several outputs" if head is None else None)
    if why_not is not None or head is None:
        return str(why_not), str(why_not)
    spec = NamedSpec(tf.TensorSpec([None], tf.string, "inputs"), "serialised tf.train.Examples, as in `examples`")

    def classify(texts: tf.Tensor) -> _Answer:
        probability = tf.cast(answer(texts)["probability"], tf.float32)
        classes = tf.repeat(tf.constant([["0", "1"]]), tf.shape(probability)[0], axis=0)
        return {"classes": classes, "scores": tf.concat([1 - probability, probability], axis=1)}

    def regress(texts: tf.Tensor) -> _Answer:
        return {"outputs": tf.cast(answer(texts)["probability" if head.is_log_loss else "score"], tf.float32)}

    classes = {"classes": "the classes 0 and 1", "scores": "the probability of each"}
    classifier = Signature("classify", [spec], classes, classify, "tensorflow/serving/classify")
    output = "the probability of class 1" if head.is_log_loss else "the model's output"
    regressor = Signature("regress", [spec], {"outputs": output}, regress, "tensorflow/serving/regress")
    return classifier if head.is_log_loss else "it was not compiled with a log-loss", regressor


def _meaning_of_examples(served: ServedModel, raw: RawInputs | None) -> str:
    if raw is not None:
        names = [f"'{column.name}' ({column.dtype})" for column in raw.columns]
        return f"serialised tf.train.Examples with the features {', '.join(names)}; absent ones are missing values"
    features = served.inputs.example_features()
    return "serialised tf.train.Examples with the features " + ", ".join(
        f"'{name}' ({feature.dtype.name})" for name, feature in features.items()
    )


def _by_name(specs: Sequence[NamedSpec], tensors: Sequence[tf.Tensor]) -> dict[str, tf.Tensor]:
    return {own.spec.name: tensor for own, tensor in zip(specs, tensors, strict=True)}


def _heads(model: keras.Model, compiled: keras.Model) -> list[_Head]:
    """What an answer says of each output, given the compiled loss."""
    names = names_of_outputs(model)
    suffixes = [f"_{name}" if names.count(name) == 1 else f"_{name}_{place}" for place, name in enumerate(names)]
    losses: list[OutputImitation | None] = [None] * len(names)
    if compiled.compiled and compiled.loss is not None:
        losses = imitations_of(compiled.loss, None, names)
    return [
        _Head(
            suffix if len(names) > 1 else "",
            own is not None and own.is_cross_entropy,
            own is not None and own.is_cross_entropy and own.loss.from_logits,
        )
        for suffix, own in zip(suffixes, losses, strict=True)
    ]


def _logit(probability: tf.Tensor) -> tf.Tensor:
    # A probability of exactly 0 or 1 in float32 would make an infinite score; 16 bits have no number so near to 1.
    wide = tf.cast(probability, tf.float32) if probability.dtype.size < 4 else probability
    limit = tf.constant(1e-7, wide.dtype)
    clipped = tf.clip_by_value(wide, limit, 1 - limit)
    return tf.cast(tf.math.log(clipped) - tf.math.log1p(-clipped), probability.dtype)


def _logit_of(output: keras.KerasTensor) -> keras.KerasTensor | None:
    """What a sigmoid at the end of the graph is computed from; `None` where there is no such tensor."""
    node = node_of(output)
    is_sigmoid = getattr(node.operation, "activation", None) is keras.activations.sigmoid
    return node.input_tensors[0] if isinstance(node.operation, keras.layers.Activation) and is_sigmoid else None
