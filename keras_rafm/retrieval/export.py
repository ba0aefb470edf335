"""A model and a set of items -> a new version directory of a SavedModel that finds the best items."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_rafm.checks.arguments import integer
from keras_rafm.data.schema import Schema
from keras_rafm.retrieval.raw_columns import SomeColumns, are_raw, split_columns
from keras_rafm.retrieval.scorer import Scorer, scorer_of
from keras_rafm.retrieval.search import ItemIndex
from keras_rafm.retrieval.vectors import FeatureLists
from keras_rafm.rows.idle_decay import settle
from keras_rafm.serving.export import check_schema, concrete_functions, functional_graph, write_saved_model
from keras_rafm.serving.model_card import EXTRA, model_card, write_model_card
from keras_rafm.serving.served_layer import ServedLayer
from keras_rafm.serving.signatures import ServedModel, Signature, named_columns
from keras_rafm.serving.version_directory import VersionDirectory


def export_retrieval(
    model: Any,
    path: str | os.PathLike[str],
    items: Any,
    *,
    item_ids: Any = None,
    schema: Schema | None = None,
    item_columns: Sequence[str] | None = None,
    k: int = 100,
    level: int | None = None,
    version: int | None = None,
    keep: int | None = None,
) -> Path:
    """Write a SavedModel that finds the items with the highest scores for a context, as the next version, for TF Serving.

    Every item is scored, so the answer is exact. The SavedModel holds the vectors of the items, but for blocks in which all
    are zero, and the factors in the form that `keras_rafm.export` gives them, for contexts. The signatures:

    | signature | takes |
    |---|---|
    | `retrieve` | `ids` `[B, F]`, and `values` `[B, F]` where the model takes values: features of contexts; −1 is padding |
    | `retrieve_raw` | with a schema: those of its columns that are not of items, as `raw` of `keras_rafm.export` |

    Both give `item_ids` `[B, k]`, `scores` `[B, k]`, descending (of equal ones the item given first comes first), and, if
    the model is compiled with a log-loss or ends with a sigmoid, `probabilities` `[B, k]`; scores are then logits. Ids that
    the model does not know contribute nothing. `k` is fixed and no input: TF Serving puts requests together into batches
    only where every input has a row per sample. A client that wants fewer items takes the first ones.

    Memory for scores is 64 MiB however many items and contexts there are. On GPUs that multiply in TensorFloat-32, scores
    have three digits unless the server turns it off (`NVIDIA_TF32_OVERRIDE=0`).

    Args:
        model: A functional model or built Sequential, whose output is the score of its only `RaFMLayer` or the sigmoid of
            that.
        path: The model directory, which is made if needed. It holds nothing but integer versions.
        items: The own features of `n` items, at least one, as `item_matrix` takes them, or with a schema as raw columns: a
            mapping or a data frame.
        item_ids: What items are called in answers, integers or strings `[n]`. Default: their numbers, from 0.
        schema: What maps raw columns to the inputs of the model.
        item_columns: The columns of the schema that are of items; all others are of contexts. Needed with a schema.
        k: How many items an answer has; all if there are fewer.
        level: `k` of the scores `ŷ_k`; 1 for "RaFM-low". Default: the highest.
        version: As for `keras_rafm.export`.
        keep: As for `keras_rafm.export`.

    Returns:
        The new version directory, such as `path/1`.

    Raises:
        TypeError: The model is neither functional nor a built Sequential, or an argument is of the wrong kind.
        RuntimeError: The schema was not adapted, or it is done inside `strategy.scope()`.
        FileExistsError: The version is there already.
        ValueError: The model's output is another one, there are no items, `item_ids` don't fit them, an option is out of
            range, the schema or its columns don't fit the model, or the directory is not a local one or holds something
            else than versions.
        tf.errors.InvalidArgumentError: A feature of an item is outside `[0, num_features)` and not −1, or a value is not
            finite.
    """
    graph = functional_graph(model)
    scorer = scorer_of(graph)
    level = scorer.level(level)
    k = integer(k, "k", at_least=1)
    directory = VersionDirectory(path, version, keep)
    settle(model.variables)
    served = ServedModel(graph, model, level)
    if schema is not None:
        check_schema(schema, graph, {own.spec.name: own.spec for own in served.inputs.padded()})
        of_items, of_contexts = split_columns(schema, item_columns)
    elif item_columns is not None:
        raise ValueError("`item_columns` are columns of a schema. Received: no schema")
    with directory.unfinished() as unfinished:
        columns = None
        if schema is not None:
            schema.save(unfinished / "schema")
            columns = SomeColumns(schema, of_contexts, unfinished / "schema")
            if are_raw(items):
                items = SomeColumns(schema, of_items, unfinished / "schema")(items)
        lists = FeatureLists(scorer.layer, scorer.inputs(items), level)
        names = _checked_item_ids(item_ids, lists.size)
        retrieval = _Retrieval(scorer, served, lists, names, min(k, lists.size), columns)
        signatures = retrieval.signatures()
        functions = concrete_functions(signatures)
        saved = unfinished / "model"
        write_saved_model(saved, retrieval.module(), signatures, functions)
        (saved / EXTRA).mkdir()
        if schema is not None:
            (unfinished / "schema").rename(saved / EXTRA / "schema")
        card = model_card(
            directory.path.name,
            [scorer.layer],
            level,
            signatures,
            functions,
            {"factors": "trained"},
            None,
            None if schema is None else saved / EXTRA / "schema",
            saved,
        )
        write_model_card(saved, {**card, "retrieval": retrieval.summary()})
        return directory.publish(saved)


class _Retrieval:
    """What answers requests.

    Args:
        scorer: The layer in its model.
        served: The model.
        lists: The features of the items.
        names: What items are called, int64 or strings `[n]`; `None`: their numbers.
        k: How many an answer has.
        columns: The raw columns of contexts, if there is a schema.
    """

    def __init__(
        self,
        scorer: Scorer,
        served: ServedModel,
        lists: FeatureLists,
        names: npt.NDArray[Any] | None,
        k: int,
        columns: SomeColumns | None,
    ) -> None:
        self._layer: ServedLayer = served.layers[id(scorer.layer)]
        self._blocks = lists.used_blocks()
        # A served layer has U_k/√2 and √2·T_k.
        self._index = ItemIndex(lists, self._blocks, math.sqrt(2))
        self._names = None
        if names is not None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._names = tf.Variable(tf.constant(names), trainable=False, name="item_ids")
        self._k = k
        self._columns = columns
        head = served.single_head
        self._has_probabilities = scorer.has_sigmoid or (head is not None and head.is_log_loss and head.from_logits)
        self._inputs = [own for own in served.inputs.padded() if own.spec.name in ("ids", "values")]

    def module(self) -> tf.Module:
        """What holds all that is saved."""
        module = tf.Module()
        module.layer, module.items, module.names, module.columns = self._layer, self._index, self._names, self._columns
        return module

    def signatures(self) -> list[Signature]:
        """`retrieve`, and with raw columns `retrieve_raw`."""
        # A context has fewer features than a sample.
        inputs = [own._replace(spec=tf.TensorSpec([None, None], own.spec.dtype, own.spec.name)) for own in self._inputs]
        signatures = [Signature("retrieve", inputs, self._meanings(), self._of_features)]
        if self._columns is not None:
            raw = named_columns(self._columns.raw_columns)
            signatures.append(Signature("retrieve_raw", raw, self._meanings(), self._of_columns))
        return signatures

    def summary(self) -> dict[str, int]:
        """For the model card."""
        return {"items": self._index.size, "k": self._k, "width": self._index.width}

    def _meanings(self) -> dict[str, str]:
        meanings = {
            "item_ids": f"the {self._k:,} of {self._index.size:,} items with the highest scores, the best one first",
            "scores": "their logits" if self._has_probabilities else "their scores",
        }
        return {**meanings, "probabilities": "their probabilities of class 1"} if self._has_probabilities else meanings

    def _of_columns(self, *columns: tf.Tensor) -> dict[str, tf.Tensor]:
        assert self._columns is not None
        encoded = self._columns({raw.name: own for raw, own in zip(self._columns.raw_columns, columns, strict=True)})
        return self._answer(encoded)

    def _of_features(self, *features: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._answer({named.spec.name: own for named, own in zip(self._inputs, features, strict=True)})

    def _answer(self, features: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        contexts = self._layer.occurrences(features)
        (own,) = self._layer.scores(contexts, [self._layer.num_levels])
        u, t = self._layer.level_sums(contexts)
        half_t = [None if dependent is None else 0.5 * dependent for dependent in t]
        columns = [tf.cast(block.of_context(u, half_t), tf.float32) for block in self._blocks]
        empty = tf.zeros([tf.shape(own)[0], 0])
        products, rows = self._index.best(tf.concat([empty, *columns], axis=1), self._k)
        scores = products + tf.cast(own, tf.float32)[:, tf.newaxis]
        names = tf.cast(rows, tf.int64) if self._names is None else tf.gather(self._names, rows)
        answer = {"item_ids": names, "scores": scores}
        return {**answer, "probabilities": tf.sigmoid(scores)} if self._has_probabilities else answer


def _checked_item_ids(given: Any, num_items: int) -> npt.NDArray[Any] | None:
    if num_items == 0:
        raise ValueError("`items` must be at least one. Received: none")
    if given is None:
        return None
    names = np.asarray(given)
    if names.shape != (num_items,):
        raise ValueError(f"`item_ids` must be one per item, of shape ({num_items},). Received: shape {names.shape}")
    if names.dtype.kind in "iu" and int(names.max()) < 2**63:
        return names.astype(np.int64)
    if names.dtype.kind in "US" or all(isinstance(name, (str, bytes)) for name in names):
        return names
    raise TypeError(
        f"`item_ids` must be integers of 64 bits or strings. Received: dtype {names.dtype}, {names.tolist()[0]!r}, …"
    )
