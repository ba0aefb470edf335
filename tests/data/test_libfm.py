"""Reading, streaming and writing libFM text, compared with a parser that goes line by line."""

import gzip
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from libfm_samples import assert_equal, assert_holds, joined
from real_data import FRAPPE, needs_frappe

from keras_rafm.data import Samples, count_features, libfm_dataset, read_libfm, write_libfm
from keras_rafm.data.reading import libfm

pytestmark = pytest.mark.one_tensorflow


many_examples = settings(max_examples=150)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "file.libfm"


def test_samples_of_a_file(write):
    samples = read_libfm(write("1 3:1 0:0.5\n-1 7:-2e-1\n+1\n-1.0 0:1 0:1 12:.25\n"))
    assert_holds(
        samples,
        [[3, 0, -1], [7, -1, -1], [-1, -1, -1], [0, 0, 12]],
        [[1, 0.5, 0], [-0.2, 0, 0], [0, 0, 0], [1, 1, 0.25]],
        [1, 0, 1, 0],
    )
    assert samples.ids.dtype == np.int32


@pytest.mark.parametrize(
    "text",
    [
        "0 1:2\n1 3:4",
        "0 1:2\r\n1 3:4\r\n",
        "\n\n0 1:2\n \t \n1 3:4\n\n",
        "  0\t1:2  \n1   3:4\t\n",
        "# a comment\n0 1:2 # another: 5:6\n  #\n1 3:4#x\n#",
        "# not UTF-8: \udcff\n0 1:2\n1 3:4\n",
        "0.0 1:+2\n1e0 03:4.\n",
        "00 001:02\n+1. 3:40E-1\n",
    ],
)
def test_spellings_of_the_same_samples(write, text):
    path = write(text.encode("utf-8", "surrogateescape"))
    assert_holds(read_libfm(path), [[1], [3]], [[2], [4]], [0, 1])
    assert_equal(joined(libfm_dataset(path, 3, num_features=4)), read_libfm(path))


def test_large_ids_make_int64(write):
    assert read_libfm(write("1 2147483647:1\n")).ids.dtype == np.int32
    samples = read_libfm(write("1 5:1\n1 2147483648:1 9223372036854775807:1 00000000000000000000007:1\n"))
    assert samples.ids.dtype == np.int64
    assert samples.ids.tolist() == [[5, -1, -1], [2**31, 2**63 - 1, 7]]


def test_ids_from_one(write):
    path = write("1 1:1 2147483648:1\n")
    samples = read_libfm(path, zero_based=False, num_features=2**31)
    assert samples.ids.tolist() == [[0, 2**31 - 1]]
    assert samples.ids.dtype == np.int32


def test_regression_labels(write):
    path = write("3.5 0:1\n-1e2\n0\n-1\n")
    assert_holds(read_libfm(path, task="regression"), [[0], [-1], [-1], [-1]], [[1], [0], [0], [0]], [3.5, -100, 0, -1])


def test_num_fields_pads(write):
    path = write("1 3:1\n0\n")
    assert_holds(read_libfm(path, num_fields=3), [[3, -1, -1], [-1, -1, -1]], [[1, 0, 0], [0, 0, 0]], [1, 0])
    spec, _ = libfm_dataset(path, 2, num_fields=3).element_spec
    assert spec["ids"].shape == spec["values"].shape == [None, 3]
    assert_holds(joined(libfm_dataset(path, 2, num_fields=3)), [[3, -1, -1], [-1] * 3], [[1, 0, 0], [0] * 3], [1, 0])


def test_samples_without_features_have_one_column(write):
    assert_holds(read_libfm(write("1\n0\n")), [[-1], [-1]], [[0], [0]], [1, 0])


def test_files_may_differ_in_their_labels(write):
    paths = [Path(write("1 0:1\n-1 1:1\n", "a")), write("0 2:1 3:1\n1 4:1", "b"), write("1 5:1\n", "c")]
    expected = [[0, -1], [1, -1], [2, 3], [4, -1], [5, -1]], [[1, 0], [1, 0], [1, 1], [1, 0], [1, 0]], [1, 0, 0, 1, 1]
    assert_holds(read_libfm(paths), *expected)
    assert_holds(joined(libfm_dataset(tuple(paths), 3)), *expected)


def test_gzip_is_recognised_by_its_contents(write):
    text = b"1 3:1\n0 4:1 5:1\n"
    packed = read_libfm(write(gzip.compress(text), "packed.txt"))
    plain = read_libfm(write(text, "plain.gz"))
    in_members = read_libfm(write(gzip.compress(text[:6]) + gzip.compress(text[6:]), "members"))
    assert_holds(plain, [[3, -1], [4, 5]], [[1, 0], [1, 1]], [1, 0])
    assert_equal(packed, plain)
    assert_equal(in_members, plain)
    assert_equal(joined(libfm_dataset(write(gzip.compress(text)), 1, num_features=6)), plain)


