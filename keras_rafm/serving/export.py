"""A model -> a new version directory of a SavedModel."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_rafm.checks.arguments import integer_or_none, one_of
from keras_rafm.checks.model_inputs import pair_inputs
from keras_rafm.data.schema import Schema
from keras_rafm.layer import RaFMLayer
from keras_rafm.rows.idle_decay import settle
from keras_rafm.serving.model_card import EXTRA, model_card, write_model_card
from keras_rafm.serving.model_inputs import Fed, is_legal_name
from keras_rafm.serving.served_layer import Precision
from keras_rafm.serving.signatures import RawInputs, ServedModel, Signature, make_signatures
from keras_rafm.serving.version_directory import VersionDirectory
from keras_rafm.serving.warm_up import WarmUpRows, write_warm_up


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    schema: Schema | None = None,
    *,
    signatures: Sequence[str] | None = None,
    level: int | None = None,
    precision: Precision = "trained",
    evaluation: tuple[Any, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    warm_up: Any = None,
    warm_up_batch_sizes: Sequence[int] = (1,),
    warm_up_signatures: Sequence[str] | None = None,
    version: int | None = None,
    keep: int | None = None,
) -> Path:
    """Write a functional model with a `RaFMLayer` as the next version of a SavedModel, for TF Serving.

    Only what serving needs is written: no optimizer, no training graph, and of each `RaFMLayer` the factors in a form that
    answers faster. The signatures, of which a model has those that it can have:

    | signature | takes |
    |---|---|
    | `serving_default` | `ids` `[B, F]`, and `values` `[B, F]` where the model takes values; −1 is padding |
    | `ragged` | `ids` `[n]` and `values` `[n]` of all samples end to end, and `row_splits` `[B + 1]` |
    | `raw` | the schema's columns by name, string, int64 or float32 `[B]`; lists `[B, n]` padded with missing values |
    | `examples` | `examples` `[B]`, serialised `tf.train.Example`s: the schema's columns, or `ids` and `values` |
    | `classify`, `regress` | `inputs` `[B]`, the same, by the method names of TF Serving's Classify and Regress |
    | `low` | as `serving_default`, and gives `ŷ_1` in place of the score: the plain FM of rank `D_1` |
    | `level_scores` | as `serving_default`, and gives `level_scores` and `level_probabilities` `[B, m]`, of `ŷ_1 … ŷ_m` |

    All but `classify`, `regress` and `level_scores` give `score` (the model's output; the logit for a log-loss model) and,
    if the model is compiled with a log-loss, `probability` and `class` (int64); each `[B, 1]`. With several outputs these
    are `score_NAME` and so on.

    A server that batches puts requests together whose tensors differ in their first dimension alone. That can't be done
    with `ragged`, nor with requests of different widths, where the model takes any width; `examples` always can.

    Missing values are empty strings, −2**63 and NaN. Ids outside of `[0, num_features)` (features unseen in training)
    contribute nothing to a `RaFMLayer`. Another layer that reads the same input, such as an `Embedding`, gets all ids as
    they are and must be able to take them. A value that is NaN or infinite gives a score that is, for its own sample.
    Inputs that are neither ids nor values, and all if a model has several of them, have their own names.

    The version is written beside the model directory under a name that starts with a dot, and then renamed, so a server
    that watches the directory never sees half of it, whatever happens. Beside its graph, in `assets.extra`, are a model
    card (`model_card.json` and `model_card.md`) and the schema.

    Args:
        model: A functional model, `RaFMModel` or other, or a built Sequential.
        path: The model directory, which is made if needed. It holds nothing but integer versions.
        schema: What maps raw columns to the inputs of the model, which are those of `schema.inputs()`. Its vocabularies are
            assets of the SavedModel.
        signatures: Which there are beside `serving_default`. Default: all that the model can have.
        level: `k`: export the model cut off at rank `D_k`, with less factors. With 1 it is a plain FM ("RaFM-low").
        precision: How factors are stored: `"trained"` as they are, `"bfloat16"`, or `"int8"` with a scale per row.
        evaluation: Inputs and labels, as `model.evaluate` takes them: the model card says what the compiled loss is on
            them, of the model and as it is exported.
        metrics: Numbers for the model card, such as those that `model.evaluate(…, return_dict=True)` gives.
        warm_up: Some real rows, from which TF Serving makes requests to itself when it loads the model, so that the first
            one is answered as fast as any other: raw columns, as a mapping or a data frame, where there is a schema, and
            else inputs as `model.predict` takes them. It needs the extra `serving`.
        warm_up_batch_sizes: How many rows such requests have; one of each size is made for every signature. None may be
            larger than the `max_batch_size` of a server that batches.
        warm_up_signatures: Those signatures. Default: all that there are but `ragged`, without which a server that
            batches would not load the model: it refuses requests whose tensors differ in their first dimension.
        version: The number of the version. Default: the next after the highest that is there, from 1.
        keep: How many versions to keep, the highest ones; others are deleted. Default: all.

    Returns:
        The new version directory, such as `path/1`.

    Raises:
        TypeError: The model is neither functional nor a built Sequential.
        RuntimeError: The schema was not adapted, the model was not compiled and there is data for an evaluation, or it is
            done inside `strategy.scope()`.
        ImportError: There is to be a warm-up, and `tensorflow-serving-api` is not installed.
        FileExistsError: The version is there already.
        ValueError: There is no `RaFMLayer` in the model, the directory is not a local one or holds something else than
            versions, an input is ragged or sparse and goes elsewhere than into a `RaFMLayer`, an option is not one of those
            above, or the model was not made for the schema, one of whose columns may have a name that a signature can't
            have.
    """
    graph = functional_graph(model)
    one_of(precision, ("trained", "bfloat16", "int8"), "precision")
    level = integer_or_none(level, "level")
    directory = VersionDirectory(path, version, keep)
    settle(model.variables)
    served = ServedModel(graph, model, level, precision)
    if schema is not None:
        check_schema(schema, graph, {own.spec.name: own.spec for own in served.inputs.padded()})
    stored: dict[str, Any] = {"factors": precision}
    if evaluation is not None:
        stored["loss"] = _losses(model, graph, served, evaluation)
    with directory.unfinished() as unfinished:
        raw = None
        if schema is not None:
            schema.save(unfinished / "schema")
            raw = RawInputs(schema, served, unfinished / "schema")
        chosen = make_signatures(served, raw, signatures)
        saved = unfinished / "model"
        functions = _save(saved, graph, served, raw, chosen)
        (saved / EXTRA).mkdir()
        if schema is not None:
            (unfinished / "schema").rename(saved / EXTRA / "schema")
        folder = saved / EXTRA / "schema" if schema is not None else None
        if warm_up is not None:
            if raw is None:
                rows = WarmUpRows.of_inputs(_fed(warm_up, graph), served.inputs)
            else:
                rows = WarmUpRows.of_columns(warm_up, raw, served.inputs)
            called = _warmed_up(chosen, warm_up_signatures)
            write_warm_up(saved, directory.path.name, rows, called, warm_up_batch_sizes)
        card = model_card(
            directory.path.name,
            served.rafm_layers,
            served.num_levels,
            chosen,
            functions,
            stored,
            metrics,
            folder,
            saved,
        )
        write_model_card(saved, card)
        return directory.publish(saved)


def illegal_input_names(schema: Schema) -> list[str]:
    """The columns whose names the signature `raw` can't have."""
    names = [column.name for column in schema.raw_columns(training=False)]
    return [name for name in names if not is_legal_name(name)]


def functional_graph(model: Any) -> keras.Model:
    """A model whose graph can be walked.

    Raises:
        RuntimeError: It is done inside the scope of a distribution strategy.
        TypeError: It is neither functional nor a built Sequential.
    """
    if tf.distribute.has_strategy():
        raise RuntimeError("export a model outside of `strategy.scope()`: what is exported has no replicas")
    if isinstance(model, keras.Sequential) and model.built:
        return keras.Model(model.inputs, model.outputs)
    if isinstance(model, keras.Model) and hasattr(model, "operations"):  # a subclassed model has none
        return model
    raise TypeError(
        "`model` must be a functional keras.Model or a built Sequential. "
        f"Received: {model!r} of type {type(model).__name__}"
    )


def check_schema(schema: Schema, model: keras.Model, specs: Mapping[str, tf.TensorSpec]) -> None:
    """Refuse a schema that a model was not made for.

    Args:
        schema: The schema.
        model: A functional model.
        specs: What `serving_default` takes, by name.

    Raises:
        ValueError: The model has other inputs than the schema or another number of features, or a column has a name that a
            signature can't have.
    """
    expected = {"ids", "values"} if schema.has_values else {"ids"}
    if specs.keys() != expected:
        raise ValueError(
            f"the model must have the inputs of schema.inputs(), {sorted(expected)}, to be exported with the schema. "
            f"Received a model with the inputs {sorted(specs)}"
        )
    width = schema.inputs()["ids"].shape[1]
    for name, spec in specs.items():
        if spec.shape[1] not in (None, width):
            raise ValueError(
                f"the model must have the inputs of schema.inputs(), of width {width}, to be exported with the schema. "
                f"Received a model with the input '{name}' of width {spec.shape[1]}"
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


def _save(
    directory: Path, graph: keras.Model, served: ServedModel, raw: RawInputs | None, signatures: Sequence[Signature]
) -> dict[str, Any]:
    """Write the SavedModel. Returns the graphs of its signatures, by name."""
    functions = concrete_functions(signatures)
    module = tf.Module()
    module.layers = list(served.layers.values())
    # Keras' own export would write every variable twice, and some only where the C++ runtime doesn't find it.
    module.other_variables = _other_variables(graph, list(functions.values()))
    module.resources = _resources(graph)
    if raw is not None:
        module.encoder = raw.encoder
    write_saved_model(directory, module, signatures, functions)
    return functions


def concrete_functions(signatures: Sequence[Signature]) -> dict[str, Any]:
    """The graphs of signatures, by name."""
    return {own.name: _concrete_function(own) for own in signatures}


def write_saved_model(
    directory: Path, module: tf.Module, signatures: Sequence[Signature], functions: Mapping[str, Any]
) -> None:
    """Write a SavedModel.

    Args:
        directory: A new one.
        module: What holds all variables and look-up tables that the functions read.
        signatures: Its signatures.
        functions: What `concrete_functions` made of them.
    """
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(directory), dict(functions), options)
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(directory))
    for own in signatures:
        updater.replace_method_name(own.name, own.method, tags=tf.saved_model.SERVING)
    updater.save()


