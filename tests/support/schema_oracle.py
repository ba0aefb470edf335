"""An oracle of what a `Schema` learns and maps batches to, and random columns and rows.

A column of the oracle is `(kind, options)`, where the kind is the name of a function of `Schema`.

A batch is a list of rows. A row is a dict. Under the name of each column it has a string, an int, a float, or for
`multivalued` columns a list of them; under the name of each column of weights it has a list of floats.
"""

import functools
import math
from collections import ChainMap, Counter

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st

from keras_rafm.data import Schema

MISSING_INTEGER = -(2**63)
MISSING = {"string": "", "integer": MISSING_INTEGER}


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
    """Return the values of a row that are not missing, each with its weight."""
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
        self.counts = []  # occurrences of each feature
        if self.kind.endswith("categorical"):
            ordered = sorted(counts, key=lambda v: (-counts[v], v.encode() if isinstance(v, str) else v))
            kept = [v for v in ordered if counts[v] >= self.options["min_count"]]
            kept = [v for v in kept if not isinstance(v, str) or not set(v) & set("\n\r")][: self.options["max_tokens"]]
            self.unseen = len(self.counts) if self.options["num_oov_indices"] else -1
            self.counts += [total - sum(counts[v] for v in kept)] * self.options["num_oov_indices"]
        self.missing = len(self.counts) if has_missing else -1
        self.counts += [num_missing] * has_missing
        first = len(self.counts)
        if self.kind.endswith("categorical"):
            self.ids = {value: first + position for position, value in enumerate(kept)}
            self.counts += [counts[value] for value in kept]
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
        """Return `(id within the column or −1, x_i)` of each occurrence."""
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
    # Of two values that are equally near to the target, the larger one becomes a boundary.
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


def schema_of(columns, **options):
    return Schema(
        {name: getattr(Schema, kind)(**column_options) for name, (kind, column_options) in columns.items()}, **options
    )


def raw_of(columns, rows, form="python"):
    raw = {}
    for name, column in columns.items():
        names = [name, column[1]["weights"]] if "weights" in column[1] else [name]
        for raw_name in names:
            kind = "float" if raw_name != name else column[0].split("_")[0]
            raw[raw_name] = as_form([row[raw_name] for row in rows], kind, bool(column[1].get("multivalued")), form)
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
    padded = [[*row, *[missing] * (width - len(row))] for row in values]
    return np.array(padded, dtype).reshape(len(values), width)


def assert_maps_as(schema, oracle, columns, rows, form="python"):
    mapped = schema(raw_of(columns, rows, form))
    ids, values = oracle(rows)
    assert set(mapped) == ({"ids", "values"} if oracle.has_values else {"ids"})
    assert mapped["ids"].dtype == tf.int32
    assert mapped["ids"].shape == ids.shape
    np.testing.assert_array_equal(mapped["ids"], ids)
    if oracle.has_values:
        assert mapped["values"].shape == mapped["ids"].shape
        np.testing.assert_allclose(mapped["values"], values, rtol=1e-5, atol=1e-6)


STRINGS = ["", "a", "b", "A", "é", "日本", "a\0", "\0", "a b", "z\n", "\r", "[UNSEEN]", "10", "9", "x:y"]
INTEGERS = [MISSING_INTEGER, MISSING_INTEGER + 1, 2**63 - 1, -1, 0, 1, 2, 3, 10, 2**40]
FLOATS = [math.nan, -0.0, 0.0, 1.0, -1.5, 0.1, 3.0, 1e-3, 2.0**24, 7.25]
WEIGHTS = [1.0, 0.5, 2.0, -1.0, 0.0, 0.25]
FORMS = ["python", "tensor", "padded"]


@st.composite
def columns_with_strategy(draw, name):
    """Draw a column, and return it with a strategy for its rows."""
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
    """Draw columns, rows to learn from, and other rows to map."""
    drawn = {name: draw(columns_with_strategy(name)) for name in ("one", "two", "three")[: draw(st.integers(1, 3))]}
    row = st.tuples(*(rows for _, rows in drawn.values())).map(lambda parts: dict(ChainMap(*parts)))
    rows = draw(st.lists(row, min_size=1, max_size=max_rows))
    return {name: column for name, (column, _) in drawn.items()}, rows, draw(st.lists(row, max_size=5))


def no_padding_inside(columns, rows):
    """Whether padded values and padded weights match: no value is missing, which would look like padding."""
    weighted = [(name, column) for name, column in columns.items() if "weights" in column[1]]
    return all(MISSING[column[0].split("_")[0]] not in row[name] for name, column in weighted for row in rows)
