"""What a `Schema` learns and what it maps batches to equals an oracle, in Python, datasets, graphs and saved models."""

import random
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from schema_oracle import (
    FLOATS,
    FORMS,
    INTEGERS,
    STRINGS,
    WEIGHTS,
    Oracle,
    assert_maps_as,
    declared,
    has_lists,
    no_padding_inside,
    raw_of,
    schema_of,
)

from keras_rafm import RaFMLayer, RaFMModel, RankPlan
from keras_rafm.data.columns.encoder import tables_from_files
from keras_rafm.data.schema import Schema


@settings(max_examples=60)
@given(declared(), st.sampled_from(FORMS), st.sampled_from(FORMS))
def test_like_the_oracle(example, form, other_form):
    columns, rows, others = example
    form = form if no_padding_inside(columns, rows) else "python"
    other_form = other_form if no_padding_inside(columns, others) else "tensor"
    schema, oracle = schema_of(columns), Oracle(columns, rows)
    schema.adapt(raw_of(columns, rows, form))
    np.testing.assert_array_equal(schema.counts, oracle.counts)
    assert schema.counts.dtype == np.int64
    assert schema.num_features == len(oracle.counts) == len(schema.feature_names())
    assert schema.has_values == oracle.has_values
    assert_maps_as(schema, oracle, columns, rows, form)
    assert_maps_as(schema, oracle, columns, others, other_form)
    assert_maps_as(schema, oracle, columns, rows[:1])
    assert_maps_as(schema, oracle, columns, [], other_form)
    ranges = [schema.id_range(name) for name in columns]
    assert [number for ids in ranges for number in ids] == list(range(schema.num_features))
    for name in columns:
        assert len(schema.vocabulary(name)) == len(schema.id_range(name)) == len(oracle.columns[name].counts)


def learnt_by(schema, columns, rows):
    mapped = schema(raw_of(columns, rows))
    return schema.feature_names(), schema.counts.tolist(), [tensor.numpy().tolist() for tensor in mapped.values()]


@settings(max_examples=25)
@given(declared(max_rows=20), st.integers(1, 25), st.randoms(use_true_random=False))
def test_neither_order_nor_batches_of_rows_make_a_difference(example, batch_size, rng):
    columns, rows, _ = example
    whole, batched, counted = schema_of(columns), schema_of(columns), schema_of(columns)
    whole.adapt(raw_of(columns, rows))
    shuffled = rng.sample(rows, len(rows))
    dataset = tf.data.Dataset.from_tensor_slices(raw_of(columns, shuffled, "tensor")).batch(batch_size)
    batched.adapt(dataset.map(lambda raw: (raw, 1)) if batch_size % 2 else dataset)
    counted.adapt(counted.count_values(raw_of(columns, shuffled[::-1])))
    expected = learnt_by(whole, columns, rows)
    assert learnt_by(batched, columns, rows) == expected
    assert learnt_by(counted, columns, rows) == expected


ALL_KINDS = {
    "user": ("string_categorical", {"min_count": 2}),
    "item": ("integer_categorical", {"max_tokens": 3, "num_oov_indices": 0}),
    "agent": ("string_hashed", {"num_bins": 7}),
    "zone": ("integer_hashed", {"num_bins": 3, "missing": "ignore"}),
    "hour": ("integer_identity", {"num_ids": 3}),
    "age": ("float_discretized", {"num_bins": 3, "missing": "category"}),
    "clicks": ("float_discretized", {"bin_boundaries": (0.5, 2.0)}),
}
NUMBERS = {"price": ("float", {"scaling": "standard"}), "size": ("float", {})}
LISTS = {
    "genres": ("string_categorical", {"separator": "|", "missing": "ignore"}),
    "seen": ("integer_categorical", {"multivalued": True, "min_count": 2}),
}
WEIGHTED_LISTS = {
    "tags": ("string_categorical", {"separator": "|", "weight_separator": ":", "combiner": "mean"}),
    "bought": ("integer_hashed", {"num_bins": 4, "multivalued": True, "weights": "amounts", "combiner": "sqrtn"}),
}
DECLARATIONS = {
    "plain": ALL_KINDS,
    "values": {**ALL_KINDS, **NUMBERS},
    "lists": {**LISTS, **ALL_KINDS},
    "lists and values": {**ALL_KINDS, **LISTS, **NUMBERS, **WEIGHTED_LISTS},
}


