"""The signature `raw` of an exported model: answers to raw columns from files of every format, without Keras."""

import csv
import gzip
import math
import random
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from exported_models import Requests, answer, answers_without_keras

import keras_rafm as kr
from keras_rafm.data import Schema, write_tfrecord

MISSING_INTEGER = -(2**63)
NUM_ROWS = 60
_RNG = random.Random(2)
AWKWARD = [
    "a b",
    " a",
    "tab\there",
    '"quoted"',
    "it's",
    "ünïcode 東京 🎈",
    "nul\x00in",
    "\x00",
    "#",
    "\\n",
    "a,b",
    "x" * 5000,
]
#: `None` stands for a missing value.
ROWS: dict[str, list[Any]] = {
    "user": [_RNG.choice([*AWKWARD, None]) for _ in range(NUM_ROWS)],
    "tags": [_RNG.choice(["a:0.5|b:2", "b", None, "c:-1|zz:3|a"]) for _ in range(NUM_ROWS)],
    "shop": [_RNG.choice([1, -1, 2**63 - 1, None]) for _ in range(NUM_ROWS)],
    "price": [_RNG.choice([0.5, -2.25, 1e-3, None]) for _ in range(NUM_ROWS)],
    "age": [_RNG.choice([1.0, 20.0, 33.0, 60.0, None]) for _ in range(NUM_ROWS)],
}
LISTS: dict[str, list[Any]] = {
    "ids": [_RNG.choice([[7], [7, -3], [], [9, 9, 8]]) for _ in range(NUM_ROWS)],
    "words": [_RNG.choice([["a"], [], ["b", "a"]]) for _ in range(NUM_ROWS)],
}
LISTS["w"] = [[0.5 + position for position in range(len(row))] for row in LISTS["ids"]]
MISSING = {"user": "", "tags": "", "shop": MISSING_INTEGER, "price": math.nan, "age": math.nan}


def new_schema(lists: bool) -> Schema:
    columns: dict[str, Any] = {
        "user": Schema.string_categorical(),
        "tags": Schema.string_categorical(separator="|", weight_separator=":", combiner="mean", missing="ignore"),
        "shop": Schema.integer_categorical(min_count=2),
        "price": Schema.float("standard"),
        "age": Schema.float_discretized(3, missing="category"),
    }
    if lists:
        columns["ids"] = Schema.integer_categorical(multivalued=True, weights="w", num_oov_indices=0)
        columns["words"] = Schema.string_hashed(5, multivalued=True, combiner="sqrtn")
    return Schema(columns, label="y")


def in_python(rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [MISSING.get(name) if value is None else value for value in values] for name, values in rows.items()}


def rafm_model(schema: Schema) -> kr.RaFMModel:
    plan = kr.RankPlan.from_counts(schema.counts, ranks=(2, 4), thresholds=(8,))
    normal = keras.initializers.RandomNormal(stddev=0.5, seed=1)
    inputs = schema.inputs()
    layer = kr.RaFMLayer(plan, factors_initializer=normal, linear_initializer=normal, seed=1)
    model = kr.RaFMModel(inputs, layer(inputs))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def write(path: Path, rows: dict[str, list[Any]], schema: Schema) -> None:
    suffix = path.name.partition(".")[2]
    if suffix == "parquet":
        pq.write_table(pa.table(rows), path)
    elif suffix.startswith("tfrecord"):
        write_tfrecord(path, in_python(rows), schema)
    else:
        opener: Any = gzip.open if suffix.endswith("gz") else open
        with opener(path, "wt", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if suffix.startswith("tsv") else ",", lineterminator="\n")
            writer.writerow(rows)
            cells = (["" if value is None else value for value in values] for values in rows.values())
            writer.writerows(zip(*cells, strict=True))


def request_of(file: Path, schema: Schema) -> dict[str, Any]:
    """Return the request of a client: the raw columns of a file, with lists padded with missing values."""
    (block,) = schema.raw_dataset(file, training=False)
    padding = {"ids": MISSING_INTEGER, "w": math.nan, "words": ""}
    return {
        name: (column.to_tensor(padding[name]) if isinstance(column, tf.RaggedTensor) else column).numpy()
        for name, column in block.items()
    }


