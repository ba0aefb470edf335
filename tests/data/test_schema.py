"""What a `Schema` learns and what it maps batches to, against an oracle of dicts and lists."""

import functools
import math
import random
import shutil
from collections import ChainMap, Counter

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rafm import RaFMLayer, RaFMModel, RankPlan
from keras_rafm.data.columns.encoder import tables_from_files
from keras_rafm.data.schema import Schema

MISSING_INTEGER = -(2**63)
MISSING = {"string": "", "integer": MISSING_INTEGER}


# The oracle. A column is (kind, options), kind the name of a function of `Schema`; a batch is a list of rows; a row has a
# string, an int, a float, or for `multivalued` columns a list of them, and a list of weights under the name of its column.


def options_of(column):
    kind, options = column
    defaults = {"min_count": 1, "max_tokens": None, "num_oov_indices": 1, "combiner": "sum", "scaling": "none"}
    return kind, {**defaults, "missing": "ignore" if kind.startswith("float") else "category", **options}


def has_lists(column):
    return bool(column[1].get("multivalued") or column[1].get("separator"))


def has_weights(column):
    return bool(column[1].get("weights") or column[1].get("weight_separator"))


def has_values(column):
    return column[0] == "float" or has_weights(column) or column[1].get("combiner", "sum") != "sum"


def items_of(column, name, row):
    """Values of a row that are not missing, each with its weight."""
    kind, options = column
    raw = row[name]
    if kind.startswith("float"):
        return [] if math.isnan(raw) else [(float(np.float32(raw)) + 0.0, 1.0)]
    if options.get("separator"):
        items = []
        for token in raw.split(options["separator"]):
            value, colon, weight = token.rpartition(options.get("weight_separator") or "\n\n")
            items.append((value, float(weight)) if colon else (token, 1.0))
    elif options.get("multivalued"):
        items = list(zip(raw, row[options["weights"]] if "weights" in options else [1.0] * len(raw), strict=True))
    else:
        items = [(raw, 1.0)]
    return [(value, weight) for value, weight in items if value != MISSING[kind.split("_")[0]]]


@functools.cache
def hash_of(value, num_bins):
    data = tf.constant([value], tf.int64 if isinstance(value, int) else tf.string)
    return int(keras.layers.Hashing(num_bins)(data)[0])


class OracleColumn:
    def __init__(self, column, name, rows):
        self.column, self.name = column, name
        self.kind, self.options = options_of(column)
        items = [items_of(column, name, row) for row in rows]
        counts = Counter(value for of_row in items for value, _ in of_row)
        total, num_missing = sum(counts.values()), sum(not of_row for of_row in items)
        has_missing = self.options["missing"] == "category" and self.kind not in ("float", "integer_identity")
        self.counts = []  # of the features
        if self.kind.endswith("categorical"):
            ordered = sorted(counts, key=lambda v: (-counts[v], v.encode() if isinstance(v, str) else v))
            own = [v for v in ordered if counts[v] >= self.options["min_count"]]
            own = [v for v in own if not isinstance(v, str) or not set(v) & set("\n\r")][: self.options["max_tokens"]]
            self.unseen = len(self.counts) if self.options["num_oov_indices"] else -1
            self.counts += [total - sum(counts[v] for v in own)] * self.options["num_oov_indices"]
        self.missing = len(self.counts) if has_missing else -1
        self.counts += [num_missing] * has_missing
        first = len(self.counts)
        if self.kind.endswith("categorical"):
            self.ids = {value: first + position for position, value in enumerate(own)}
            self.counts += [counts[value] for value in own]
        elif self.kind.endswith("hashed"):
            self.ids = lambda value: first + hash_of(value, self.options["num_bins"])
            self.counts += self.binned(counts, self.options["num_bins"], first)
        elif self.kind == "integer_identity":
            self.ids = lambda value: value if 0 <= value < self.options["num_ids"] else -1
            self.counts += self.binned(counts, self.options["num_ids"], 0)
        elif self.kind == "float_discretized":
            self.boundaries = self.options.get("bin_boundaries") or quantiles(counts, self.options["num_bins"])
            boundaries = [float(np.float32(boundary)) for boundary in self.boundaries]
            self.ids = lambda value: first + sum(boundary <= value for boundary in boundaries)
            self.counts += self.binned(counts, len(boundaries) + 1, first)
        else:
            self.ids = lambda value: 0
            self.counts.append(total)
            self.offset, self.scale = scaling(counts, self.options["scaling"])

    def binned(self, counts, number, first):
        result = [0] * number
        for value, count in counts.items():
            if self.ids(value) >= 0:
                result[self.ids(value) - first] += count
        return result

    def features(self, row):
        """`(id within the column or −1, x_i)` of each occurrence."""
        items = items_of(self.column, self.name, row)
        if not items:
            return [(self.missing, 1.0 if self.missing >= 0 else 0.0)]
        if self.kind == "float":
            return [(0, (items[0][0] - self.offset) / self.scale)]
        weights = [weight for _, weight in items]
        divisors = {"sum": 1.0, "mean": sum(weights), "sqrtn": math.sqrt(sum(w * w for w in weights))}
        divisor = divisors[self.options["combiner"]]
        features = []
        for value, weight in items:
            number = self.ids.get(value, self.unseen) if isinstance(self.ids, dict) else self.ids(value)
            features.append((number, (weight / divisor if divisor else 0.0) if number >= 0 else 0.0))
        return features


