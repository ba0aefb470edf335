"""The signature `raw` of an exported model: raw columns in, without Keras and this package, from files of every format."""

import csv
import gzip
import math
import os
import pickle
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

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
#: None where there is no value.
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


def schema(lists: bool) -> Schema:
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
    return {name: [MISSING.get(name) if value is None else value for value in own] for name, own in rows.items()}


def rafm_model(adapted: Schema) -> kr.RaFMModel:
    plan = kr.RankPlan.from_counts(adapted.counts, ranks=(2, 4), thresholds=(8,))
    normal = keras.initializers.RandomNormal(stddev=0.5, seed=1)
    inputs = adapted.inputs()
    layer = kr.RaFMLayer(plan, factors_initializer=normal, linear_initializer=normal, seed=1)
    made = kr.RaFMModel(inputs, layer(inputs))
    made.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    return made


#: Reads the raw columns of files by nothing but TensorFlow and the standard library, and serves them.
SERVER = """
import pickle, sys
sys.modules["keras"] = sys.modules["keras_rafm"] = None
import tensorflow as tf
with open(sys.argv[1], "rb") as file:
    path, requests = pickle.load(file)
loaded = tf.saved_model.load(path)
serve = loaded.signatures["raw"]
specs = serve.structured_input_signature[1]
answers = {}
for name, own in requests.items():
    answer = serve(**{k: tf.constant(v, specs[k].dtype) for k, v in own.items()})
    answers[name] = {k: value.numpy() for k, value in answer.items()}
signature = {name: (spec.dtype.name, spec.shape.rank) for name, spec in specs.items()}
assert sys.modules["keras"] is None and sys.modules["keras_rafm"] is None
with open(sys.argv[1], "wb") as file:
    pickle.dump((signature, answers), file)
"""


def served(path: Path, requests: dict[str, Any], folder: Path) -> tuple[Any, Any]:
    exchange = folder / "exchange.pickle"
    exchange.write_bytes(pickle.dumps((str(path), requests)))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", SERVER, str(exchange)]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    result: tuple[Any, Any] = pickle.loads(exchange.read_bytes())
    return result


def write(path: Path, rows: dict[str, list[Any]], adapted: Schema) -> None:
    suffix = path.name.partition(".")[2]
    if suffix == "parquet":
        pq.write_table(pa.table(rows), path)
    elif suffix.startswith("tfrecord"):
        write_tfrecord(path, in_python(rows), adapted)
    else:
        opener: Any = gzip.open if suffix.endswith("gz") else open
        with opener(path, "wt", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if suffix.startswith("tsv") else ",", lineterminator="\n")
            writer.writerow(rows)
            cells = (["" if value is None else value for value in own] for own in rows.values())
            writer.writerows(zip(*cells, strict=True))


def request_of(file: Path, adapted: Schema) -> dict[str, Any]:
    """What a client sends: the raw columns of a file, lists padded with missing values."""
    (block,) = adapted.raw_dataset(file, training=False)
    padding = {"ids": MISSING_INTEGER, "w": math.nan, "words": ""}
    return {
        name: (own.to_tensor(padding[name]) if isinstance(own, tf.RaggedTensor) else own).numpy()
        for name, own in block.items()
    }