def random_rows(number, seed=0):
    rng = random.Random(seed)
    rows = []
    for _ in range(number):
        bought = [rng.choice(INTEGERS[1:]) for _ in range(rng.randrange(4))]
        rows.append(
            {
                "user": rng.choice(STRINGS),
                "item": rng.choice(INTEGERS),
                "agent": rng.choice(STRINGS),
                "zone": rng.choice(INTEGERS),
                "hour": rng.randrange(-1, 5),
                "age": rng.choice(FLOATS),
                "clicks": rng.choice(FLOATS),
                "price": rng.choice(FLOATS[:8]),
                "size": rng.choice(FLOATS[:8]),
                "genres": "|".join(rng.choices(STRINGS, k=rng.randrange(4))),
                "seen": rng.choices(INTEGERS, k=rng.randrange(4)),
                "tags": "|".join(f"{rng.choice(STRINGS)}:{rng.choice(WEIGHTS)}" for _ in range(rng.randrange(4))),
                "bought": bought,
                "amounts": rng.choices(WEIGHTS, k=len(bought)),
                "label": float(rng.random() < 0.5),
                "weight": float(rng.randrange(3)),
            }
        )
    return rows


@pytest.fixture(params=DECLARATIONS)
def everything(request):
    columns = DECLARATIONS[request.param]
    schema = schema_of(columns)
    schema.adapt(raw_of(columns, random_rows(40)))
    return columns, schema


def assert_same(left, right):
    assert set(left) == set(right)
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
        assert left[name].dtype == right[name].dtype


def without_shapes(raw):
    return {
        name: tf.RaggedTensorSpec([None, None], x.dtype, ragged_rank=1)
        if isinstance(x, tf.RaggedTensor)
        else tf.TensorSpec([None], x.dtype)
        for name, x in raw.items()
    }


def test_same_in_graphs_and_datasets(everything):
    columns, schema = everything
    batches = [random_rows(size, seed=size) for size in (40, 1, 7, 0)]
    raws = [raw_of(columns, rows, "tensor") for rows in batches]
    dataset = tf.data.Dataset.from_generator(lambda: iter(raws), output_signature=without_shapes(raws[0]))
    mapped = list(
        dataset.map(schema)
    )  # before the first eager call, to show that the look-up tables do not belong to the graph of the dataset
    function = tf.function(schema, input_signature=[without_shapes(raws[0])])
    oracle = Oracle(columns, random_rows(40))
    for rows, raw, of_dataset in zip(batches, raws, mapped, strict=True):
        eager = schema(raw)
        assert_same(function(raw), eager)
        assert_same(of_dataset, eager)
        assert_maps_as(schema, oracle, columns, rows)
    assert function.experimental_get_tracing_count() == 1
    width = None if any(map(has_lists, columns.values())) else len(columns)
    assert dataset.map(schema).element_spec["ids"].shape.as_list() == [None, width]


def test_same_after_saving_and_after_the_config(everything, tmp_path):
    columns, schema = everything
    schema.save(tmp_path / "schema")
    loaded = Schema.load(tmp_path / "schema")
    again = Schema.from_config(schema.get_config())
    assert not again.is_adapted
    again.adapt(raw_of(columns, random_rows(40)))
    rows = random_rows(20, seed=1)
    for other in (loaded, again):
        assert other.is_adapted
        assert other.get_config() == schema.get_config()
        assert learnt_by(other, columns, rows) == learnt_by(schema, columns, rows)