def quantiles(counts, num_bins):
    values = sorted(counts)
    total, below, starts = sum(counts.values()), 0, {}
    for value in values:
        starts[value] = below
        below += counts[value]
    wanted = [number * total / num_bins for number in range(1, num_bins)]
    # Of two values that are equally near to the wanted share, the larger one.
    return sorted({min(values[1:], key=lambda v: (abs(starts[v] - share), -v)) for share in wanted}) if values[1:] else []


def scaling(counts, how):
    if how == "none" or not counts:
        return 0.0, 1.0
    if how == "min_max":
        return min(counts), (max(counts) - min(counts)) or 1.0
    total = sum(counts.values())
    mean = math.fsum(value * count for value, count in counts.items()) / total
    return mean, math.sqrt(math.fsum((value - mean) ** 2 * count for value, count in counts.items()) / total) or 1.0


class Oracle:
    def __init__(self, columns, rows):
        self.columns = {name: OracleColumn(column, name, rows) for name, column in columns.items()}
        self.counts = [count for column in self.columns.values() for count in column.counts]
        self.has_values = any(map(has_values, columns.values()))

    def __call__(self, rows):
        first, blocks = 0, []
        for column in self.columns.values():
            cells = [[(i + first if i >= 0 else -1, x) for i, x in column.features(row)] for row in rows]
            width = max(map(len, cells), default=0) if has_lists(column.column) else 1
            blocks.append(
                np.array([cell + [(-1, 0.0)] * (width - len(cell)) for cell in cells]).reshape(len(rows), width, 2)
            )
            first += len(column.counts)
        matrix = np.concatenate(blocks, axis=1)
        return matrix[:, :, 0].astype(np.int32), matrix[:, :, 1].astype(np.float32)


# From rows to what `Schema` takes.


def schema_of(columns, **options):
    return Schema({name: getattr(Schema, kind)(**given) for name, (kind, given) in columns.items()}, **options)


def raw_of(columns, rows, form="python"):
    raw = {}
    for name, column in columns.items():
        names = [name, column[1]["weights"]] if "weights" in column[1] else [name]
        for own in names:
            kind = "float" if own != name else column[0].split("_")[0]
            raw[own] = as_form([row[own] for row in rows], kind, bool(column[1].get("multivalued")), form)
    return raw


def as_form(values, kind, nested, form):
    dtype = {"string": object, "integer": np.int64, "float": np.float32}[kind]
    tf_dtype = {"string": tf.string, "integer": tf.int64, "float": tf.float32}[kind]
    if not nested:
        if form == "python":
            return values
        flat = np.array(values, dtype)
        return tf.constant(values, tf_dtype, [len(values)]) if form == "tensor" else flat[:, np.newaxis]
    if form == "python":
        return values
    if form == "tensor":
        return tf.ragged.constant(values, tf_dtype, ragged_rank=1, inner_shape=())
    width = max([1, *map(len, values)])
    missing = {"string": "", "integer": MISSING_INTEGER, "float": math.nan}[kind]
    padded = [[*own, *[missing] * (width - len(own))] for own in values]
    return np.array(padded, dtype).reshape(len(values), width)


def assert_maps_as(schema, oracle, columns, rows, form="python"):
    found = schema(raw_of(columns, rows, form))
    ids, values = oracle(rows)
    assert set(found) == ({"ids", "values"} if oracle.has_values else {"ids"})
    assert found["ids"].dtype == tf.int32
    assert found["ids"].shape == ids.shape
    np.testing.assert_array_equal(found["ids"], ids)
    if oracle.has_values:
        assert found["values"].shape == found["ids"].shape
        np.testing.assert_allclose(found["values"], values, rtol=1e-5, atol=1e-6)


# Random columns and rows.

STRINGS = ["", "a", "b", "A", "é", "日本", "a\0", "\0", "a b", "z\n", "\r", "[UNSEEN]", "10", "9", "x:y"]
INTEGERS = [MISSING_INTEGER, MISSING_INTEGER + 1, 2**63 - 1, -1, 0, 1, 2, 3, 10, 2**40]
FLOATS = [math.nan, -0.0, 0.0, 1.0, -1.5, 0.1, 3.0, 1e-3, 2.0**24, 7.25]
WEIGHTS = [1.0, 0.5, 2.0, -1.0, 0.0, 0.25]
FORMS = ["python", "tensor", "padded"]


