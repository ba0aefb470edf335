"""`export_retrieval`: write a SavedModel that finds the best items for a context."""

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
from keras_rafm.retrieval.raw_columns import ColumnSubset, are_raw, split_columns
from keras_rafm.retrieval.scorer import Scorer, scorer_of
from keras_rafm.retrieval.search import ItemIndex
from keras_rafm.retrieval.vectors import FeatureLists
from keras_rafm.rows.idle_decay import settle
from keras_rafm.serving.model_card import write_model_card
from keras_rafm.serving.model_inputs import by_name
from keras_rafm.serving.raw_inputs import check_schema, specs_of_columns
from keras_rafm.serving.saved_model import SCHEMA, trace, write_saved_model
from keras_rafm.serving.served_layer import ServedLayer
from keras_rafm.serving.served_model import Answer, ServedModel
from keras_rafm.serving.signatures import Signature
from keras_rafm.serving.version_directory import VersionDirectory
from keras_rafm.training.functional_graph import functional_graph


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
    """Write a SavedModel that finds the items with the highest scores for a context, as the next version.

    Every item is scored, so the answer is exact. The SavedModel is for TF Serving. It holds the vectors of the items,
    without the blocks of columns that are zero for all items, and the factors for contexts in the form that
    `keras_rafm.export` gives them. Its signatures:

    | signature | inputs |
    |---|---|
    | `retrieve` | `ids` `[B, F]`, and `values` `[B, F]` where the model takes values: features of contexts; −1 is padding |
    | `retrieve_raw` | with a schema: its columns of contexts, in the form of the signature `raw` of `keras_rafm.export` |

    Both answer `item_ids` `[B, k]` and `scores` `[B, k]`, descending; of equal scores, the item given first comes first.
    If the model is compiled with a log-loss or ends with a sigmoid, they also answer `probabilities` `[B, k]`, and scores
    are logits. Ids that the model does not know contribute nothing. `k` is fixed and not an input, because TF Serving
    combines requests into batches only if every input has one row per sample. A client that wants fewer items takes the
    first ones.

    Scores take at most 64 MiB of memory, however many items and contexts there are. On GPUs that multiply in
    TensorFloat-32, scores have three digits unless the server turns it off (`NVIDIA_TF32_OVERRIDE=0`).

    Args:
        model: A functional model or built Sequential, whose output is the score of its only `RaFMLayer` or the sigmoid of
            that score.
        path: The model directory. It is made if needed and may hold nothing but integer versions.
        items: The features of `n` items, at least one, without those of contexts: as `item_matrix` takes them, or with a
            schema as raw columns (a mapping or a data frame).
        item_ids: The ids of the items in answers: integers or strings `[n]`. Default: their positions, from 0.
        schema: The schema that maps raw columns to the inputs of the model.
        item_columns: The columns of the schema that describe items; all others describe contexts. Required with a schema.
        k: How many items an answer has; all items if there are fewer.
        level: `k` of the scores `ŷ_k`; 1 for "RaFM-low". Default: the highest.
        version: The number of the version. Default: one more than the highest version, from 1.
        keep: How many versions to keep: the highest ones. Others are deleted. Default: all.

    Returns:
        The new version directory, such as `path/1`.

    Raises:
        TypeError: The model is neither functional nor a built Sequential, or an argument has the wrong type.
        RuntimeError: The schema was not adapted, or the call is inside `strategy.scope()`.
        FileExistsError: The version exists.
        ValueError: The model has another kind of output, there are no items, there is not one item id per item, an option
            is out of range, the schema or its columns don't fit the model, or the directory is not local or holds
            something other than versions.
        tf.errors.InvalidArgumentError: A feature of an item is outside `[0, num_features)` and not −1, or a value is not
            finite.
    """
    graph = functional_graph(model)
    scorer = scorer_of(graph)
    level = scorer.checked_level(level)
    k = integer(k, "k", at_least=1)
    directory = VersionDirectory(path, version, keep)
    settle(model.variables)
    served = ServedModel(graph, model, level)
    if schema is not None:
        check_schema(schema, served)
        names_of_items, names_of_contexts = split_columns(schema, item_columns)
    elif item_columns is not None:
        raise ValueError("`item_columns` are columns of a schema. Received: no schema")
    with directory.unfinished() as unfinished:
        context_columns = None
        if schema is not None:
            schema.save(unfinished / SCHEMA)
            context_columns = ColumnSubset(schema, names_of_contexts, unfinished / SCHEMA)
            if are_raw(items):
                items = ColumnSubset(schema, names_of_items, unfinished / SCHEMA)(items)
        lists = FeatureLists(scorer.layer, scorer.layer_inputs(items), level)
        item_ids = _checked_item_ids(item_ids, lists.size)
        retrieval = _Retrieval(scorer, served, lists, item_ids=item_ids, k=min(k, lists.size), columns=context_columns)
        traced = trace(retrieval.signatures())
        saved = unfinished / "model"
        write_saved_model(
            saved, retrieval.saved_objects(), traced, schema_folder=None if schema is None else unfinished / SCHEMA
        )
        write_model_card(
            saved,
            directory.path.name,
            layers=[scorer.layer],
            num_levels=level,
            signatures=traced,
            precision={"factors": "trained"},
            retrieval=retrieval.summary(),
        )
        return directory.publish(saved)