def _warmed_up(signatures: Sequence[Signature], wanted: Sequence[str] | None) -> list[Signature]:
    by_name = {own.name: own for own in signatures}
    if wanted is None:
        return [own for own in signatures if own.name != "ragged"]
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise ValueError(f"`warm_up_signatures` must be of {', '.join(by_name)}. Received: {unknown}")
    return [by_name[name] for name in dict.fromkeys(wanted)]


def _concrete_function(signature: Signature) -> Any:
    def answer(*request: tf.Tensor) -> dict[str, tf.Tensor]:
        return signature.answer(*request)

    answer.__name__ = signature.name
    specs = (named.spec for named in signature.inputs)
    return tf.function(answer, autograph=False).get_concrete_function(*specs)


def _other_variables(graph: keras.Model, functions: list[Any]) -> list[tf.Variable]:
    """Those of other layers that the functions read."""
    read = {id(tensor) for function in functions for tensor in function.captured_inputs}
    of_layers = (variable.value for variable in graph.variables)
    return [variable for variable in of_layers if id(variable.handle) in read]


def _resources(graph: keras.Model) -> list[Any]:
    """Look-up tables of other layers."""
    layers = graph._flatten_layers(include_self=False)
    resources = (value for layer in layers for value in vars(layer).values())
    return [own for own in resources if isinstance(own, tf.saved_model.experimental.TrackableResource)]