@pytest.mark.parametrize("tables", ["in memory", "in files"])
def test_same_in_a_saved_graph(tmp_path, tables):
    columns = {**ALL_KINDS, **NUMBERS, **LISTS, "tags": WEIGHTED_LISTS["tags"]}
    schema = schema_of(columns)
    schema.adapt(raw_of(columns, random_rows(40)))
    schema.save(tmp_path / "schema")
    raw = raw_of(columns, random_rows(20, seed=1), "tensor")
    module = tf.Module()
    from_files = tables_from_files(tmp_path / "schema", schema.columns)
    module.encoder = schema.encoder() if tables == "in memory" else schema.new_encoder(from_files)
    module.serve = tf.function(lambda raw: module.encoder(raw), input_signature=[without_shapes(raw)])
    tf.saved_model.save(module, str(tmp_path / "model"))
    shutil.rmtree(tmp_path / "schema")
    assert_same(tf.saved_model.load(str(tmp_path / "model")).serve(raw), schema(raw))


def test_numpy_integers_as_options_can_be_saved(tmp_path):
    schema = Schema(
        {
            "a": Schema.string_categorical(min_count=np.int64(1), max_tokens=np.int32(5)),
            "b": Schema.integer_hashed(np.int64(3)),
            "c": Schema.integer_identity(np.int64(3)),
            "d": Schema.float_discretized(num_bins=np.int64(3)),
            "e": Schema.float_discretized(bin_boundaries=np.array([1.5, 2.5], np.float32)),
        },
        label="f",
        positive_label=np.float32(2),
    )
    schema.adapt({"a": ["x"], "b": [1], "c": [1], "d": [1.0], "e": [2.0]})
    schema.save(tmp_path / "schema")
    assert Schema.load(tmp_path / "schema").get_config() == schema.get_config()


def test_a_dataset_keeps_its_vocabulary_when_the_schema_adapts_again():
    def dataset():
        schema = Schema({"a": "string_categorical"})
        schema.adapt({"a": ["x", "y"]})
        mapped = tf.data.Dataset.from_tensors({"a": ["y", "x"]}).map(lambda raw: schema(raw))
        first = next(iter(mapped))["ids"]
        schema.adapt({"a": ["y"]})
        np.testing.assert_array_equal(schema({"a": ["y", "x"]})["ids"], [[2], [0]])
        return mapped, first

    mapped, first = dataset()
    np.testing.assert_array_equal(next(iter(mapped))["ids"], first)


def test_columns_of_objects_as_pandas_has_them():
    lists = np.empty(2, object)
    lists[:] = [["x", "y"], np.array([], object)]
    schema = Schema({"a": "string_categorical", "b": Schema.string_categorical(multivalued=True)})
    raw = {"a": np.array(["u", "é"], object), "b": lists, "other": np.array([None, {}], object)}
    schema.adapt(raw)
    np.testing.assert_array_equal(schema(raw)["ids"], [[2, 6, 7], [3, 5, -1]])


@pytest.mark.parametrize(
    ("declaration", "weighted"), [("plain", True), ("values", False), ("lists", False), ("lists and values", True)]
)
def test_training(declaration, weighted):
    keras.utils.set_random_seed(0)
    columns, rows = DECLARATIONS[declaration], random_rows(60)
    schema = schema_of(columns, label="label", sample_weight="weight" if weighted else None)
    raw = raw_of(columns, rows, "tensor")
    raw |= {name: tf.constant([row[name] for row in rows]) for name in ("label", "weight")}
    dataset = tf.data.Dataset.from_tensor_slices(raw).batch(16)
    schema.adapt(dataset)
    plan = RankPlan.from_counts(schema.counts, ranks=(2, 4), thresholds=(6,))
    inputs = schema.inputs()
    model = RaFMModel(inputs, RaFMLayer(plan)(inputs if schema.has_values else inputs["ids"]))
    model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
    history = model.fit(dataset.map(schema.training_batch), epochs=2, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    assert history.history["loss"][1] < history.history["loss"][0]
    batch = schema.training_batch(next(iter(dataset)))
    assert len(batch) == 2 + weighted
    assert all(part.shape == [16, 1] and part.dtype == tf.float32 for part in batch[1:])
    np.testing.assert_array_equal(batch[1][:, 0], [row["label"] for row in rows[:16]])
    if weighted:
        np.testing.assert_array_equal(batch[2][:, 0], [row["weight"] for row in rows[:16]])
    assert model.predict(schema(raw_of(columns, rows[:3])), verbose=0).shape == (3, 1)