def assert_scores(outputs: Any, expected: Any) -> None:
    """The scores are those of the trained model. They differ by rounding: an exported model sums in another order."""
    np.testing.assert_allclose(outputs["score"], expected, rtol=1e-5, atol=1e-5)
    if "probability" in outputs:
        np.testing.assert_allclose(outputs["probability"], tf.sigmoid(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("lists", [False, True])
def test_predictions_from_every_format(tmp_path: Path, lists: bool) -> None:
    rows = {**ROWS, **(LISTS if lists else {}), "y": [number % 2 for number in range(NUM_ROWS)]}
    schema = new_schema(lists)
    schema.adapt(in_python(rows))
    model = rafm_model(schema)
    expected = model(schema(in_python(rows))).numpy()
    assert np.std(expected) > 0.1
    texts = [] if lists else ["csv", "tsv", "csv.gz"]
    files = {suffix: tmp_path / f"rows.{suffix}" for suffix in [*texts, "parquet", "tfrecord", "tfrecord.gz"]}
    for file in files.values():
        write(file, rows, schema)
    exported = kr.export(model, tmp_path / "first" / "model", schema=schema)
    # A SavedModel may be moved, and the files that it was made from may be deleted.
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "first" / "model" / "1", moved)
    shutil.rmtree(tmp_path / "first")
    assert not exported.exists()

    requests = Requests(str(moved), "raw", [request_of(file, schema) for file in files.values()])
    answers = answers_without_keras({"raw": requests}, tmp_path)[0]["raw"]
    assert {name: (dtype, len(shape)) for name, (dtype, shape) in answers.specs.items()} == {
        c.name: (c.dtype, 1 + c.is_list) for c in schema.raw_columns(training=False)
    }
    for outputs in answers.outputs:
        assert_scores(outputs, expected)
        np.testing.assert_array_equal(outputs["score"], answers.outputs[0]["score"])

    kept = Schema.load(moved / "assets.extra" / "schema")
    assert kept.get_config() == schema.get_config()
    assert kept.feature_names() == schema.feature_names()
    np.testing.assert_array_equal(kept.counts, schema.counts)
    again = rafm_model(kept)
    again.set_weights(model.get_weights())
    np.testing.assert_array_equal(again(kept(in_python(rows))), expected)
    assert set(answers.signatures) == {
        "serving_default", "ragged", "raw", "examples", "classify", "regress", "low", "level_scores",
    }  # fmt: skip


def test_no_path_of_this_machine_is_exported(tmp_path: Path) -> None:
    """No file of the export contains the path of a source file or of the folder that it was written to."""
    folder = tmp_path / "a place of its own"
    folder.mkdir()
    schema = new_schema(lists=True)
    schema.adapt(in_python({**ROWS, **LISTS}))
    path = kr.export(rafm_model(schema), folder / "m", schema=schema)
    local = [str(folder).encode() for folder in (tmp_path, Path(__file__).parent, Path(kr.__file__).parent)]
    for file in path.rglob("*"):
        assert not file.is_file() or not any(text in file.read_bytes() for text in local), file


def test_vocabularies_of_models_in_one_process(tmp_path: Path) -> None:
    """Look-up tables of one name share their content, so tables of other columns and models need other names."""
    served = []
    for number, values in enumerate((["1", "2"], ["2", "1"])):
        schema = Schema({"text": Schema.string_categorical(), "number": Schema.integer_categorical()})
        schema.adapt({"text": [*values, values[0]], "number": [int(value) for value in [*values, values[0]]]})
        model = rafm_model(schema)
        expected = model(schema({"text": ["1", "2"], "number": [2, 1]}))
        served.append((tf.saved_model.load(kr.export(model, tmp_path / str(number), schema=schema)), expected))
    for loaded, expected in served:
        outputs = loaded.signatures["raw"](text=tf.constant(["1", "2"]), number=tf.constant([2, 1], tf.int64))
        assert_scores(outputs, expected)


def test_one_row_no_rows_and_missing_values(tmp_path: Path) -> None:
    rows = {**ROWS, **LISTS}
    schema = new_schema(lists=True)
    schema.adapt(in_python(rows))
    model = rafm_model(schema)
    path = kr.export(model, tmp_path / "m", schema=schema)
    nothing = {"user": [""], "tags": [""], "shop": [MISSING_INTEGER], "price": [math.nan], "age": [math.nan]}
    unseen = {"user": ["new"], "tags": ["new:3"], "shop": [77], "price": [3.0], "age": [-1e9]}
    padded = {"ids": [[MISSING_INTEGER] * 2], "w": [[math.nan] * 2], "words": [["", ""]]}
    empty = {"ids": np.zeros((1, 0), np.int64), "w": np.zeros((1, 0)), "words": np.zeros((1, 0), str)}
    for scalars in (nothing, unseen):
        expected = model(schema({**scalars, "ids": [[]], "w": [[]], "words": [[]]})).numpy()
        for lists in (padded, empty):
            assert_scores(answer(path, "raw", **scalars, **lists), expected)
    none = {name: np.array(values)[:0] for name, values in {**nothing, **padded}.items()}
    assert answer(path, "raw", **none)["score"].shape == (0, 1)


@pytest.mark.parametrize("missing", ["category", "ignore"])
def test_columns_whose_values_are_all_rare(tmp_path: Path, missing: Any) -> None:
    """Such columns have no vocabulary, and so neither a look-up table nor an asset."""
    columns = {
        "a": Schema.string_categorical(min_count=10, missing=missing),
        "b": Schema.integer_categorical(min_count=10, missing=missing),
    }
    schema = Schema(columns)
    schema.adapt({"a": ["x", "y"], "b": [1, 2]})
    assert schema.num_features == (4 if missing == "category" else 2)
    model = rafm_model(schema)
    raw = {"a": ["x", ""], "b": [5, MISSING_INTEGER]}
    assert_scores(answer(kr.export(model, tmp_path / "m", schema=schema), "raw", **raw), model(schema(raw)))


@pytest.mark.parametrize("name", ["training", "name"])
def test_names_that_look_special(tmp_path: Path, name: str) -> None:
    schema = Schema({name: "string_categorical"})
    schema.adapt({name: ["x", "y", "y"]})
    model = rafm_model(schema)
    raw = {name: ["y", "z"]}
    assert_scores(answer(kr.export(model, tmp_path / "m", schema=schema), "raw", **raw), model(schema(raw)))


def assert_refused(model: Any, schema: Schema, path: Path, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        kr.export(model, path, schema=schema)
    assert list(path.parent.iterdir()) == []


def test_schemas_of_other_models(tmp_path: Path) -> None:
    def adapted_schema(**data: Any) -> Schema:
        schema = Schema(dict.fromkeys(data, "string_categorical"))
        schema.adapt(data)
        return schema

    matching = adapted_schema(a=["x", "y"], b=["x", "y"])
    model = rafm_model(matching)
    path = tmp_path / "m"
    assert_refused(
        model, adapted_schema(a=["x"], b=["x"]), path, ValueError, "Received: a schema of 6 features, but layer .* has 8"
    )
    wide = adapted_schema(a=["1", "2", "3", "4", "5", "6"])
    assert wide.num_features == matching.num_features
    assert_refused(model, wide, path, ValueError, "of width 1, .* Received: a model with the input 'ids' of width 2")
    lists = Schema({"a": Schema.string_categorical(multivalued=True)})
    lists.adapt({"a": [["1", "2", "3", "4", "5", "6"]]})
    assert_refused(model, lists, path, ValueError, "of width None, .* Received: a model with the input 'ids' of width 2")
    numbers = Schema({"a": "string_categorical", "x": "float"})
    numbers.adapt({"a": ["x"], "x": [1.0]})
    message = r"inputs of schema\.inputs\(\), \['ids', 'values'\].* Received: a model with the inputs \['ids'\]"
    assert_refused(model, numbers, path, ValueError, message)
    assert_refused(rafm_model(numbers), matching, path, ValueError, r"\['ids'\].* with the inputs \['ids', 'values'\]")
    unadapted = Schema({"a": "string_categorical", "b": "string_categorical"})
    assert_refused(model, unadapted, path, RuntimeError, "the schema has learnt nothing yet")


@pytest.mark.parametrize("name", ["a b", "1st", "_a", "ü", "a-b", "a.b", "a:0", "a/b", "class", "self"])
def test_names_that_a_signature_cannot_have(tmp_path: Path, name: str) -> None:
    schema = Schema({"ok": "string_categorical", name: "string_categorical"})
    schema.adapt({"ok": ["x"], name: ["x"]})
    message = rf"names of letters, digits and underscores, a letter first, other than .* keywords\. Received: \['{name}'\]"
    assert_refused(rafm_model(schema), schema, tmp_path / "m", ValueError, message)


def test_ids_of_another_dtype(tmp_path: Path) -> None:
    """A model may take int64 ids, though `schema.inputs()` has int32."""
    schema = Schema({"a": "string_categorical"})
    schema.adapt({"a": ["x", "y"]})
    ids = keras.Input((1,), dtype="int64", name="ids")
    model = keras.Model(ids, kr.RaFMLayer(kr.RankPlan.from_counts(schema.counts, ranks=(2,), thresholds=()))(ids))
    outputs = answer(kr.export(model, tmp_path / "m", schema=schema), "raw", a=["y"])
    assert_scores(outputs, model(schema({"a": ["y"]})["ids"]))
