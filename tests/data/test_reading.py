"""Files of every format through `Schema`: the same rows, batches and counts, in any order, in shares, and what is wrong."""

import collections
import contextlib
import csv
import fcntl
import gc
import gzip
import itertools
import math
import os
import random
import re
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from keras_rafm import RaFMLayer, RaFMModel, RankPlan
from keras_rafm.data import (
    CSVFormat,
    LibFMFormat,
    MalformedRowError,
    Samples,
    Schema,
    SkippedRows,
    read_libfm,
    write_libfm,
    write_tfrecord,
)
from keras_rafm.data.raw import lines as raw_lines
from keras_rafm.data.reading.file_batches import read_batches

pytestmark = pytest.mark.one_tensorflow

MISSING_INTEGER = -(2**63)
SUFFIXES = ["csv", "csv.gz", "tsv", "tsv.gz", "parquet", "tfrecord", "tfrecord.gz"]

# A table: columns of equally many values, None where there is none.

_RNG = random.Random(7)
NUM_ROWS = 157
TABLE = {
    "user": [_RNG.choice(["ann", "bob", "Åsa, the 2nd", 'say "hi"', "two\nlines", " x ", None]) for _ in range(NUM_ROWS)],
    "tags": [
        "|".join(f"{t}:{w}" for t, w in zip(_RNG.sample("abcdef", n), [0.5, 2, -1.25, 3], strict=False)) or None
        for n in (_RNG.choice([0, 1, 2, 4]) for _ in range(NUM_ROWS))
    ],
    "city": [_RNG.choice(["Rome", "Oslo", "東京", None]) for _ in range(NUM_ROWS)],
    "shop": [_RNG.choice([5, -5, 2**63 - 1, -(2**63) + 1, 0, None]) for _ in range(NUM_ROWS)],
    "price": [_RNG.choice([float(np.float32(_RNG.gauss(0, 10))), None]) for _ in range(NUM_ROWS)],
    "age": [_RNG.choice([float(_RNG.randrange(90)), None]) for _ in range(NUM_ROWS)],
    "weight": [float(_RNG.randrange(1, 4)) for _ in range(NUM_ROWS)],
    "clicked": [_RNG.randrange(2) for _ in range(NUM_ROWS)],
}
MISSING = {"user": "", "tags": "", "city": "", "shop": MISSING_INTEGER, "price": math.nan, "age": math.nan}


def table_schema(lists=True):
    columns = {
        "user": Schema.string_categorical(min_count=3),
        "tags": Schema.string_categorical(separator="|", weight_separator=":", combiner="sqrtn"),
        "city": Schema.string_hashed(4),
        "shop": Schema.integer_categorical(missing="ignore"),
        "price": Schema.float("standard"),
        "age": Schema.float_discretized(4, missing="category"),
    }
    if not lists:
        del columns["tags"]
    return Schema(columns, label="clicked", sample_weight="weight")


def in_python(table, start=0, stop=None):
    """A raw batch as Python gives it."""
    return {name: [MISSING.get(name) if v is None else v for v in values[start:stop]] for name, values in table.items()}


def write_text(path, table, delimiter=","):
    opener = gzip.open if str(path).endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(table)
        writer.writerows(zip(*([("" if v is None else v) for v in own] for own in table.values()), strict=True))


def write_table(path, table, schema):
    name = str(path)
    if ".tfrecord" in name:
        assert write_tfrecord(path, in_python(table), schema) == len(table["clicked"])
    elif name.endswith(".parquet"):
        pq.write_table(pa.table(table), path, row_group_size=50)
    else:
        write_text(path, table, "\t" if ".tsv" in name else ",")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    paths = {suffix: str(folder / f"table.{suffix}") for suffix in SUFFIXES}
    for path in paths.values():
        write_table(path, TABLE, table_schema())
    return paths