@st.composite
def columns_with_strategy(draw, name):
    """A column, and a strategy of what its rows have."""
    kind = draw(
        st.sampled_from(
            ["string_categorical", "string_hashed", "integer_categorical", "integer_hashed", "integer_identity"] * 2
            + ["float", "float_discretized"]
        )
    )
    if kind == "float":
        column = (kind, {"scaling": draw(st.sampled_from(["none", "standard", "min_max"]))})
        return column, st.fixed_dictionaries({name: st.sampled_from(FLOATS)})
    if kind == "float_discretized":
        options = {"num_bins": draw(st.integers(2, 5))}
        if draw(st.booleans()):
            options = {"bin_boundaries": draw(st.sampled_from([(0.0,), (-1.5, 0.1, 3.0)]))}
        return (kind, {**options, "missing": draw(st.sampled_from(["ignore", "category"]))}), st.fixed_dictionaries(
            {name: st.sampled_from(FLOATS)}
        )
    options = {}
    if kind.endswith("categorical"):
        options["min_count"] = draw(st.integers(1, 3))
        options["max_tokens"] = draw(st.sampled_from([None, 1, 3]))
        options["num_oov_indices"] = draw(st.integers(0, 1))
    if kind.endswith("hashed"):
        options["num_bins"] = draw(st.integers(1, 5))
    if kind == "integer_identity":
        options["num_ids"] = draw(st.integers(1, 4))
    else:
        options["missing"] = draw(st.sampled_from(["category", "ignore"]))
    is_string = kind.startswith("string")
    shape = draw(st.sampled_from(["single", "lists", "weighted lists", *["separator", "weights inside"] * is_string]))
    values = st.sampled_from(STRINGS if is_string else INTEGERS)
    if shape == "single":
        return (kind, options), st.fixed_dictionaries({name: values})
    options["combiner"] = draw(st.sampled_from(["sum", "mean", "sqrtn"]))
    pairs = st.lists(st.tuples(values, st.sampled_from(WEIGHTS)), max_size=4)
    if shape == "separator":
        options["separator"] = draw(st.sampled_from(["|", ", ", "é"]))
        texts = st.lists(values, max_size=4).map(options["separator"].join)
        return (kind, options), st.fixed_dictionaries({name: texts})
    if shape == "weights inside":
        options["separator"], options["weight_separator"] = "|", draw(st.sampled_from([":", "x", "^", "×", "]", "\\", " "]))
        between = options["weight_separator"]
        tokens = st.tuples(values, st.sampled_from(["1", "0.5", "-2", "1e0", "+.25", None]))
        texts = tokens.filter(lambda t: t[1] is not None or between not in t[0]).map(
            lambda t: t[0] if t[1] is None else between.join(t)
        )
        return (kind, options), st.fixed_dictionaries({name: st.lists(texts, max_size=4).map("|".join)})
    options["multivalued"] = True
    if shape == "weighted lists":
        options["weights"] = name + "_weights"
        rows = pairs.map(lambda p: {name: [v for v, _ in p], options["weights"]: [w for _, w in p]})
        return (kind, options), rows
    return (kind, options), st.fixed_dictionaries({name: st.lists(values, max_size=4)})


@st.composite
def declared(draw, max_rows=12):
    """Columns, rows to learn from, other rows to map."""
    made = {name: draw(columns_with_strategy(name)) for name in ("one", "two", "three")[: draw(st.integers(1, 3))]}
    row = st.tuples(*(rows for _, rows in made.values())).map(lambda parts: dict(ChainMap(*parts)))
    rows = draw(st.lists(row, min_size=1, max_size=max_rows))
    return {name: column for name, (column, _) in made.items()}, rows, draw(st.lists(row, max_size=5))


def no_padding_inside(columns, rows):
    """Padded weights end where their values end, only if no value in front of others is missing."""
    weighted = [(name, column) for name, column in columns.items() if "weights" in column[1]]
    return all(MISSING[column[0].split("_")[0]] not in row[name] for name, column in weighted for row in rows)


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
    assert [number for own in ranges for number in own] == list(range(schema.num_features))
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


# The same code everywhere.

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
    mapped = list(dataset.map(schema))  # before the first eager call: the tables must not belong to its graph
    function = tf.function(schema, input_signature=[without_shapes(raws[0])])
    oracle = Oracle(columns, random_rows(40))
    for rows, raw, of_dataset in zip(batches, raws, mapped, strict=True):
        eager = schema(raw)
        assert_same(function(raw), eager)
        assert_same(of_dataset, eager)
        assert_maps_as(schema, oracle, columns, rows)
    assert function.experimental_get_tracing_count() == 1
    has_lists_ = any(map(has_lists, columns.values()))
    assert dataset.map(schema).element_spec["ids"].shape.as_list() == [None, None if has_lists_ else len(columns)]


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


def test_a_dataset_keeps_what_its_schema_knew():
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


# In training.


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