class _Retrieval:
    """The signatures of a retrieval model, and the objects that they read.

    Args:
        scorer: The layer in its model.
        served: The model for serving.
        lists: The features of the items.
        item_ids: The ids of the items, int64 or strings `[n]`; `None`: their positions.
        k: How many items an answer has.
        columns: The raw columns of contexts, if there is a schema.
    """

    def __init__(
        self,
        scorer: Scorer,
        served: ServedModel,
        lists: FeatureLists,
        *,
        item_ids: npt.NDArray[Any] | None,
        k: int,
        columns: ColumnSubset | None,
    ) -> None:
        self._layer: ServedLayer = served.layers[id(scorer.layer)]
        self._blocks = lists.used_blocks()
        # The level sums of a served layer are U_k/√2 and √2·T_k.
        self._index = ItemIndex(lists, self._blocks, math.sqrt(2))
        self._item_ids = None
        if item_ids is not None:
            with tf.init_scope(), tf.device("CPU:0"):
                self._item_ids = tf.Variable(tf.constant(item_ids), trainable=False, name="item_ids")
        self._k = k
        self._columns = columns
        output = served.only_output
        is_logit = output is not None and output.is_log_loss and output.from_logits
        self._has_probabilities = scorer.has_sigmoid or is_logit
        # A context has fewer features than a sample, so any width is accepted.
        self._inputs = [
            named._replace(spec=tf.TensorSpec([None, None], named.spec.dtype, named.spec.name))
            for named in served.inputs.padded_specs()
            if named.spec.name in ("ids", "values")
        ]

    def saved_objects(self) -> tf.Module:
        """Return a module of all variables and look-up tables that the signatures read."""
        module = tf.Module()
        module.layer, module.items, module.names, module.columns = self._layer, self._index, self._item_ids, self._columns
        return module

    def signatures(self) -> list[Signature]:
        """Return `retrieve`, and `retrieve_raw` if there are raw columns."""
        signatures = [Signature("retrieve", self._inputs, self._meanings(), self._answer_features)]
        if self._columns is not None:
            specs = specs_of_columns(self._columns.raw_columns)
            signatures.append(Signature("retrieve_raw", specs, self._meanings(), self._answer_columns))
        return signatures

    def summary(self) -> dict[str, int]:
        """Return the entry `retrieval` of the model card."""
        return {"items": self._index.size, "k": self._k, "width": self._index.width}

    def _meanings(self) -> dict[str, str]:
        meanings = {
            "item_ids": f"the {self._k:,} of {self._index.size:,} items with the highest scores, the best one first",
            "scores": "their logits" if self._has_probabilities else "their scores",
        }
        return {**meanings, "probabilities": "their probabilities of class 1"} if self._has_probabilities else meanings

    def _answer_columns(self, *columns: tf.Tensor) -> Answer:
        assert self._columns is not None
        names = (column.name for column in self._columns.raw_columns)
        return self._answer(self._columns(dict(zip(names, columns, strict=True))))

    def _answer_features(self, *features: tf.Tensor) -> Answer:
        return self._answer(by_name(self._inputs, features))

    def _answer(self, features: dict[str, tf.Tensor]) -> Answer:
        contexts = self._layer.occurrences(features)
        (context_scores,) = self._layer.scores(contexts, [self._layer.num_levels])
        u, t = self._layer.level_sums(contexts)
        half_t = [None if dependent is None else 0.5 * dependent for dependent in t]
        columns = [tf.cast(block.of_context(u, half_t), tf.float32) for block in self._blocks]
        empty = tf.zeros([tf.shape(context_scores)[0], 0])
        products, rows = self._index.best(tf.concat([empty, *columns], axis=1), self._k)
        scores = products + tf.cast(context_scores, tf.float32)[:, tf.newaxis]
        item_ids = tf.cast(rows, tf.int64) if self._item_ids is None else tf.gather(self._item_ids, rows)
        answer = {"item_ids": item_ids, "scores": scores}
        return {**answer, "probabilities": tf.sigmoid(scores)} if self._has_probabilities else answer


def _checked_item_ids(item_ids: Any, num_items: int) -> npt.NDArray[Any] | None:
    if num_items == 0:
        raise ValueError("`items` must have at least one item. Received: none")
    if item_ids is None:
        return None
    ids = np.asarray(item_ids)
    if ids.shape != (num_items,):
        raise ValueError(f"`item_ids` must have one id per item, of shape ({num_items},). Received: shape {ids.shape}")
    if ids.dtype.kind in "iu" and int(ids.max()) < 2**63:
        return ids.astype(np.int64)
    if ids.dtype.kind in "US" or all(isinstance(item_id, (str, bytes)) for item_id in ids):
        return ids
    raise TypeError(f"`item_ids` must be 64-bit integers or strings. Received: dtype {ids.dtype}, {ids.tolist()[0]!r}, …")
