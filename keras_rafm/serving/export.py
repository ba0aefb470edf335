"""A model -> a new version directory of a SavedModel."""

from __future__ import annotations

import keyword
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_rafm.data.encoder import tables_from_files
from keras_rafm.data.schema import Schema
from keras_rafm.downstream import node_of, nodes_above
from keras_rafm.idle_decay import settle
from keras_rafm.imitation import OutputImitation, imitations_of, names_of_outputs
from keras_rafm.layer import RaFMLayer
from keras_rafm.occurrences import PADDING_ID
from keras_rafm.scopes import serving

_EXTRA = "assets.extra"
_INPUT_NAME = re.compile("[A-Za-z][A-Za-z0-9_]*")  # TensorFlow renames any other input of a signature


def export(model: keras.Model, path: str | os.PathLike[str], schema: Schema | None = None) -> Path:
    """Write a functional model with a `RaFMLayer` as the next version of a SavedModel, for TF Serving.

    The signature `serving_default` takes named inputs:

    - `ids` `[B, F]` in the dtype of the model's input (int64 for a sparse one); −1 is padding, and ids outside
      `[0, num_features)` (features unseen in training) contribute nothing to a `RaFMLayer`. Another layer that reads the
      same input, such as an `Embedding`, gets all ids as they are and must be able to take them;
    - `values` `[B, F]` in the dtype of the model's input (float32 for a sparse one), where the model takes values; a
      ragged or sparse model takes them padded in the same way;
    - any other input of the model under its own name. So do ids and values of a model with several of them.

    With a `schema` there is also the signature `raw`, which takes the schema's columns by name, string, int64 or float32
    `[B]`, lists as `[B, n]` padded with missing values (empty strings, −2**63, NaN). The vocabularies are assets of the
    SavedModel, and the schema itself is beside it, in `assets.extra/schema`.

    Both give `score` (the model's output; the logit for a log-loss model) and, if the model is compiled with a log-loss,
    `probability`; both `[B, 1]`. With several outputs these are `score_NAME` and `probability_NAME`.

    The version is written beside the model directory under a name that starts with a dot, and then renamed, so a server
    that watches the directory never sees half of it.

    Args:
        model: A functional model, `RaFMModel` or other, or a built Sequential.
        path: The model directory, which is made if needed. It holds nothing but integer versions.
        schema: What maps raw columns to the inputs of the model, which are those of `schema.inputs()`.

    Returns:
        The new version directory: `path/1`, or one above the highest there.

    Raises:
        TypeError: The model is neither functional nor a built Sequential.
        RuntimeError: The schema was not adapted.
        ValueError: There is no `RaFMLayer` in the model, the directory is not a local one or holds something else than
            versions, an input is ragged or sparse and goes elsewhere than into a `RaFMLayer`, or the model was not made
            for the schema, one of whose columns may have a name that a signature can't have.
    """
    if isinstance(model, keras.Sequential) and model.built:
        graph = keras.Model(model.inputs, model.outputs)
    elif isinstance(model, keras.Model) and hasattr(model, "operations"):  # a subclassed model has none
        graph = model
    else:
        raise TypeError(
            "`model` must be a functional keras.Model or a built Sequential. "
            f"Received: {model!r} of type {type(model).__name__}"
        )
    if "://" in os.fspath(path):
        raise ValueError(f"`path` must be a local directory. Received: {os.fspath(path)}")
    settle(model.variables)
    directory = Path(path)
    inputs = _serving_inputs(graph)
    if schema is not None:
        _check_schema(schema, graph, inputs)
    version = _next_version(directory)
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        archive = keras.export.ExportArchive()
        archive.track(model)
        serve = _serving_function(graph, inputs, _heads(graph, model))
        archive.add_endpoint("serving_default", serve, inputs.specs)
        if schema is not None:
            folder = unfinished / "schema"
            _add_raw_endpoint(archive, serve, inputs, schema, folder)
        archive.write_out(
            str(unfinished / "model"),
            tf.saved_model.SaveOptions(experimental_custom_gradients=False),
            verbose=False,
        )
        if schema is not None:
            (unfinished / "model" / _EXTRA).mkdir()
            folder.rename(unfinished / "model" / _EXTRA / "schema")
        directory.mkdir(exist_ok=True)
        (unfinished / "model").rename(directory / str(version))
    finally:
        shutil.rmtree(unfinished)
    return directory / str(version)