def rows_of(inputs):
    """`(id, value)` of each row, padding left out: where padding is depends on what other rows are in a block."""
    ids = np.array(inputs["ids"])
    values = np.array(inputs["values"]) if "values" in inputs else np.ones(ids.shape)
    return [
        [(i, x) for i, x in zip(*own, strict=True) if i >= 0] for own in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def listed(batches):
    """Rows of batches of the form (inputs, labels, …)."""
    rows = []
    for inputs, *others in batches:
        rows += zip(rows_of(inputs), *(np.array(other)[:, 0].tolist() for other in others), strict=True)
    return rows


def assert_same_counts(found, expected):
    assert found.keys() == expected.keys()
    for name, own in expected.items():
        assert found[name].values.tolist() == own.values.tolist(), name
        assert found[name].values.dtype == own.values.dtype
        assert found[name].counts.tolist() == own.counts.tolist(), name
        assert found[name].num_missing == own.num_missing, name


def files_below(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# --- the same rows in every format


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_batches_and_counts_of_the_mapping(files, suffix, tmp_path):
    schema, from_file = table_schema(), table_schema()
    schema.adapt(in_python(TABLE))
    assert_same_counts(from_file.count_values(files[suffix]), schema.count_values(in_python(TABLE)))
    from_file.adapt([files[suffix]])
    schema.save(tmp_path / "mapping")
    from_file.save(tmp_path / "file")
    assert files_below(tmp_path / "file") == files_below(tmp_path / "mapping")

    batches = list(from_file.dataset(files[suffix], 40))
    expected = [schema.training_batch(in_python(TABLE, start, start + 40)) for start in range(0, NUM_ROWS, 40)]
    assert [len(labels) for _, labels, _ in batches] == [40, 40, 40, 37]
    assert [inputs["ids"].dtype for inputs, *_ in batches] == [tf.int32] * 4
    assert listed(batches) == listed(expected)
    if suffix in ("csv", "tfrecord"):
        inputs = list(from_file.dataset(files[suffix], 40, training=False))
        assert [row for own in inputs for row in rows_of(own)] == [row for row, *_ in listed(expected)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_batches_without_lists_are_the_very_same_arrays(files, suffix):
    schema = table_schema(lists=False)
    schema.adapt(files[suffix])
    batches = list(schema.dataset(files[suffix], 50, drop_remainder=True))
    assert len(batches) == 3
    for number, batch in enumerate(batches):
        expected = schema.training_batch(in_python(TABLE, 50 * number, 50 * number + 50))
        for found, own in zip(tf.nest.flatten(batch), tf.nest.flatten(expected), strict=True):
            np.testing.assert_array_equal(found, own)
            assert found.dtype == own.dtype


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_raw_rows_are_those_written(files, suffix):
    schema = table_schema()
    blocks = list(schema.raw_dataset(files[suffix]))
    for column in schema.raw_columns(training=True):
        found = np.concatenate([block[column.name].numpy() for block in blocks]).tolist()
        expected = [v.encode() if isinstance(v, str) else v for v in in_python(TABLE)[column.name]]
        assert all(a == b or (a != a and b != b) for a, b in zip(found, expected, strict=True)), column.name
        assert blocks[0][column.name].dtype == column.dtype
    assert set(blocks[0]) == {column.name for column in schema.raw_columns(training=True)}
    assert "clicked" not in next(iter(schema.raw_dataset(files[suffix], training=False)))


def rafm_model(schema, seed=0):
    plan = RankPlan.from_counts(schema.counts, thresholds=(5,), ranks=(2, 3))
    normal = keras.initializers.RandomNormal(stddev=0.5, seed=seed)
    inputs = schema.inputs()
    layer = RaFMLayer(plan, factors_initializer=normal, linear_initializer=normal, seed=seed)
    return RaFMModel(inputs, layer(inputs))


def test_predictions_are_those_of_the_mapping(files):
    schema = table_schema()
    schema.adapt(in_python(TABLE))
    model = rafm_model(schema)
    expected = model(schema(in_python(TABLE))).numpy()
    assert np.std(expected) > 0.1
    for suffix in ("csv", "parquet", "tfrecord"):
        found = model.predict(schema.dataset(files[suffix], 40, training=False, num_rows=NUM_ROWS), verbose=0)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_several_formats_of_text_with_other_characters(tmp_path):
    write_text(tmp_path / "a.txt", TABLE, ";")
    schema = table_schema()
    schema.adapt(tmp_path / "a.txt", file_format=CSVFormat(delimiter=";"))
    expected = table_schema()
    expected.adapt(in_python(TABLE))
    np.testing.assert_array_equal(schema.counts, expected.counts)


# --- libFM text


def many_samples(num_samples=300, seed=0, num_features=50):
    rng = np.random.default_rng(seed)
    occupied = np.arange(5) < rng.integers(0, 6, num_samples)[:, np.newaxis]
    ids = np.where(occupied, rng.integers(0, num_features, occupied.shape), -1).astype(np.int32)
    values = np.where(occupied, rng.normal(size=occupied.shape), 0).astype(np.float32)
    return Samples(ids, values, rng.integers(0, 2, num_samples).astype(np.float32))


def libfm_schema(task="classification"):
    ids = Schema.integer_categorical(multivalued=True, weights="values", missing="ignore", num_oov_indices=0)
    return Schema({"ids": ids}, label="label", task=task)


@pytest.mark.parametrize("suffix", ["libfm", "libfm.gz", "svm"])
@pytest.mark.parametrize("block_bytes", [60])
def test_libfm_text_is_as_read_libfm_has_it(tmp_path, suffix, block_bytes):
    path = tmp_path / f"some.{suffix}"
    write_libfm(path, many_samples())
    schema = libfm_schema()
    file_format = LibFMFormat(block_bytes=block_bytes)
    schema.adapt(path, file_format=file_format)
    samples = read_libfm(path)
    own_id = {int(value): number for number, value in enumerate(schema.vocabulary("ids"))}
    occurrences = collections.Counter(samples.ids[samples.ids >= 0].tolist())
    assert {value: int(schema.counts[number]) for value, number in own_id.items()} == occurrences
    expected = [
        ([(own_id[i], x) for i, x in zip(ids, values, strict=True) if i >= 0], label)
        for ids, values, label in zip(samples.ids.tolist(), samples.values.tolist(), samples.labels.tolist(), strict=True)
    ]
    assert listed(schema.dataset(path, 64, file_format=file_format)) == expected
    assert listed(schema.dataset(path, 64)) == expected


def test_libfm_text_has_three_columns_only(tmp_path):
    write_libfm(tmp_path / "a.libfm", many_samples())
    for columns in ({"ids": "integer_categorical"}, {"user": "string_categorical"}):
        with pytest.raises(ValueError, match=r"a\.libfm: libFM text has the columns 'ids' .* Received: RawColumn\(name="):
            Schema(columns).adapt(tmp_path / "a.libfm")


# --- every row once, in an order that a seed decides, in shares


class Numbered:
    """Rows that are numbered over all files: as the label, and in `row`; with lists of about so many items in `tags`."""

    def __init__(self, folder, sizes, suffix="csv", lists=False):
        self.num_rows = sum(sizes)
        self.schema = numbered_schema(self.num_rows, lists)
        self.files, first = [], 0
        rng = random.Random(len(sizes))
        for number, size in enumerate(sizes):
            longest = [0, 1, 9][number % 3]
            tags = ["|".join(rng.choice("abcdef") for _ in range(rng.randint(0, longest))) for _ in range(size)]
            rows = list(range(first, first + size))
            table = {"row": rows, "tags": tags, "number": rows}
            path = folder / f"part-{number:02}.{suffix}"
            if suffix == "parquet":
                pq.write_table(pa.table(table), path)
            elif suffix == "tfrecord":
                write_tfrecord(path, table, self.schema)
            else:
                write_text(path, table)
            self.files.append(str(path))
            first += size

    def numbers(self, *args, **options):
        """Of the rows in the order of the batches, checked against their ids; and the sizes of batches."""
        return numbers_in(self.dataset(*args, **options))

    def dataset(self, batch_size, **options):
        """As `Schema.dataset`, which takes ten times as long to make a graph of."""
        defaults = {"file_format": None, "shuffle": False, "seed": None, "shuffled_rows": 2**17, "drop_remainder": False}
        defaults |= {"num_shards": 1, "shard_index": 0, "num_rows": None, "on_error": None, "first_epoch": 0}
        columns = self.schema.raw_columns(training=True)
        return read_batches(self.files, columns, self.encode, batch_size, **{**defaults, **options})

    def encode(self, raw):
        ids = raw["row"][:, tf.newaxis]
        if "tags" in self.schema.columns:
            tags = tf.strings.split(raw["tags"], "|")
            tags = tags.with_flat_values(tf.strings.to_hash_bucket_fast(tags.flat_values, 9))
            ids = tf.concat([ids, tags.to_tensor(-1)], axis=1)
        return {"ids": ids}, raw["number"][:, tf.newaxis]


def numbered_schema(num_rows, lists):
    columns = {"row": Schema.integer_identity(num_rows)}
    if lists:
        columns["tags"] = Schema.string_categorical(separator="|", missing="ignore")
    schema = Schema(columns, label="number", task="regression")
    schema.adapt({"row": [0], "tags": ["a|b|c|d|e|f"]})
    return schema


def numbers_in(dataset):
    numbers, sizes = [], []
    for inputs, labels in dataset:
        own = labels.numpy()[:, 0].astype(int).tolist()
        ids = inputs["ids"].numpy()
        assert ids[:, 0].tolist() == own
        assert ids.shape[1] <= 1 + 9
        assert (ids.max(axis=0) >= 0).all()  # no column of padding
        numbers += own
        sizes.append(len(own))
    return numbers, sizes


SIZES = (40, 1, 7, 93, 30, 2, 64)
CASES = list(
    itertools.product(
        ["csv", "csv", "parquet", "tfrecord"],
        [1, 3, 7],
        [30, 400, 1 << 19],
        [1, 7, 64, 1000],
        [None, 1, 50, 10**6],
        [1, 2, 3, 5],
        [False, True],
        [False, True],
    )
)


@pytest.mark.parametrize("case", random.Random(3).sample(CASES, 10), ids=str)
def test_every_row_once(tmp_path, case):
    suffix, num_files, block_bytes, batch_size, shuffled_rows, num_shards, drop_remainder, lists = case
    data = Numbered(tmp_path, SIZES[:num_files], suffix, lists)
    options = {"file_format": CSVFormat(block_bytes=block_bytes)} if suffix == "csv" else {}
    if shuffled_rows is not None:
        options |= {"shuffle": True, "shuffled_rows": shuffled_rows}
    seen = []
    for index in range(num_shards):
        numbers, sizes = data.numbers(
            batch_size, num_shards=num_shards, shard_index=index, drop_remainder=drop_remainder, **options
        )
        if drop_remainder:
            assert set(sizes) <= {batch_size}
        else:
            assert set(sizes[:-1]) <= {batch_size}
        if shuffled_rows is None and num_files == 1:
            assert numbers == sorted(numbers)
        seen += numbers
    assert len(seen) == len(set(seen))
    if drop_remainder:
        assert data.num_rows - len(seen) < num_shards * batch_size
    else:
        assert sorted(seen) == list(range(data.num_rows))


def test_every_row_once_by_the_schema(tmp_path):
    data = Numbered(tmp_path, SIZES, lists=True)
    options = {"shuffle": True, "seed": 3, "shuffled_rows": 50, "num_shards": 2}
    seen = [numbers_in(data.schema.dataset(data.files, 16, shard_index=index, **options))[0] for index in range(2)]
    assert sorted(itertools.chain(*seen)) == list(range(data.num_rows))


@pytest.mark.parametrize("num_files", [2, 7])
def test_the_seed_decides_the_order(tmp_path, num_files):
    data = Numbered(tmp_path, SIZES[:num_files], lists=True)
    options = {"shuffle": True, "shuffled_rows": 30, "file_format": CSVFormat(block_bytes=100)}
    first, second = data.dataset(8, seed=5, **options), data.dataset(8, seed=5, **options)
    epochs = [numbers_in(first)[0] for _ in range(3)]
    assert [numbers_in(second)[0] for _ in range(3)] == epochs
    assert numbers_in(first.repeat(2))[0] != epochs[0] + epochs[1]  # the fourth and fifth
    orders = {tuple(order) for order in (*epochs, data.numbers(8, seed=6, **options)[0], data.numbers(8, **options)[0])}
    assert len(orders) == 5
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(data.num_rows))}
    # The first rows are from several files, drawn in a new order.
    assert len({tuple(sorted(order[:8])) for order in orders}) > 1


def test_shards_of_blocks_don_t_depend_on_the_seed_nor_the_epoch(tmp_path):
    """Workers that are given no seed draw files in other orders, and may be in other epochs."""
    data = Numbered(tmp_path, (80, 90, 70))
    options = {"shuffle": True, "num_shards": 4, "file_format": CSVFormat(block_bytes=60)}
    shares = [data.numbers(10, shard_index=index, **options)[0] for index in range(4)]
    assert sorted(itertools.chain(*shares)) == list(range(data.num_rows))
    assert min(map(len, shares)) > 40
    again = data.dataset(10, shard_index=1, **options)
    for _ in range(3):
        numbers, _ = numbers_in(again)
        assert sorted(numbers) == sorted(shares[1])


def test_shards_without_rows(tmp_path):
    data = Numbered(tmp_path, (20,), lists=True)
    for options in ({}, {"shuffle": True}):
        shares = [data.numbers(6, num_shards=3, shard_index=index, **options) for index in range(3)]
        assert sorted(len(numbers) for numbers, _ in shares) == [0, 0, 20]
        assert sorted(sizes for _, sizes in shares) == [[], [], [6, 6, 6, 2]]


def test_files_of_one_block_are_shared_out(tmp_path):
    data = Numbered(tmp_path, (10, 10, 10))
    shares = [len(data.numbers(6, num_shards=4, shard_index=index)[0]) for index in range(4)]
    assert sorted(shares) == [0, 10, 10, 10]


@pytest.mark.parametrize("shuffled_rows", [1, 60, 10**9])
def test_how_far_rows_are_shuffled(tmp_path, shuffled_rows):
    data = Numbered(tmp_path, (400,))
    options = {"shuffle": True, "seed": 1, "file_format": CSVFormat(block_bytes=90)}  # blocks of about ten rows
    numbers, _ = data.numbers(20, shuffled_rows=shuffled_rows, **options)
    assert numbers != sorted(numbers)
    moved = np.abs(np.array(numbers) - np.arange(400))
    reach = 6 * max(20, shuffled_rows)  # what is left of a draw is in the next one too, seldom for long
    assert moved.max() < reach
    assert moved.mean() > min(reach, 400) / 20


@pytest.mark.parametrize("lists", [False, True])
def test_known_number_of_rows(tmp_path, lists):
    data = Numbered(tmp_path, (30, 45), lists=lists)
    for drop_remainder, number in ((False, 8), (True, 7)):
        options = {"batch_size": 10, "drop_remainder": drop_remainder}
        assert data.dataset(**options).cardinality() == tf.data.UNKNOWN_CARDINALITY
        dataset = data.dataset(num_rows=75, **options)
        assert dataset.cardinality() == number == len(list(dataset))
    for wrong in (50, 100):
        for shuffle in (False, True):
            with pytest.raises(tf.errors.FailedPreconditionError):
                list(data.dataset(10, num_rows=wrong, shuffle=shuffle))


def test_no_iterator_waits_for_tuning_when_it_ends(tmp_path):
    """In a thread that sleeps for up to a minute, and now and then sleeps on when it is told to end."""
    data = Numbered(tmp_path, (30,))
    samples = Samples(np.array([[0]], "int32"), np.array([[1.0]], "float32"), np.array([1.0], "float32"))
    datasets = [
        data.dataset(10),
        data.dataset(10, shuffle=True, num_rows=30),
        data.schema.raw_dataset(data.files),
        samples.dataset(1, shuffle=True),
    ]
    assert [dataset.options().autotune.enabled for dataset in datasets] == [False] * len(datasets)


def test_specs(tmp_path):
    for lists, width in ((False, 1), (True, None)):
        data = Numbered(tmp_path, (30,), lists=lists)
        for shuffle in (False, True):
            inputs, labels = data.schema.dataset(data.files, 10, shuffle=shuffle).element_spec
            assert inputs["ids"].shape.as_list() == [None, width]
            assert labels.shape.as_list() == [None, 1]
            assert data.schema.dataset(data.files, 10, training=False, shuffle=shuffle).element_spec == inputs


def test_batches_with_no_feature_at_all(tmp_path):
    """Such as of users without history: the score is the bias."""
    write_text(tmp_path / "a.csv", {"tags": ["", "", "a", ""], "y": [0, 1, 1, 0]})
    schema = Schema({"tags": Schema.string_categorical(separator="|", missing="ignore")}, label="y")
    schema.adapt(tmp_path / "a.csv")
    model = rafm_model(schema)
    dataset = schema.dataset(tmp_path / "a.csv", 2, training=False, num_rows=4)
    expected = model(schema({"tags": ["", "", "a", ""]})).numpy()
    np.testing.assert_allclose(model.predict(dataset, verbose=0), expected, rtol=0, atol=1e-6)
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(schema.dataset(tmp_path / "a.csv", 2, num_rows=4), epochs=2, verbose=0, shuffle=False)


# --- training


@pytest.mark.parametrize(("suffix", "kind"), [("csv", RaFMModel), ("parquet", keras.Model)])
def test_fit(files, suffix, kind):
    schema = table_schema()
    schema.adapt(files[suffix])
    keras.utils.set_random_seed(1)
    rafm = rafm_model(schema)
    model = rafm if kind is RaFMModel else keras.Model(rafm.input, rafm.output)
    model.compile(keras.optimizers.Adam(0.1), keras.losses.BinaryCrossentropy(from_logits=True), steps_per_execution=2)
    training = schema.dataset(files[suffix], 16, shuffle=True, seed=1, num_rows=NUM_ROWS)
    validation = schema.dataset(files[suffix], 50, num_rows=NUM_ROWS)
    history = model.fit(training, validation_data=validation, epochs=3, verbose=0, shuffle=False).history
    assert len(history["val_loss"]) == 3
    assert history["val_loss"][-1] < history["val_loss"][0]
    assert model.evaluate(validation, verbose=0) == pytest.approx(history["val_loss"][-1], rel=1e-5)


def open_files():
    """The paths of all files that this process has open."""
    paths = []
    for number in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # it was closed meanwhile
            if hasattr(fcntl, "F_GETPATH"):  # macOS
                paths.append(os.fsdecode(fcntl.fcntl(int(number), fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
            else:
                paths.append(os.readlink(f"/dev/fd/{number}"))
    return paths


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet", "tfrecord"])
def test_nothing_stays_open_after_a_dropped_iteration(tmp_path, suffix):
    data = Numbered(tmp_path, (9000, 9000, 9000, 9000, 9000, 9000), suffix)
    file_format = CSVFormat(block_bytes=2000) if suffix.startswith("csv") else None
    dataset = data.dataset(100, shuffle=True, shuffled_rows=500, file_format=file_format)
    next(iter(dataset))
    gc.collect()
    time.sleep(0.2)
    threads = threading.active_count()
    for taken in (1, 5, 2):
        iterator = iter(dataset)
        for _ in range(taken):
            next(iterator)
        if suffix == "csv":  # far from its end
            assert any(str(tmp_path) in file for file in open_files())
        del iterator
    gc.collect()
    deadline = time.monotonic() + 5
    while any(str(tmp_path) in file for file in open_files()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [file for file in open_files() if str(tmp_path) in file] == []
    assert threading.active_count() <= threads + 1


# --- which files are meant


@pytest.fixture
def folder(tmp_path):
    Numbered(tmp_path, (3, 4, 5))
    for hidden in (".part-00.csv.crc", "_SUCCESS", ".hidden.csv", "_temporary.csv"):
        (tmp_path / hidden).write_bytes(b"\xff not CSV")
    (tmp_path / "more.csv").mkdir()
    return tmp_path


def rows_in(paths, **options):
    schema = numbered_schema(12, lists=False)
    return sorted(numbers_in(schema.dataset(paths, 5, **options))[0])


def test_files_folders_and_patterns(folder, monkeypatch):
    part = folder / "part-01.csv"
    assert rows_in(part) == rows_in(str(part)) == rows_in([part]) == rows_in((str(part),)) == [3, 4, 5, 6]
    everything = list(range(12))
    assert rows_in(folder) == rows_in(f"{folder}/") == everything
    assert rows_in(str(folder / "*.csv")) == rows_in(folder / "part-0[0-9].csv") == rows_in(folder / "*") == everything
    assert rows_in([folder / "part-0[01].csv", folder / "part-02.csv"]) == everything
    assert rows_in(folder / "?art-00.csv") == [0, 1, 2]
    (folder / "odd[1].csv").write_bytes((folder / "part-00.csv").read_bytes())
    assert rows_in(folder / "odd[1].csv") == [0, 1, 2]
    for name in ("PART-03.CSV", "part-04.Csv.GZ"):
        content = part.read_bytes()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
        assert rows_in(folder / name) == [3, 4, 5, 6]
    monkeypatch.setenv("HOME", str(folder))
    assert rows_in("~/part-01.csv") == rows_in(Path("~") / "part-01.csv") == [3, 4, 5, 6]
    (folder / ".hidden.csv").write_bytes(part.read_bytes())
    assert rows_in(folder / ".hidden.csv") == rows_in(folder / ".*.csv") == [3, 4, 5, 6]


def test_other_files_than_meant(folder):
    schema = numbered_schema(12, lists=False)

    def both(paths, kind, message, **options):
        with pytest.raises(kind, match=message):
            schema.dataset(paths, 5, **options)
        with pytest.raises(kind, match=message):
            schema.adapt(paths, **options)

    both(folder / "absent.csv", FileNotFoundError, r"file not found: .*absent\.csv")
    both([folder / "part-00.csv", folder / "absent.csv"], FileNotFoundError, r"file not found: .*absent\.csv")
    both(folder / "*.parquet", FileNotFoundError, r"no file matches the pattern .*\*\.parquet")
    both(folder / "more.csv", ValueError, r"the folder .*more\.csv contains no files")
    (folder / "more.csv" / "part-00.csv").write_bytes((folder / "part-00.csv").read_bytes())
    for parent in (folder, folder.parent):
        both(parent, ValueError, r"contains the folder .*: specify its files by a pattern such as .*/\*/\*")
    assert rows_in(folder / "*" / "*.csv") == [0, 1, 2]
    (folder / "more.csv" / "part-00.csv").unlink()
    both([], ValueError, "at least one file. Received an empty sequence")
    both(folder / "_SUCCESS", ValueError, r"_SUCCESS: cannot infer the file format from the name; expected one that ends with .csv, .* `file_format`")
    both(
        folder / "part-00.csv",
        TypeError,
        r"`file_format` must be a file format such as CSVFormat\(\)\. Received: 'csv'",
        file_format="csv",
    )
    (folder / "z.parquet").write_bytes(b"")
    both(folder, ValueError, r"files must be of one format; .*part-00\.csv and .*z\.parquet differ")
    write_text(folder / "z.tsv", {"row": [1]}, "\t")
    both(folder / "*sv", ValueError, r"files must be of one format; .*part-00\.csv and .*z\.tsv differ")


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1. Received: batch_size=0"),
        ({"batch_size": 2.0}, TypeError, "`batch_size` must be an integer. Received: batch_size=2.0 of type float"),
        ({"num_shards": 0}, ValueError, "`num_shards` must be at least 1. Received: num_shards=0"),
        ({"num_shards": 2, "shard_index": 2}, ValueError, "`shard_index` must be from 0 to 1. Received: shard_index=2"),
        ({"shard_index": -1}, ValueError, "`shard_index` must be from 0 to 0. Received: shard_index=-1"),
        ({"shuffled_rows": 0}, ValueError, "`shuffled_rows` must be at least 1. Received: shuffled_rows=0"),
        ({"num_rows": 0}, ValueError, "`num_rows` must be at least 1. Received: num_rows=0"),
    ],
)
def test_wrong_options(folder, options, kind, message):
    with pytest.raises(kind) as error:
        numbered_schema(12, lists=False).dataset(folder, **{"batch_size": 5, **options})
    assert str(error.value) == message


@pytest.fixture
def remote():
    name = "ram://keras_rafm_test"
    if tf.io.gfile.exists(name):
        tf.io.gfile.rmtree(name)
    tf.io.gfile.makedirs(name)
    return name


@pytest.mark.parametrize("suffix", [*SUFFIXES, "libfm", "libfm.gz"])
def test_remote_files(files, remote, tmp_path, suffix):
    """Through a file system that is TensorFlow's alone."""
    local = tmp_path / f"some.{suffix}"
    if suffix in files:
        schema, local = table_schema(), files[suffix]
    else:
        schema = libfm_schema()
        write_libfm(local, many_samples())
    path = f"{remote}/folder/some.{suffix}"
    tf.io.gfile.makedirs(f"{remote}/folder")
    if "tfrecord" in suffix:
        write_tfrecord(path, in_python(TABLE), schema)
    else:
        with tf.io.gfile.GFile(path, "wb") as file, open(local, "rb") as own:
            file.write(own.read())
    schema.adapt(path)
    counts = schema.counts
    schema.adapt(local)
    np.testing.assert_array_equal(schema.counts, counts)
    expected = sum(len(block) for block in schema.raw_dataset(local).map(lambda raw: raw[schema.label]))
    for paths in (path, f"{remote}/folder", f"{remote}/folder/*.{suffix}"):
        assert sum(len(block) for block in schema.raw_dataset(paths).map(lambda raw: raw[schema.label])) == expected
    for absent in (f"{remote}/absent.{suffix}", f"{remote}/folder/*.absent"):
        with pytest.raises(FileNotFoundError, match="absent"):
            schema.adapt(absent)
    dataset = schema.raw_dataset(path)
    tf.io.gfile.remove(path)
    # TensorFlow's own reader of TFRecord files says nothing of files that `ram://` hasn't.
    with pytest.raises(tf.errors.OpError, match=None if "tfrecord" in suffix else re.escape(path)):
        list(dataset)


@pytest.mark.parametrize("suffix", ["csv.gz", "libfm.gz", "parquet", "tfrecord.gz"])
def test_damaged_remote_files(files, remote, tmp_path, suffix):
    if suffix == "libfm.gz":
        write_libfm(tmp_path / "a.libfm.gz", many_samples())
    whole = Path(files.get(suffix, tmp_path / "a.libfm.gz")).read_bytes()
    with tf.io.gfile.GFile(f"{remote}/some.{suffix}", "wb") as file:
        file.write(whole[: len(whole) * 2 // 3])
    schema = libfm_schema() if suffix == "libfm.gz" else table_schema()
    with pytest.raises(ValueError, match=rf"^{remote}/some\.{suffix}.*(damaged|not a readable)"):
        schema.adapt(f"{remote}/some.{suffix}")


# --- what is wrong in text


def assert_both_say(schema, path, message, **options):
    """Counting raises a ValueError with this message, a dataset an error with it inside."""
    with pytest.raises(ValueError, match=r".") as error:
        schema.count_values(path, **options)
    assert str(error.value) == message
    with pytest.raises(tf.errors.OpError) as from_graph:
        list(schema.raw_dataset(path, **options))
    assert message in str(from_graph.value)


def typed_schema():
    return Schema({"u": "string_categorical", "n": "integer_categorical", "x": "float"}, label="y")


HEAD = b"u,n,x,y\na,1,2.5,0\n"
FULL = 2**63


@pytest.mark.parametrize(
    ("row", "where", "problem"),
    [
        (b"b,x,1,1", ", line 3, column 'n'", "expected an integer, received 'x'"),
        (b"b,1.0,1,1", ", line 3, column 'n'", "expected an integer, received '1.0'"),
        (
            b"b,%d,1,1" % FULL,
            ", line 3, column 'n'",
            f"expected an integer from {1 - FULL} to {FULL - 1}, received '{FULL}'",
        ),
        (b"b,1,nan,1", ", line 3, column 'x'", "expected a number, received 'nan'"),
        (b"b,1,-inf,1", ", line 3, column 'x'", "expected a number, received '-inf'"),
        (b"b,1,1e39,1", ", line 3, column 'x'", "expected a number that is finite as float32, received '1e39'"),
        (b"\xff,1,1,1", ", line 3, column 'u'", r"expected UTF-8, received '\xff'"),
        (b"b,1,1", ", line 3", "expected 4 fields, as in the first row, received 3"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_malformed_rows_of_text(tmp_path, row, where, problem, packed):
    path = tmp_path / "some.csv"
    text = HEAD + row + b"\nc,3,4,1\n"
    path.write_bytes(gzip.compress(text) if packed else text)
    assert_both_say(typed_schema(), path, f"{path}{where}: {problem}")


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_files_of_text_that_are_wrong_as_a_whole(tmp_path, suffix):
    path = tmp_path / f"some.{suffix}"
    for text in (b"", HEAD[:8].replace(b",", b"," if suffix == "csv" else b"\t")):
        path.write_bytes(text)
        assert_both_say(typed_schema(), path, f"{path}: expected at least one row, found none")
    path.write_bytes((b"u,x,y\na,1,1\n").replace(b",", b"," if suffix == "csv" else b"\t"))
    assert_both_say(typed_schema(), path, f"{path}: expected a column 'n', the first row has 'u', 'x', 'y'")
    lists = Schema({"u": Schema.string_categorical(multivalued=True)}, label="y")
    with pytest.raises(ValueError, match=r"some\..sv: text has no lists. Received: column 'u' with is_list=True"):
        lists.adapt(path)


@pytest.mark.parametrize("suffix", ["csv.gz", "libfm.gz"])
@pytest.mark.parametrize("damage", ["cut off", "contents"])
def test_damaged_gzip(tmp_path, suffix, damage):
    rng = random.Random(0)
    if suffix == "csv.gz":
        text = HEAD + b"".join(b"%d,%d,1,0\n" % (rng.randrange(10**6), rng.randrange(10**6)) for _ in range(9000))
        schema = typed_schema()
    else:
        text = b"".join(b"1 %d:1\n" % rng.randrange(10**6) for _ in range(9000))
        schema = libfm_schema()
    packed = gzip.compress(text)
    packed = packed[:-2000] if damage == "cut off" else packed[:9000] + bytes(50) + packed[9050:]
    path = tmp_path / f"some.{suffix}"
    path.write_bytes(packed)
    message = rf"some\.{suffix}: damaged or truncated gzip file \("
    with pytest.raises(ValueError, match=message):
        schema.adapt(path)
    with pytest.raises(tf.errors.OpError, match=message):
        list(schema.raw_dataset(path))


def test_lines_without_end_are_not_held_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(raw_lines, "_MAX_LINE_BYTES", 1000)
    path = tmp_path / "some.libfm"
    message = f"{path}, line 3: expected a line of at most 1,000 bytes, received a longer one"
    for block_bytes in (7, 100, 999, 1 << 19):
        for rest in (b" ", b"\n1 2:1\n"):
            path.write_bytes(b"1 1:1\n\n1 1:1" + b" " * 994 + b"#" + rest)
            schema, file_format = libfm_schema(), LibFMFormat(block_bytes=block_bytes)
            if block_bytes < 1000:
                assert_both_say(schema, path, message, file_format=file_format)
        path.write_bytes(b"1 1:1\n\n1 1:1" + b" " * 994 + b"\n1 2:1")
        schema.adapt(path, file_format=file_format)
        assert schema.counts.tolist() == [2, 1]


LIBFM_WRONG = {
    "1 2:x": "expected a finite float32 value after the colon, received '2:x'",
    "1 2:1e39": "expected a finite float32 value after the colon, received '2:1e39'",
    f"1 {FULL}:1": f"expected an integer id from 0 to {FULL - 1}, received '{FULL}:1'",
    "1 -2:1": f"expected an integer id from 0 to {FULL - 1}, received '-2:1'",
}


@pytest.mark.parametrize("line", LIBFM_WRONG)
def test_malformed_lines_of_libfm(tmp_path, line):
    path = tmp_path / "some.libfm"
    path.write_text(f"1 1:1\n{line}\n0 2:1\n")
    assert_both_say(libfm_schema(), path, f"{path}, line 2: {LIBFM_WRONG[line]}")


def test_labels_of_libfm(tmp_path):
    """They are those of the schema's task, and any where no labels are asked for."""
    path = tmp_path / "some.libfm"
    path.write_text("1 1:1\n2 1:1\n-1 2:1\n0 1:1\n")
    libfm_schema().adapt(path)
    (block,) = libfm_schema(task="regression").raw_dataset(path)
    assert block["label"].numpy().tolist() == [1, 2, -1, 0]
    with pytest.raises(tf.errors.OpError, match="line 2: expected one of the labels -1, 0 and 1, received '2'"):
        list(libfm_schema().raw_dataset(path))
    skipped = SkippedRows()
    blocks = list(libfm_schema().raw_dataset(path, on_error=skipped))
    assert np.concatenate([block["label"] for block in blocks]).tolist() == [1, 0]
    assert [line.partition(": ")[0] for line in skipped.summary().splitlines()[1:]] == [f"{path}, line {n}" for n in (2, 4)]


# --- rows left out


def test_rows_left_out_of_text(tmp_path):
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_bytes(HEAD)
    bad.write_bytes(HEAD + b"b,x,1,1\nc,3,4,1\nd\n\xff,1,1,1\ne,5,nan,0\nf,6,0.5,1\n")
    schema, skipped = typed_schema(), SkippedRows()
    schema.adapt([good, bad], on_error=skipped)
    assert schema.vocabulary("u") == ["[UNSEEN]", "[MISSING]", "a", "c", "f"]
    assert len(skipped) == 4
    assert skipped.per_file == {str(bad): 4}
    lines = skipped.summary().splitlines()
    assert lines[0] == f"skipped rows: 4 ({bad}: 4)"
    assert lines[1] == f"{bad}, line 3, column 'n': expected an integer, received 'x'"
    assert len(lines) == 5

    from_dataset = SkippedRows()
    dataset = schema.dataset([good, bad], 2, on_error=from_dataset)
    kept = schema.training_batch({"u": [*"aacf"], "n": [1, 1, 3, 6], "x": [2.5, 2.5, 4, 0.5], "y": [0.0, 0, 1, 1]})
    assert sorted(listed(dataset)) == sorted(listed([kept]))
    assert from_dataset.per_file == skipped.per_file
    assert sorted(from_dataset.summary()) == sorted(skipped.summary())
    assert len(list(dataset)) == 2
    assert len(from_dataset) == 8
    raw = SkippedRows()
    assert sum(len(block["u"]) for block in schema.raw_dataset([good, bad], on_error=raw)) == 4
    assert len(raw) == 4
    with pytest.raises(MalformedRowError) as error:
        schema.adapt([good, bad])
    assert (error.value.path, error.value.line, error.value.column) == (str(bad), 3, "n")


@pytest.mark.parametrize("block_bytes", [1, 20, 1 << 19])
def test_rows_left_out_of_libfm(tmp_path, block_bytes):
    path = tmp_path / "some.libfm"
    path.write_text("1 1:1\n" + "".join(f"{line}\n1 7:2\n" for line in LIBFM_WRONG) + "nonsense")
    schema, skipped, file_format = libfm_schema(), SkippedRows(), LibFMFormat(block_bytes=block_bytes)
    schema.adapt(path, file_format=file_format, on_error=skipped)
    assert schema.vocabulary("ids") == ["7", "1"]
    assert schema.counts.tolist() == [4, 1]
    expected = [f"{path}, line {2 * n}: {problem}" for n, problem in enumerate(LIBFM_WRONG.values(), start=1)]
    assert skipped.summary().splitlines()[1:-1] == expected
    assert len(skipped) == 5
    rows = listed(schema.dataset(path, 4, file_format=file_format, on_error=skipped))
    assert rows == [([(1, 1.0)], 1.0)] + [([(0, 2.0)], 1.0)] * 4
    assert len(skipped) == 10


def test_rows_are_not_left_out_of_data_in_memory():
    with pytest.raises(ValueError, match=r"`file_format` and `on_error` are for files\. Received data of type dict"):
        typed_schema().adapt({"u": ["a"]}, on_error=SkippedRows())


def test_nothing_left_out_and_much():
    skipped = SkippedRows()
    assert skipped.summary() == "no rows were skipped"
    for line in range(1200):
        skipped(MalformedRowError("a.csv" if line % 3 else "b.csv", line, None, "wrong"))
    lines = skipped.summary().splitlines()
    assert lines[0] == "skipped rows: 1,200 (b.csv: 400, a.csv: 800)"
    assert len(lines) == 12
    assert lines[-1] == "…"


def test_files_of_malformed_rows_only(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"u,n,x,y\na,b,1,1\n")
    skipped = SkippedRows()
    with pytest.raises(ValueError, match="column 'u' has no rows to learn from"):
        typed_schema().adapt(tmp_path / "a.csv", on_error=skipped)
    assert len(skipped) == 1
    schema = typed_schema()
    schema.adapt({"u": ["a"], "n": [1], "x": [1.0]})
    assert list(schema.dataset(tmp_path / "a.csv", 2, on_error=skipped)) == []


# --- libFM text that was damaged at random

_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def oracle(text, zero_based):
    """Rows `(ids, values, label)` of the good lines of regression text, and the numbers of the others."""
    rows, wrong = [], []
    for number, line in enumerate(text.split(b"\n"), start=1):
        tokens = re.findall(rb"[^ \t\r]+", line.split(b"#")[0])
        if not tokens:
            continue
        try:
            pairs = [token.split(b":") for token in tokens[1:]]
            rows.append(
                (
                    [oracle_id(i, zero_based) for i, _ in pairs],
                    [oracle_number(x) for _, x in pairs],
                    oracle_number(tokens[0]),
                )
            )
        except ValueError:
            wrong.append(number)
    return rows, wrong


def oracle_number(token):
    if not _NUMBER.fullmatch(token) or abs(float(token)) >= 2.0**128 * (1 - 2.0**-25):  # rounds to infinity
        raise ValueError
    return float(np.float32(float(token)))


def oracle_id(token, zero_based):
    if not re.fullmatch(rb"[0-9]+", token) or not (not zero_based) <= int(token) < 2**63:
        raise ValueError
    return int(token) - (not zero_based)


PIECES = [
    b"",
    b" ",
    b"\n",
    b"\r\n",
    b"\t",
    b":",
    b"::",
    b"#",
    b"0",
    b"-",
    b"+",
    b".",
    b"e",
    b"1e39",
    b"nan",
    b"inf",
    b"\x00",
]
PIECES += [
    b"\xff",
    b"9" * 18,
    b"9223372036854775807",
    b"9223372036854775808",
    b"00000000000000000000001",
    b"_",
    b"\x0b",
    b"1:1",
    b"\xc2\xa0",
]


def mutated(rng):
    lines = [
        b"%d" % rng.randrange(-3, 9)
        + b"".join(b" %d:%s" % (rng.randrange(30), rng.choice([b"1", b"0.5", b"-2e-1"])) for _ in range(rng.randrange(4)))
        for _ in range(rng.randrange(1, 6))
    ]
    text = b"\n".join(lines) + rng.choice([b"", b"\n"])
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(PIECES) + text[at + rng.choice([0, 0, 1, 2]) :]
    return text


def test_mutated_libfm_text(tmp_path):
    """An answer or a ValueError each time, both those of a parser of single lines."""
    path = tmp_path / "some.libfm"
    rng = random.Random(1)
    columns = {column.name: column for column in libfm_schema(task="regression").raw_columns(training=True)}
    asked = [columns[name] for name in ("ids", "values", "label")]
    outcomes = collections.Counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(10_000):
            text = mutated(rng)
            file.seek(0)
            file.truncate()
            file.write(text)
            zero_based = rng.random() < 0.7
            file_format = LibFMFormat(zero_based, rng.choice([1, 3, 10, 40, 1 << 19]))
            rows, wrong = oracle(text, zero_based)
            errors = []
            if not rows and not wrong:
                with pytest.raises(ValueError, match="expected at least one row, found none"):
                    list(file_format.blocks(str(path), asked, None))
                assert list(file_format.blocks(str(path), asked, errors.append)) == []
                assert list(map(str, errors)) == [f"{path}: expected at least one row, found none"]
                outcomes["empty"] += 1
                continue
            assert rows_of_blocks(file_format.blocks(str(path), asked, errors.append)) == rows, text
            assert [error.line for error in errors] == wrong, text
            assert all(isinstance(error, MalformedRowError) for error in errors)
            if wrong:
                with pytest.raises(MalformedRowError) as error:
                    list(file_format.blocks(str(path), asked, None))
                assert str(error.value) == str(errors[0])
                outcomes["malformed"] += 1
            else:
                assert rows_of_blocks(file_format.blocks(str(path), asked, None)) == rows
                outcomes["good"] += 1
    assert min(outcomes[kind] for kind in ("good", "malformed")) > 2000
    assert outcomes["empty"] > 0


def rows_of_blocks(blocks):
    rows = []
    for number, block in blocks:
        assert number > 0
        ids, values, labels = block["ids"], block["values"], block["label"]
        assert len(labels) == len(ids.row_lengths) == number
        ends = np.cumsum(ids.row_lengths)
        for end, length, label in zip(ends, ids.row_lengths, labels.tolist(), strict=True):
            rows.append((ids.values[end - length : end].tolist(), values.values[end - length : end].tolist(), label))
    return rows


@pytest.mark.parametrize("suffix", ["csv", "libfm"])
def test_progress_of_counting(tmp_path, suffix):
    """Steps where DuckDB counts, rows where this package's readers do; both end with all that there is."""
    file = tmp_path / f"rows.{suffix}"
    file.write_text("label,ids\n" + "1,7\n" * 50 if suffix == "csv" else "1 7:1\n" * 50)
    columns = {"ids": Schema.integer_categorical(multivalued=suffix == "libfm")}
    told = []
    schema = Schema(columns, label="label")
    schema.adapt(file, progress=lambda *now: told.append(now))
    steps = [(1, 2, "steps"), (2, 2, "steps")]  # parsing, and one column
    assert told == (steps if suffix == "csv" else [(50, None, "rows")])
    without: list[tuple[int, int | None, str]] = []
    schema.adapt(file, on_error=SkippedRows(), progress=lambda *now: without.append(now))
    assert without[-1] == (50, None, "rows")