def many_samples(num_samples=101):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, num_samples)
    occupied = np.arange(5) < lengths[:, np.newaxis]
    ids = np.where(occupied, rng.integers(0, 1000, occupied.shape), -1).astype(np.int32)
    values = np.where(occupied, rng.normal(size=occupied.shape), 0).astype(np.float32)
    return Samples(ids, values, rng.integers(0, 2, num_samples).astype(np.float32))


@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 19])
@pytest.mark.parametrize("batch_size", [1, 7, 50, 101, 1000])
def test_streaming_equals_reading(tmp_path, batch_size, block_bytes):
    write_libfm(tmp_path / "a.gz", many_samples()[:60])
    write_libfm(tmp_path / "b", many_samples()[60:])
    dataset = libfm_dataset([tmp_path / "a.gz", tmp_path / "b"], batch_size, num_features=1000, block_bytes=block_bytes)
    assert_equal(joined(dataset), many_samples())
    sizes = [len(labels) for _, labels in dataset.as_numpy_iterator()]
    assert sizes == [min(batch_size, 101 - start) for start in range(0, 101, batch_size)]


def test_batches_are_as_wide_as_their_longest_sample(write):
    dataset = libfm_dataset(write("1 0:1\n1 1:1 2:1 3:1\n0\n0\n1 0:1 1:1\n"), 2)
    assert [inputs["ids"].shape for inputs, _ in dataset] == [(2, 3), (2, 1), (1, 2)]
    assert [inputs["values"].shape for inputs, _ in dataset] == [(2, 3), (2, 1), (1, 2)]


def test_dropping_the_remainder(tmp_path):
    path = tmp_path / "file"
    write_libfm(path, many_samples())
    dataset = libfm_dataset(path, 10, drop_remainder=True)
    assert [labels.shape for _, labels in dataset] == [(10, 1)] * 10
    assert dataset.element_spec[1].shape == [10, 1]


@pytest.mark.parametrize(("drop_remainder", "num_batches"), [(False, 11), (True, 10)])
def test_known_number_of_samples(tmp_path, drop_remainder, num_batches):
    write_libfm(tmp_path / "file", many_samples())
    options = {"batch_size": 10, "drop_remainder": drop_remainder}
    assert libfm_dataset(tmp_path / "file", **options).cardinality() == tf.data.UNKNOWN_CARDINALITY
    dataset = libfm_dataset(tmp_path / "file", num_samples=101, **options)
    assert dataset.cardinality() == len(list(dataset)) == num_batches
    for wrong in (50, 200):
        with pytest.raises(tf.errors.FailedPreconditionError):
            list(libfm_dataset(tmp_path / "file", num_samples=wrong, **options))


def test_stream_spec_and_dtype_of_ids(write):
    path = write("1 0:1\n")
    for num_features, dtype in ((None, tf.int64), (2**31, tf.int32), (2**31 + 1, tf.int64)):
        inputs, labels = libfm_dataset(path, 2, num_features=num_features).element_spec
        assert inputs["ids"] == tf.TensorSpec([None, None], dtype)
        assert inputs["values"] == tf.TensorSpec([None, None], tf.float32)
        assert labels == tf.TensorSpec([None, 1], tf.float32)


def test_a_stream_can_be_abandoned_and_iterated_again(tmp_path):
    write_libfm(tmp_path / "file", many_samples())
    dataset = libfm_dataset(tmp_path / "file", 7, num_features=1000, block_bytes=50)
    next(iter(dataset))
    assert_equal(joined(dataset), many_samples())
    assert_equal(joined(dataset), many_samples())


def test_written_text(tmp_path):
    samples = Samples(
        np.array([[3, 0], [7, -1], [-1, -1]], np.int64),
        np.array([[1, 0.5], [-1e-20, 0], [0, 0]], np.float32),
        np.array([1, 0, 2.5], np.float32),
    )
    write_libfm(tmp_path / "plain", samples)
    text = b"1 3:1 0:0.5\n0 7:-9.99999968e-21\n2.5\n"
    assert (tmp_path / "plain").read_bytes() == text
    write_libfm(str(tmp_path / "packed.gz"), samples)
    packed = (tmp_path / "packed.gz").read_bytes()
    assert packed.startswith(b"\x1f\x8b")
    assert gzip.decompress(packed) == text


def test_more_samples_than_are_written_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(libfm, "_ROWS_WRITTEN_AT_ONCE", 7)
    write_libfm(tmp_path / "file", many_samples())
    assert_equal(read_libfm(tmp_path / "file"), many_samples())


float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
occurrences = st.lists(st.tuples(st.integers(0, 2**63 - 1) | st.integers(0, 20), float32s), max_size=5)