def _check_schema(schema: Schema, model: keras.Model, inputs: _ServingInputs) -> None:
    expected = {"ids", "values"} if schema.has_values else {"ids"}
    found = {spec.name for spec in inputs.specs}
    if found != expected:
        raise ValueError(
            f"the model must have the inputs of schema.inputs(), {sorted(expected)}, to be exported with the schema. "
            f"Received a model with the inputs {sorted(found)}"
        )
    width = schema.inputs()["ids"].shape[1]
    for spec in inputs.specs:
        if spec.shape[1] not in (None, width):
            raise ValueError(
                f"the model must have the inputs of schema.inputs(), of width {width}, to be exported with the schema. "
                f"Received a model with the input '{spec.name}' of width {spec.shape[1]}"
            )
    illegal = illegal_input_names(schema)
    if illegal:
        raise ValueError(
            f"columns of an exported schema must have names of letters, digits and underscores, a letter first, other "
            f"than 'self' and Python's keywords. Received: {illegal}"
        )
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, RaFMLayer) and layer.num_features != schema.num_features:
            raise ValueError(
                f"the schema must be the one that the model was made for. Received: a schema of {schema.num_features:,} "
                f"features, and {layer.name} of {layer.num_features:,}"
            )


def illegal_input_names(schema: Schema) -> list[str]:
    """The columns whose names the signature `raw` can't have."""
    names = [column.name for column in schema.raw_columns(training=False)]
    # A function of TensorFlow's is called with them as keywords.
    return [n for n in names if not _INPUT_NAME.fullmatch(n) or keyword.iskeyword(n) or n == "self"]


def _add_raw_endpoint(
    archive: keras.export.ExportArchive, serve: Any, inputs: _ServingInputs, schema: Schema, folder: Path
) -> None:
    """The signature `raw`. The schema is written to the folder, from where its vocabularies become assets."""
    schema.save(folder)
    encoder = schema.new_encoder(tables_from_files(folder, schema.columns))
    columns = schema.raw_columns(training=False)
    archive.track(encoder)

    def serve_raw(*raw: tf.Tensor) -> dict[str, tf.Tensor]:
        encoded = encoder(dict(zip((column.name for column in columns), raw, strict=True)))
        return serve(*(tf.cast(encoded[spec.name], spec.dtype) for spec in inputs.specs))

    specs = [tf.TensorSpec([None, None] if c.is_list else [None], tf.as_dtype(c.dtype), c.name) for c in columns]
    archive.add_endpoint("raw", serve_raw, specs)


class _ServingInputs(NamedTuple):
    """What a request holds, and for each input of the model which parts of it it is made from.

    Attributes:
        specs: The named tensors of a request.
        sources: Per input of the model, its kind (`"dense"`, `"ragged"`, `"sparse"`) and the names it is made from:
            itself, then for a ragged one whose row lengths are those of other ids, the name of these.
        num_columns: Per input of the model, the columns of a sparse one.
    """

    specs: list[tf.TensorSpec]
    sources: list[tuple[str, list[str]]]
    num_columns: list[int | None]


def _serving_inputs(model: keras.Model) -> _ServingInputs:
    roles = _roles_of_inputs(model)
    ids_of_layers = {id(ids) for ids, _ in roles}
    shared = len(ids_of_layers) == 1 and len({id(values) for _, values in roles if values is not None}) <= 1
    name_of: dict[int, str] = {}
    ids_of_values: dict[int, Any] = {}
    for ids, values in roles:
        if ids is not None:
            name_of[id(ids)] = "ids" if shared else ids.name
        if values is not None:
            name_of[id(values)] = "values" if shared else values.name
            ids_of_values[id(values)] = ids

    specs: list[tf.TensorSpec] = []
    sources, num_columns = [], []
    for tensor in model.inputs:
        name = name_of.get(id(tensor), tensor.name)
        columns = None
        if getattr(tensor, "sparse", False):
            if id(tensor) not in name_of:
                raise ValueError(f"Input '{tensor.name}' is sparse and not the input of a RaFMLayer: it can't be exported")
            values_name = "values" if shared else f"{name}_values"
            specs += [
                tf.TensorSpec([None, None], tf.int64, name),
                tf.TensorSpec([None, None], tensor.dtype, values_name),
            ]
            sources.append(("sparse", [name, values_name]))
            columns = tensor.shape[1]
        elif getattr(tensor, "ragged", False):
            if id(tensor) not in name_of:
                raise ValueError(f"Input '{tensor.name}' is ragged and not the input of a RaFMLayer: it can't be exported")
            specs.append(tf.TensorSpec([None, None], tensor.dtype, name))
            lengths_of = ids_of_values.get(id(tensor))
            sources.append(("ragged", [name] if lengths_of is None else [name, name_of[id(lengths_of)]]))
        else:
            specs.append(tf.TensorSpec(tensor.shape, tensor.dtype, name))
            sources.append(("dense", [name]))
        num_columns.append(columns)
    return _ServingInputs(specs, sources, num_columns)


def _roles_of_inputs(model: keras.Model) -> list[tuple[Any, Any]]:
    """Per `RaFMLayer`, the model inputs that are its ids and its values; `None` for what is computed in the graph."""
    inputs = {id(tensor) for tensor in model.inputs}
    roles = []
    for node in nodes_above(model.outputs):
        if isinstance(node.operation, RaFMLayer):
            given = node.arguments.args[0] if node.arguments.args else node.arguments.kwargs["inputs"]
            ids, values = (given["ids"], given.get("values")) if isinstance(given, Mapping) else (given, None)
            roles.append((ids if id(ids) in inputs else None, values if id(values) in inputs else None))
    if not roles:
        raise ValueError(f"{model.name} has no RaFMLayer among its layers")
    return roles