def _fed(inputs: Any, graph: keras.Model) -> Fed:
    """Inputs as `model.predict` takes them."""
    pairs = pair_inputs(inputs, graph.input, graph.inputs)
    if not pairs or any(given is None for given, _ in pairs):
        raise ValueError(
            f"inputs must be those of the model: {[tensor.name for tensor in graph.inputs]}. "
            f"Received: {keras.tree.map_structure(type, inputs)}"
        )
    fed = {}
    for given, tensor in pairs:
        own = tf.cast(given, tensor.dtype)
        if own.shape.rank == 1 and len(tensor.shape) == 2:  # which Keras takes for a column
            own = own[:, tf.newaxis]
        if not own.shape.is_compatible_with(tensor.shape):
            raise ValueError(f"'{tensor.name}' must be of shape {tuple(tensor.shape)}. Received: {tuple(own.shape)}")
        fed[id(tensor)] = own
    return fed


def _losses(model: keras.Model, graph: keras.Model, served: ServedModel, evaluation: tuple[Any, Any]) -> dict[str, Any]:
    """The compiled loss of the model, and of what is exported."""
    if not model.compiled or model.loss is None:
        raise RuntimeError("the model must be compiled with a loss for an evaluation")
    inputs, labels = evaluation
    fed = _fed(inputs, graph)
    # To a dataset a list is one tensor.
    several = isinstance(labels, list) and len(graph.outputs) > 1
    slices = (tuple(fed[id(tensor)] for tensor in graph.inputs), tuple(labels) if several else labels)
    losses = {"trained": keras.metrics.Mean(), "exported": keras.metrics.Mean()}
    num_samples = 0
    for values, own in tf.data.Dataset.from_tensor_slices(slices).batch(4096):
        y = list(own) if several else own
        size = int(tf.shape(tf.nest.flatten(y)[0])[0])
        of_tensors = {id(tensor): value for tensor, value in zip(graph.inputs, values, strict=True)}
        exported = keras.tree.pack_sequence_as(graph.output, served.raw_outputs(of_tensors))
        trained = graph(keras.tree.pack_sequence_as(graph.input, list(values)), training=False)
        for name, predicted in (("trained", trained), ("exported", exported)):
            regularisation = sum(model.losses, start=tf.constant(0.0))
            loss = model.compute_loss(y=y, y_pred=predicted, training=False) - regularisation
            losses[name].update_state(loss, sample_weight=size)
        num_samples += size
    return {"samples": num_samples, **{name: float(mean.result()) for name, mean in losses.items()}}
