"""Datasets of files: every row once, in an order that the seed determines, in shards; nothing stays open."""

import contextlib
import fcntl
import gc
import itertools
import os
import random
import threading
import time

import numpy as np
import pytest
import tensorflow as tf
from numbered_rows import Numbered, numbers_in

from keras_rafm.data import CSVFormat, Samples

pytestmark = pytest.mark.one_tensorflow


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


def test_every_row_once_through_a_schema(tmp_path):
    data = Numbered(tmp_path, SIZES, lists=True)
    options = {"shuffle": True, "seed": 3, "shuffled_rows": 50, "num_shards": 2}
    seen = [numbers_in(data.schema.dataset(data.files, 16, shard_index=index, **options))[0] for index in range(2)]
    assert sorted(itertools.chain(*seen)) == list(range(data.num_rows))


@pytest.mark.parametrize("num_files", [2, 7])
def test_the_seed_determines_the_order(tmp_path, num_files):
    data = Numbered(tmp_path, SIZES[:num_files], lists=True)
    options = {"shuffle": True, "shuffled_rows": 30, "file_format": CSVFormat(block_bytes=100)}
    first, second = data.dataset(8, seed=5, **options), data.dataset(8, seed=5, **options)
    epochs = [numbers_in(first)[0] for _ in range(3)]
    assert [numbers_in(second)[0] for _ in range(3)] == epochs
    assert numbers_in(first.repeat(2))[0] != epochs[0] + epochs[1]  # the fourth and fifth epochs
    orders = {tuple(order) for order in (*epochs, data.numbers(8, seed=6, **options)[0], data.numbers(8, **options)[0])}
    assert len(orders) == 5
    assert {tuple(sorted(order)) for order in orders} == {tuple(range(data.num_rows))}
    # The first rows come from several files, in another order each time.
    assert len({tuple(sorted(order[:8])) for order in orders}) > 1


def test_shards_depend_on_neither_seed_nor_epoch(tmp_path):
    """Workers without a seed read files in different orders, and may be in different epochs."""
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


def test_files_of_one_block_are_distributed_to_shards(tmp_path):
    data = Numbered(tmp_path, (10, 10, 10))
    shares = [len(data.numbers(6, num_shards=4, shard_index=index)[0]) for index in range(4)]
    assert sorted(shares) == [0, 10, 10, 10]


@pytest.mark.parametrize("shuffled_rows", [1, 60, 10**9])
def test_how_far_rows_move(tmp_path, shuffled_rows):
    data = Numbered(tmp_path, (400,))
    options = {"shuffle": True, "seed": 1, "file_format": CSVFormat(block_bytes=90)}  # blocks of about ten rows
    numbers, _ = data.numbers(20, shuffled_rows=shuffled_rows, **options)
    assert numbers != sorted(numbers)
    moved = np.abs(np.array(numbers) - np.arange(400))
    reach = 6 * max(20, shuffled_rows)  # rows that were not drawn are in the next draw, too, rarely for long
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


def test_datasets_are_not_autotuned(tmp_path):
    """The end of an iterator would wait for the tuning thread, which can sleep for up to a minute."""
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


def open_files():
    """Return the paths of all files that this process has open."""
    paths = []
    for number in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # The file was closed meanwhile.
            if hasattr(fcntl, "F_GETPATH"):  # macOS
                paths.append(os.fsdecode(fcntl.fcntl(int(number), fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")))
            else:
                paths.append(os.readlink(f"/dev/fd/{number}"))
    return paths


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet", "tfrecord"])
def test_nothing_stays_open_after_an_abandoned_iteration(tmp_path, suffix):
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
        if suffix == "csv":  # The iteration is far from its end.
            assert any(str(tmp_path) in file for file in open_files())
        del iterator
    gc.collect()
    deadline = time.monotonic() + 5
    while any(str(tmp_path) in file for file in open_files()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [file for file in open_files() if str(tmp_path) in file] == []
    assert threading.active_count() <= threads + 1