def _serving_function(model: keras.Model, inputs: _ServingInputs, heads: list[tuple[str, Any]]) -> Any:
    # One run gives the outputs, and the logits that their sigmoids were computed from.
    logits = [_logit_of(output) for output in model.outputs]
    run = keras.Model(model.input, [*model.outputs, *(logit for logit in logits if logit is not None)])

    def serve(*request: tf.Tensor) -> dict[str, tf.Tensor]:
        by_name = {spec.name: tensor for spec, tensor in zip(inputs.specs, request, strict=True)}
        fed = [
            _model_input(kind, [by_name[name] for name in names], columns)
            for (kind, names), columns in zip(inputs.sources, inputs.num_columns, strict=True)
        ]
        with serving():
            results = keras.tree.flatten(run(keras.tree.pack_sequence_as(model.input, fed), training=False))
        outputs, computed_logits = results[: len(logits)], iter(results[len(logits) :])
        response = {}
        for (suffix, head), output, logit in zip(heads, outputs, logits, strict=True):
            answer = head(output, None if logit is None else next(computed_logits))
            response.update({f"{key}{suffix}": value for key, value in answer.items()})
        return response

    return serve


def _model_input(kind: str, tensors: list[tf.Tensor], num_columns: int | None) -> Any:
    if kind == "ragged":
        if len(tensors) == 1:
            return tf.RaggedTensor.from_tensor(tensors[0], padding=PADDING_ID)
        values, ids = tensors
        return tf.RaggedTensor.from_tensor(
            values, lengths=tf.RaggedTensor.from_tensor(ids, padding=PADDING_ID).row_lengths()
        )
    if kind == "sparse":
        ids, values = tensors
        kept = tf.where((ids >= 0) & (ids < num_columns))
        indices = tf.stack([kept[:, 0], tf.gather_nd(ids, kept)], axis=1)
        shape = tf.stack([tf.shape(ids, out_type=tf.int64)[0], tf.constant(num_columns, tf.int64)])
        return tf.SparseTensor(indices, tf.gather_nd(values, kept), shape)
    return tensors[0]


def _heads(graph: keras.Model, compiled: keras.Model) -> list[tuple[str, Any]]:
    """Per output of the graph, the suffix of its names and what a response says of it, given the compiled loss."""
    several = len(graph.outputs) > 1
    names = names_of_outputs(graph)
    losses: list[OutputImitation | None] = [None] * len(graph.outputs)
    if compiled.compiled and compiled.loss is not None:
        losses = imitations_of(compiled.loss, None, names)
    heads: list[tuple[str, Any]] = []
    for name, imitation in zip(names, losses, strict=True):
        suffix = f"_{name}" if several else ""
        if imitation is None or not imitation.is_cross_entropy:
            heads.append((suffix, _score_only))
        else:
            heads.append((suffix, _score_and_probability if imitation.loss.from_logits else _logit_and_probability))
    return heads


def _score_only(output: tf.Tensor, logit: tf.Tensor | None) -> dict[str, tf.Tensor]:
    del logit
    return {"score": output}


def _score_and_probability(output: tf.Tensor, logit: tf.Tensor | None) -> dict[str, tf.Tensor]:
    del logit
    return {"score": output, "probability": tf.sigmoid(output)}


def _logit_and_probability(probability: tf.Tensor, logit: tf.Tensor | None) -> dict[str, tf.Tensor]:
    if logit is None:
        # A probability of exactly 0 or 1 in float32 would make an infinite score.
        limit = tf.constant(1e-7, probability.dtype)
        clipped = tf.clip_by_value(probability, limit, 1 - limit)
        logit = tf.math.log(clipped) - tf.math.log1p(-clipped)
    return {"score": logit, "probability": probability}


def _logit_of(output: keras.KerasTensor) -> keras.KerasTensor | None:
    """What a sigmoid at the end of the graph is computed from; `None` where there is no such tensor."""
    node = node_of(output)
    is_sigmoid = getattr(node.operation, "activation", None) is keras.activations.sigmoid
    return node.input_tensors[0] if isinstance(node.operation, keras.layers.Activation) and is_sigmoid else None


def _next_version(directory: Path) -> int:
    if not directory.exists():
        return 1
    if not directory.is_dir():
        raise ValueError(f"{directory} is a file; `path` must be a model directory, which holds integer versions")
    names = [entry.name for entry in directory.iterdir()]
    others = [name for name in names if not name.isdecimal()]
    if others:
        raise ValueError(
            f"A model directory must hold nothing but integer versions. Received: {directory}, which holds {sorted(others)}"
        )
    return 1 + max(map(int, names), default=0)
