"""`export`: write a model as a new version of a SavedModel."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import keras

from keras_rafm.checks.arguments import integer_or_none, one_of
from keras_rafm.data.schema import Schema
from keras_rafm.rows.idle_decay import settle
from keras_rafm.serving.evaluation import compare_losses
from keras_rafm.serving.model_card import write_model_card
from keras_rafm.serving.raw_inputs import RawInputs, check_schema
from keras_rafm.serving.saved_model import SCHEMA, saved_objects, trace, write_saved_model
from keras_rafm.serving.served_layer import Precision
from keras_rafm.serving.served_model import ServedModel
from keras_rafm.serving.signatures import make_signatures
from keras_rafm.serving.version_directory import VersionDirectory
from keras_rafm.serving.warm_up import WarmUpRows, write_warm_up
from keras_rafm.training.functional_graph import functional_graph


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
    """Write a functional model with a `RaFMLayer` as the next version of a SavedModel for TF Serving.

    The SavedModel holds only what serving needs: no optimizer, no training graph, and the factors of each `RaFMLayer` in
    a form that answers faster. It has all of these signatures that the model can have:

    | signature | inputs |
    |---|---|
    | `serving_default` | `ids` `[B, F]`, and `values` `[B, F]` where the model takes values; −1 is padding |
    | `ragged` | `ids` `[n]` and `values` `[n]` of all samples end to end, and `row_splits` `[B + 1]` |
    | `raw` | the schema's columns by name, string, int64 or float32 `[B]`; lists `[B, n]` padded with missing values |
    | `examples` | `examples` `[B]`, serialised `tf.train.Example`s: the schema's columns, or `ids` and `values` |
    | `classify`, `regress` | `inputs` `[B]`, as for `examples`; for TF Serving's methods Classify and Regress |
    | `low` | as for `serving_default`; the score is `ŷ_1`, that of the plain FM of rank `D_1` |
    | `level_scores` | as for `serving_default`; answers `level_scores` and `level_probabilities` `[B, m]`, of `ŷ_1 … ŷ_m` |

    All but `classify`, `regress` and `level_scores` answer `score` (the model's output; the logit for a log-loss model)
    and, if the model is compiled with a log-loss, `probability` and `class` (int64); each is `[B, 1]`. A model with
    several outputs answers `score_NAME` and so on.

    A server that batches combines requests whose tensors differ only in their first dimension. It can't combine requests
    to `ragged`, nor requests of different widths to a model that takes any width. It can always combine `examples`.

    Missing values are empty strings, −2**63 and NaN. Ids outside of `[0, num_features)`, such as features unseen in
    training, contribute nothing to a `RaFMLayer`. Another layer that reads the same input, such as an `Embedding`, gets
    all ids and must accept them. A value that is NaN or infinite makes the score of its own sample NaN or infinite, and
    no other. Inputs that are neither ids nor values, and all inputs if a model has several of ids, keep their names.

    Versions are written atomically: beside the model directory, under a name that starts with a dot, and then renamed. So
    a server that watches the directory never sees an incomplete version. The folder `assets.extra` of a version holds a
    model card (`model_card.json` and `model_card.md`) and the schema.

    Args:
        model: A functional model, `RaFMModel` or other, or a built Sequential.
        path: The model directory. It is made if needed and may hold nothing but integer versions.
        schema: The schema that maps raw columns to the inputs of the model, which are those of `schema.inputs()`. Its
            vocabularies become assets of the SavedModel.
        signatures: The signatures beside `serving_default`. Default: all that the model can have.
        level: `k`: export the model cut off at rank `D_k`, with fewer factors. With 1 it is a plain FM ("RaFM-low").
        precision: How factors are stored: `"trained"` as they are, `"bfloat16"`, or `"int8"` with a scale per row.
        evaluation: Inputs and labels, as `model.evaluate` takes them. The model card reports the compiled loss on them
            for the model and for its exported form.
        metrics: Numbers for the model card, such as those that `model.evaluate(…, return_dict=True)` returns.
        warm_up: Some real rows. When TF Serving loads the model, it sends itself requests with them, so that the first
            real request is as fast as any other. With a schema they are raw columns, as a mapping or a data frame;
            otherwise inputs as `model.predict` takes them. This needs the extra `serving`.
        warm_up_batch_sizes: The numbers of rows of warm-up requests. Every signature gets one request of each size. None
            may be larger than the `max_batch_size` of a server that batches.
        warm_up_signatures: The signatures that get warm-up requests. Default: all but `ragged`. A server that batches
            refuses requests to `ragged`, whose tensors differ in their first dimension, and would not load the model.
        version: The number of the version. Default: one more than the highest version, from 1.
        keep: How many versions to keep: the highest ones. Others are deleted. Default: all.

    Returns:
        The new version directory, such as `path/1`.

    Raises:
        TypeError: The model is neither functional nor a built Sequential.
        RuntimeError: The schema was not adapted, `evaluation` is given for a model that was not compiled with a loss, or
            the call is inside `strategy.scope()`.
        ImportError: `warm_up` is given, and `tensorflow-serving-api` is not installed.
        FileExistsError: The version exists.
        ValueError: The model has no `RaFMLayer`, the directory is not local or holds something other than versions, an
            input is ragged or sparse and feeds something other than a `RaFMLayer`, an option is not one of those above,
            the model was not made for the schema, or a signature can't have the name of a column.
    """
    graph = functional_graph(model)
    one_of(precision, get_args(Precision), "precision")
    level = integer_or_none(level, "level")
    directory = VersionDirectory(path, version, keep)
    settle(model.variables)
    served = ServedModel(graph, model, level, precision)
    if schema is not None:
        check_schema(schema, served)
    stored: dict[str, Any] = {"factors": precision}
    if evaluation is not None:
        inputs, labels = evaluation
        stored["loss"] = compare_losses(model, graph, served, inputs, labels)
    with directory.unfinished() as unfinished:
        raw = None
        if schema is not None:
            schema.save(unfinished / SCHEMA)
            raw = RawInputs(schema, served.inputs, unfinished / SCHEMA)
        chosen = make_signatures(served, raw, signatures)
        traced = trace(chosen)
        saved = unfinished / "model"
        write_saved_model(
            saved,
            saved_objects(graph, served, raw, traced),
            traced,
            schema_folder=None if schema is None else unfinished / SCHEMA,
        )
        if warm_up is not None:
            write_warm_up(
                saved,
                directory.path.name,
                WarmUpRows.make(warm_up, served.inputs, raw),
                chosen,
                batch_sizes=warm_up_batch_sizes,
                wanted=warm_up_signatures,
            )
        write_model_card(
            saved,
            directory.path.name,
            layers=served.rafm_layers,
            num_levels=served.num_levels,
            signatures=traced,
            precision=stored,
            metrics=metrics,
        )
        return directory.publish(saved)
