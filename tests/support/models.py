"""Small models of every kind that can be exported, and requests to them.

`python models.py FOLDER` exports all of them and records their answers for `replay.py`.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from replay import record

import keras_rafm as kr
from keras_rafm.data import Schema

MISSING_INTEGER = -(2**63)
ALL = ("serving_default", "ragged", "raw", "examples", "classify", "regress", "low", "level_scores")

#: Raw columns as a client sends them.
ROWS: dict[str, list[Any]] = {
    "user": ["ann", "bob", "", "cy", "ann", "new"],
    "shop": [7, -3, 7, MISSING_INTEGER, 2**62, 7],
    "price": [0.5, -1.25, float("nan"), 2.0, 0.0, 1.0],
    "tags": [["a", "b"], [""], ["b"], ["c", "a", "a"], ["zz"], [""]],
}
#: `ROWS` with padded lists, as the signature `raw` takes them.
RAW = {**ROWS, "tags": [[*row, *[""] * (3 - len(row))] for row in ROWS["tags"]]}
LABELS = np.array([1, 0, 1, 0, 1, 1], "float32")


class Exported(NamedTuple):
    """A model and its export.

    Attributes:
        model: The model.
        schema: The schema that it was exported with, if any.
        path: The version directory.
    """

    model: keras.Model
    schema: Schema | None
    path: Path


def adapted_schema() -> Schema:
    """Return a schema that has learnt the first five rows."""
    schema = Schema(
        {
            "user": Schema.string_categorical(),
            "shop": Schema.integer_categorical(),
            "price": Schema.float("standard"),
            "tags": Schema.string_categorical(multivalued=True, combiner="mean", missing="ignore"),
        },
        label="y",
    )
    schema.adapt({name: values[:5] for name, values in ROWS.items()})
    return schema


def raw_model(schema: Schema, loss: Any = None, seed: int = 1) -> kr.RaFMModel:
    """Return a model with three levels and values, for the columns of a schema."""
    levels = 1 + np.arange(schema.num_features) % 3
    plan = kr.RankPlan(levels, ranks=(2, 3, 5))
    normal = keras.initializers.RandomNormal(stddev=0.3)
    inputs = schema.inputs()
    layer = kr.RaFMLayer(plan, factors_initializer=normal, linear_initializer=normal, seed=seed)
    model = kr.RaFMModel(inputs, layer(inputs))
    layer.assign_bias(0.25)
    model.compile("sgd", loss or keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def deep_model() -> kr.RaFMModel:
    """Return a model that outputs a probability. An `Embedding` reads its ids too, and numbers bypass the `RaFMLayer`."""
    ids, numbers = keras.Input((3,), dtype="int64", name="ids"), keras.Input((2,), name="numbers")
    normal = keras.initializers.RandomNormal(stddev=0.3, seed=3)
    score = kr.RaFMLayer(kr.RankPlan([1, 2, 1, 2, 2], (2, 4)), factors_initializer=normal, seed=2)(ids)
    embedded = keras.layers.Flatten()(keras.layers.Embedding(5, 2, embeddings_initializer=normal)(ids))
    hidden = keras.layers.Concatenate()([embedded, keras.layers.BatchNormalization()(numbers)])
    tower = keras.layers.Dense(1, kernel_initializer=normal)(keras.layers.Dropout(0.5)(hidden))
    output = keras.layers.Activation("sigmoid")(keras.layers.Add()([score, tower]))
    model = kr.RaFMModel([ids, numbers], output)
    model.compile("sgd", "binary_crossentropy")
    return model


def small_model() -> keras.Model:
    """Return a model with two levels and nothing else."""
    ids = keras.Input((3,), dtype="int64", name="ids")
    normal = keras.initializers.RandomNormal(stddev=0.3)
    return keras.Model(ids, kr.RaFMLayer(kr.RankPlan([1, 2, 1, 2, 2], (2, 4)), factors_initializer=normal, seed=2)(ids))


IDS = np.array([[0, 1, 2], [3, 3, 4], [4, 0, 1]])
NUMBERS = np.array([[0.5, -1], [2, 0], [-0.25, 3]], "float32")


def encoded(schema: Schema) -> dict[str, np.ndarray]:
    """Return `ROWS` as `serving_default` takes them."""
    return {name: tensor.numpy() for name, tensor in schema(ROWS).items()}


def requests_of_columns(schema: Schema, rows: slice = slice(None)) -> list[tuple[str, dict[str, Any]]]:
    """Return requests with the same rows to every signature."""
    padded = {name: array[rows] for name, array in encoded(schema).items()}
    raw = {name: values[rows] for name, values in RAW.items()}
    texts = examples_of_rows()[rows]
    is_present = padded["ids"] >= 0
    flat = {
        "ids": padded["ids"][is_present],
        "values": padded["values"][is_present],
        "row_splits": np.concatenate([[0], np.cumsum(is_present.sum(axis=1))]),
    }
    return [
        ("serving_default", padded),
        ("ragged", flat),
        ("raw", raw),
        ("examples", {"examples": texts}),
        ("classify", {"inputs": texts}),
        ("regress", {"inputs": texts}),
        ("low", padded),
        ("level_scores", padded),
    ]


def examples_of_rows() -> list[bytes]:
    """Return `ROWS` as serialised `tf.train.Example`s."""
    texts = []
    for user, shop, price, tags in zip(*ROWS.values(), strict=True):
        example = tf.train.Example()
        feature = example.features.feature
        if user:
            feature["user"].bytes_list.value.append(user.encode())
        if shop != MISSING_INTEGER:
            feature["shop"].int64_list.value.append(shop)
        if price == price:
            feature["price"].float_list.value.append(price)
        feature["tags"].bytes_list.value.extend(tag.encode() for tag in tags if tag)
        texts.append(example.SerializeToString())
    return texts


def example_of_ids(ids: Any, numbers: Any) -> bytes:
    """Return a serialised `tf.train.Example` with the inputs of `deep_model`."""
    example = tf.train.Example()
    example.features.feature["ids"].int64_list.value.extend(ids)
    example.features.feature["numbers"].float_list.value.extend(numbers)
    return example.SerializeToString()


def requests_of_ids() -> list[tuple[str, dict[str, Any]]]:
    """Return requests with the same rows to every signature of `deep_model`."""
    inputs = {"ids": IDS, "numbers": NUMBERS}
    texts = [example_of_ids(*row) for row in zip(IDS.tolist(), NUMBERS.tolist(), strict=True)]
    return [
        ("serving_default", inputs),
        ("ragged", {"ids": IDS.ravel(), "row_splits": [0, 3, 6, 9], "numbers": NUMBERS}),
        ("examples", {"examples": texts}),
        ("classify", {"inputs": texts}),
        ("regress", {"inputs": texts}),
        ("low", inputs),
        ("level_scores", inputs),
    ]


def write_all(folder: Path) -> dict[str, Exported]:
    """Export every kind of model below a folder, and record its answers."""
    schema = adapted_schema()
    model, deep = raw_model(schema), deep_model()
    exported = {
        "raw": Exported(model, schema, kr.export(model, folder / "raw" / "model", schema)),
        "int8": Exported(model, schema, kr.export(model, folder / "int8" / "model", schema, precision="int8")),
        "bfloat16": Exported(model, schema, kr.export(model, folder / "bfloat16" / "model", schema, precision="bfloat16")),
        "level": Exported(model, schema, kr.export(model, folder / "level" / "model", schema, level=1)),
        "deep": Exported(deep, None, kr.export(deep, folder / "deep" / "model")),
    }
    for name, export in exported.items():
        requests = requests_of_ids() if export.schema is None else requests_of_columns(schema)
        signatures = tf.saved_model.load(str(export.path)).signatures
        record(folder / name / "record.json", export.path, [request for request in requests if request[0] in signatures])
    return exported


if __name__ == "__main__":
    keras.utils.set_random_seed(0)
    write_all(Path(sys.argv[1]))