@many_examples
@given(st.lists(st.tuples(float32s, occurrences), min_size=1, max_size=8), st.sampled_from([".libfm", ".gz"]))
def test_round_trip(scratch, rows, suffix):
    width = max(1, *(len(pairs) for _, pairs in rows))
    ids = np.full((len(rows), width), -1, np.int64)
    values = np.zeros((len(rows), width), np.float32)
    for row, (_, pairs) in enumerate(rows):
        for field, (id_, value) in enumerate(pairs):
            ids[row, field], values[row, field] = id_, value
    if ids.max() < 2**31:
        ids = ids.astype(np.int32)
    samples = Samples(ids, values, np.array([label for label, _ in rows], np.float32))
    path = scratch.with_suffix(suffix)
    write_libfm(path, samples)
    assert_equal(read_libfm(path, task="regression"), samples)


def naively_parsed(text):
    """Return `(labels, ids, values)` of regression text, or the number of its first malformed line."""
    labels, ids, values = [], [], []
    for number, line in enumerate(text.split(b"\n"), start=1):
        tokens = re.split(rb"[ \t\r]+", line.split(b"#")[0].strip(b" \t\r"))
        if tokens == [b""]:
            continue
        try:
            labels.append(naive_number(tokens[0]))
            pairs = [token.split(b":") for token in tokens[1:]]
            ids.append([naive_id(id_) for id_, _ in pairs])
            values.append([naive_number(value) for _, value in pairs])
        except ValueError:
            return number
    return labels, ids, values


def naive_number(token):
    if not re.fullmatch(rb"[-+.0-9eE]+", token):
        raise ValueError
    number = float(token)
    if abs(number) >= 2.0**128 * (1 - 2.0**-25):  # rounds to infinity
        raise ValueError
    return number


def naive_id(token):
    if not re.fullmatch(rb"[0-9]+", token) or int(token) >= 2**63:
        raise ValueError
    return int(token)


def assert_as_the_oracle_says(path, text):
    path.write_bytes(text)
    expected = naively_parsed(text)
    if isinstance(expected, int):
        with pytest.raises(ValueError, match=rf"^{re.escape(str(path))}, line {expected}: expected "):
            read_libfm(path, task="regression")
    elif not expected[0]:
        with pytest.raises(ValueError, match="expected at least one row"):
            read_libfm(path, task="regression")
    else:
        samples = read_libfm(path, task="regression")
        np.testing.assert_array_equal(samples.labels, np.array(expected[0], np.float64).astype(np.float32))
        for row, (ids, values) in enumerate(zip(*expected[1:], strict=True)):
            filler = samples.num_fields - len(ids)
            assert samples.ids[row].tolist() == ids + [-1] * filler
            np.testing.assert_array_equal(samples.values[row], np.array(values + [0.0] * filler).astype(np.float32))


numbers = st.from_regex(r"[+-]?([0-9]{1,4}\.?[0-9]{0,4}|\.[0-9]{1,12})([eE][+-]?[0-9])?", fullmatch=True) | st.integers(
    0, 9
).map(str)
pairs = st.builds("{}:{}".format, st.from_regex(r"[0-9]{1,19}|0{0,30}[0-9]{1,4}", fullmatch=True), numbers)
spaces = st.sampled_from([" ", "  ", "\t", " \t "])
endings = st.sampled_from(["\n", "\r\n", " \n", "\n\n", " # a:b 1:2\n", "#\n \n"])
lines = st.builds(
    lambda parts, space, end: space.join(parts) + end,
    st.builds(lambda label, tail: [label, *tail], numbers, st.lists(pairs, max_size=4)),
    spaces,
    endings,
)
texts = st.lists(lines, min_size=1, max_size=6).map("".join)
corruptions = st.lists(
    st.tuples(st.integers(0, 10**6), st.sampled_from(list(b":+-.eE_#x \n\r\t\x00\x0b\xff\xc3n0"))), max_size=3
)


@many_examples
@given(texts, corruptions, st.integers(1, 200))
def test_agrees_with_a_naive_parser(scratch, text, corruptions, block_bytes):
    corrupted = bytearray(text.encode())
    for place, byte in corruptions:
        corrupted[place % len(corrupted)] = byte
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libfm, "_BLOCK_BYTES", block_bytes)
        assert_as_the_oracle_says(scratch, bytes(corrupted))


@many_examples
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(scratch, text):
    if not text.startswith(b"\x1f\x8b"):
        assert_as_the_oracle_says(scratch, text)


@needs_frappe
@pytest.mark.parametrize(
    ("part", "num_samples"), [("train.reconstructed", 202_027), ("validation", 57_722), ("test", 28_860)]
)
def test_frappe(part, num_samples):
    path = FRAPPE / f"frappe.{part}.libfm.gz"
    samples = read_libfm(path, num_features=5382)
    assert samples.ids.shape == (num_samples, 10)
    assert samples.ids.min() == 0
    assert samples.ids.max() < 5382
    assert samples.one_hot
    assert math.isclose(samples.labels.mean(), 1 / 3, abs_tol=0.005)
    counts = count_features(samples, 5382)
    assert counts.sum() == 10 * num_samples
    if part == "test":
        assert_equal(joined(libfm_dataset(os.fspath(path), 999, num_features=5382)), samples)