def assert_scores(answer: Any, expected: Any) -> None:
    """Those of the training model, but for rounding: an exported one computes them in another order."""
    np.testing.assert_allclose(answer["score"], expected, rtol=1e-5, atol=1e-5)
    if "probability" in answer:
        np.testing.assert_allclose(answer["probability"], tf.sigmoid(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("lists", [False, True])
def test_predictions_from_every_format(tmp_path: Path, lists: bool) -> None:
    rows = {**ROWS, **(LISTS if lists else {}), "y": [number % 2 for number in range(NUM_ROWS)]}
    adapted = schema(lists)
    adapted.adapt(in_python(rows))
    made = rafm_model(adapted)
    expected = made(adapted(in_python(rows))).numpy()
    assert np.std(expected) > 0.1
    texts = [] if lists else ["csv", "tsv", "csv.gz"]
    files = {suffix: tmp_path / f"rows.{suffix}" for suffix in [*texts, "parquet", "tfrecord", "tfrecord.gz"]}
    for file in files.values():
        write(file, rows, adapted)
    exported = kr.export(made, tmp_path / "first" / "model", schema=adapted)
    # A SavedModel may be moved, and what it was made from may be gone.
    moved = tmp_path / "elsewhere"
    shutil.move(tmp_path / "first" / "model" / "1", moved)
    shutil.rmtree(tmp_path / "first")
    assert not exported.exists()

    requests = {suffix: request_of(file, adapted) for suffix, file in files.items()}
    signature, answers = served(moved, requests, tmp_path)
    assert signature == {c.name: (c.dtype, 1 + c.is_list) for c in adapted.raw_columns(training=False)}
    for answer in answers.values():
        assert_scores(answer, expected)
        np.testing.assert_array_equal(answer["score"], next(iter(answers.values()))["score"])
        np.testing.assert_allclose(answer["probability"], 1 / (1 + np.exp(-expected)), rtol=0, atol=1e-5)

    kept = Schema.load(moved / "assets.extra" / "schema")
    assert kept.get_config() == adapted.get_config()
    assert kept.feature_names() == adapted.feature_names()
    np.testing.assert_array_equal(kept.counts, adapted.counts)
    again = rafm_model(kept)
    again.set_weights(made.get_weights())
    np.testing.assert_array_equal(again(kept(in_python(rows))), expected)
    signatures = {"serving_default", "ragged", "raw", "examples", "classify", "regress", "low", "level_scores"}
    assert set(tf.saved_model.load(moved).signatures) == signatures


def test_no_path_of_this_machine_is_exported(tmp_path: Path) -> None:
    """Of none of the files that it is made from, nor of the place that it was written to."""
    folder = tmp_path / "a place of its own"
    folder.mkdir()
    adapted = schema(lists=True)
    adapted.adapt(in_python({**ROWS, **LISTS}))
    path = kr.export(rafm_model(adapted), folder / "m", schema=adapted)
    here = [str(own).encode() for own in (tmp_path, Path(__file__).parent, Path(kr.__file__).parent)]
    for file in path.rglob("*"):
        assert not file.is_file() or not any(own in file.read_bytes() for own in here), file


def test_vocabularies_of_models_in_one_process(tmp_path: Path) -> None:
    """Tables of one name are one table: those of other columns and of other models must have other names."""
    served = []
    for number, values in enumerate((["1", "2"], ["2", "1"])):
        adapted = Schema({"text": Schema.string_categorical(), "number": Schema.integer_categorical()})
        adapted.adapt({"text": [*values, values[0]], "number": [int(value) for value in [*values, values[0]]]})
        made = rafm_model(adapted)
        expected = made(adapted({"text": ["1", "2"], "number": [2, 1]}))
        served.append((raw_of(kr.export(made, tmp_path / str(number), schema=adapted)), expected))
    for (_, serve), expected in served:
        assert_scores(serve(text=tf.constant(["1", "2"]), number=tf.constant([2, 1], tf.int64)), expected)


def raw_of(path: Path) -> Any:
    """The signature, and its model, which has to outlive it."""
    loaded = tf.saved_model.load(path)
    return loaded, loaded.signatures["raw"]


def test_requests_of_one_row_of_none_and_of_missing_values(tmp_path: Path) -> None:
    rows = {**ROWS, **LISTS}
    adapted = schema(lists=True)
    adapted.adapt(in_python(rows))
    made = rafm_model(adapted)
    loaded, serve = raw_of(kr.export(made, tmp_path / "m", schema=adapted))
    nothing = {"user": [""], "tags": [""], "shop": [MISSING_INTEGER], "price": [math.nan], "age": [math.nan]}
    unseen = {"user": ["new"], "tags": ["new:3"], "shop": [77], "price": [3.0], "age": [-1e9]}
    padded = {"ids": [[MISSING_INTEGER] * 2], "w": [[math.nan] * 2], "words": [["", ""]]}
    empty = {"ids": np.zeros((1, 0), np.int64), "w": np.zeros((1, 0)), "words": np.zeros((1, 0), str)}
    specs = serve.structured_input_signature[1]
    for scalars in (nothing, unseen):
        expected = made(adapted({**scalars, "ids": [[]], "w": [[]], "words": [[]]})).numpy()
        for lists in (padded, empty):
            request = {name: tf.constant(values, specs[name].dtype) for name, values in {**scalars, **lists}.items()}
            found = serve(**request)
            assert_scores(found, expected)
    none = serve(**{name: tf.zeros([0] * (1 + (spec.shape.rank > 1)), spec.dtype) for name, spec in specs.items()})
    assert none["score"].shape == (0, 1)
    del loaded


@pytest.mark.parametrize("missing", ["category", "ignore"])
def test_columns_whose_values_are_all_rare(tmp_path: Path, missing: Any) -> None:
    """No vocabulary, and so no table nor asset."""
    columns = {
        "a": Schema.string_categorical(min_count=10, missing=missing),
        "b": Schema.integer_categorical(min_count=10, missing=missing),
    }
    adapted = Schema(columns)
    adapted.adapt({"a": ["x", "y"], "b": [1, 2]})
    assert adapted.num_features == (4 if missing == "category" else 2)
    made = rafm_model(adapted)
    loaded, serve = raw_of(kr.export(made, tmp_path / "m", schema=adapted))
    raw = {"a": ["x", ""], "b": [5, MISSING_INTEGER]}
    found = serve(a=tf.constant(raw["a"]), b=tf.constant(raw["b"], tf.int64))
    assert_scores(found, made(adapted(raw)))
    del loaded


@pytest.mark.parametrize("name", ["training", "name"])
def test_names_that_look_special(tmp_path: Path, name: str) -> None:
    adapted = Schema({name: "string_categorical"})
    adapted.adapt({name: ["x", "y", "y"]})
    made = rafm_model(adapted)
    loaded, serve = raw_of(kr.export(made, tmp_path / "m", schema=adapted))
    found = serve(**{name: tf.constant(["y", "z"])})
    assert_scores(found, made(adapted({name: ["y", "z"]})))
    del loaded


def assert_refused(made: Any, adapted: Schema, path: Path, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        kr.export(made, path, schema=adapted)
    assert list(path.parent.iterdir()) == []


def test_schemas_of_other_models(tmp_path: Path) -> None:
    def adapted(**data: Any) -> Schema:
        made = Schema(dict.fromkeys(data, "string_categorical"))
        made.adapt(data)
        return made

    own = adapted(a=["x", "y"], b=["x", "y"])
    model = rafm_model(own)
    path = tmp_path / "m"
    assert_refused(model, adapted(a=["x"], b=["x"]), path, ValueError, "Received: a schema of 6 features, and .* of 8")
    wide = adapted(a=["1", "2", "3", "4", "5", "6"])
    assert wide.num_features == own.num_features
    assert_refused(model, wide, path, ValueError, "of width 1, .* Received a model with the input 'ids' of width 2")
    lists = Schema({"a": Schema.string_categorical(multivalued=True)})
    lists.adapt({"a": [["1", "2", "3", "4", "5", "6"]]})
    assert_refused(model, lists, path, ValueError, "of width None, .* Received a model with the input 'ids' of width 2")
    numbers = Schema({"a": "string_categorical", "x": "float"})
    numbers.adapt({"a": ["x"], "x": [1.0]})
    message = r"inputs of schema\.inputs\(\), \['ids', 'values'\].* Received a model with the inputs \['ids'\]"
    assert_refused(model, numbers, path, ValueError, message)
    assert_refused(rafm_model(numbers), own, path, ValueError, r"\['ids'\].* with the inputs \['ids', 'values'\]")
    unadapted = Schema({"a": "string_categorical", "b": "string_categorical"})
    assert_refused(model, unadapted, path, RuntimeError, "the schema has learnt nothing yet")


@pytest.mark.parametrize("name", ["a b", "1st", "_a", "ü", "a-b", "a.b", "a:0", "a/b", "class", "self"])
def test_names_that_a_signature_cannot_have(tmp_path: Path, name: str) -> None:
    adapted = Schema({"ok": "string_categorical", name: "string_categorical"})
    adapted.adapt({"ok": ["x"], name: ["x"]})
    message = rf"names of letters, digits and underscores, a letter first, other than .* keywords\. Received: \['{name}'\]"
    assert_refused(rafm_model(adapted), adapted, tmp_path / "m", ValueError, message)


def test_ids_of_another_dtype(tmp_path: Path) -> None:
    """A model of one's own may take int64."""
    adapted = Schema({"a": "string_categorical"})
    adapted.adapt({"a": ["x", "y"]})
    ids = keras.Input((1,), dtype="int64", name="ids")
    made = keras.Model(ids, kr.RaFMLayer(kr.RankPlan.from_counts(adapted.counts, ranks=(2,), thresholds=()))(ids))
    loaded, serve = raw_of(kr.export(made, tmp_path / "m", schema=adapted))
    assert_scores(serve(a=tf.constant(["y"])), made(adapted({"a": ["y"]})["ids"]))
    del loaded
