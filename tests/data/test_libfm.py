import gzip
import math
import os
import re

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from real_data import FRAPPE, needs_frappe

from keras_rafm.data import Samples, count_features, libfm_dataset, read_libfm, write_libfm
from keras_rafm.data.reading import libfm

pytestmark = pytest.mark.one_tensorflow

many_examples = settings(max_examples=150)


@pytest.fixture
def write(tmp_path):
    def write(text, name="some.libfm"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("scratch") / "file.libfm"


def assert_holds(samples, ids, values, labels):
    np.testing.assert_array_equal(samples.ids, np.array(ids, np.int64))
    np.testing.assert_array_equal(samples.values, np.array(values, np.float32))
    np.testing.assert_array_equal(samples.labels, np.array(labels, np.float32))


def assert_equal(left, right):
    assert left.ids.dtype == right.ids.dtype
    assert_holds(left, right.ids, right.values, right.labels)


def padded(array, width, filler):
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=filler)


def joined(dataset):
    """All batches of a stream as samples, the dtype of ids aside."""
    batches = list(dataset.as_numpy_iterator())
    width = max(inputs["ids"].shape[1] for inputs, _ in batches)
    return Samples(
        np.concatenate([padded(inputs["ids"], width, -1) for inputs, _ in batches]),
        np.concatenate([padded(inputs["values"], width, 0) for inputs, _ in batches]),
        np.concatenate([labels[:, 0] for _, labels in batches]),
    )


# --- reading


def test_reads_what_is_written_there(write):
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


def test_several_files_each_with_its_own_labels(write):
    paths = [write("1 0:1\n-1 1:1\n", "a"), str(write("0 2:1 3:1\n1 4:1", "b")), write("1 5:1\n", "c")]
    expected = [[0, -1], [1, -1], [2, 3], [4, -1], [5, -1]], [[1, 0], [1, 0], [1, 1], [1, 0], [1, 0]], [1, 0, 0, 1, 1]
    assert_holds(read_libfm(paths), *expected)
    assert_holds(joined(libfm_dataset(tuple(paths), 3)), *expected)


def test_gzip_is_known_by_its_contents(write):
    text = b"1 3:1\n0 4:1 5:1\n"
    packed = read_libfm(write(gzip.compress(text), "packed.txt"))
    plain = read_libfm(write(text, "plain.gz"))
    in_members = read_libfm(write(gzip.compress(text[:6]) + gzip.compress(text[6:]), "members"))
    assert_holds(plain, [[3, -1], [4, 5]], [[1, 0], [1, 1]], [1, 0])
    assert_equal(packed, plain)
    assert_equal(in_members, plain)
    assert_equal(joined(libfm_dataset(write(gzip.compress(text)), 1, num_features=6)), plain)


# --- streaming


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


def test_a_stream_can_be_iterated_again_and_abandoned(tmp_path):
    write_libfm(tmp_path / "file", many_samples())
    dataset = libfm_dataset(tmp_path / "file", 7, num_features=1000, block_bytes=50)
    next(iter(dataset))
    assert_equal(joined(dataset), many_samples())
    assert_equal(joined(dataset), many_samples())


# --- writing


def test_what_is_written(tmp_path):
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


# --- a line-by-line parser as oracle


def naively_parsed(text):
    """`(labels, ids, values)` of regression text, or the number of its first malformed line."""
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


# --- errors

GOOD = "1 0:1 1:1\n"
INTEGER_ID = "an integer id from 0 to 9223372036854775807"
FINITE = "a finite float32 value after the colon"
CLASS = "one of the labels -1, 0 and 1"

MALFORMED = {
    "third class": ("2 0:1", CLASS, "2"),
    "almost a class": ("1.00000000001 0:1", CLASS, "1.00000000001"),
    "label is a word": ("yes 0:1", CLASS, "yes"),
    "label is NaN": ("nan 0:1", CLASS, "nan"),
    "label is missing": ("0:1 1:1", CLASS, "0:1"),
    "only a colon": (":", CLASS, ":"),
    "no colon": ("1 0:1 17", "`id:value`", "17"),
    "no colon before the end of the line": ("1 17\n1 3:4:5", "`id:value`", "17"),
    "colon apart": ("1 3 :4", "`id:value`", "3"),
    "two colons": ("1 3:4:5", FINITE, "3:4:5"),
    "no id": ("1 :4", INTEGER_ID, ":4"),
    "id is a word": ("1 qid:4", INTEGER_ID, "qid:4"),
    "id is a float": ("1 1.0:4", INTEGER_ID, "1.0:4"),
    "id has an exponent": ("1 1e3:4", INTEGER_ID, "1e3:4"),
    "id has a sign": ("1 +3:4", INTEGER_ID, "+3:4"),
    "id has an underscore": ("1 1_0:4", INTEGER_ID, "1_0:4"),
    "id has other digits": ("1 ٣:4", INTEGER_ID, "٣:4"),
    "negative id": ("1 -3:4", INTEGER_ID, "-3:4"),
    "id is padding": ("1 -1:0", INTEGER_ID, "-1:0"),
    "id beyond int64": ("1 9223372036854775808:4", INTEGER_ID, "9223372036854775808:4"),
    "id beyond 64 bits": ("1 99999999999999999999:4", INTEGER_ID, "99999999999999999999:4"),
    "id longer than Python converts": ("1 " + "9" * 5000 + ":4", INTEGER_ID, "9" * 60 + "…"),
    "no value": ("1 3:", FINITE, "3:"),
    "value apart": ("1 3: 4", FINITE, "3:"),
    "value is a word": ("1 3:x", FINITE, "3:x"),
    "value is NaN": ("1 3:nan", FINITE, "3:nan"),
    "value is infinite": ("1 3:-inf", FINITE, "3:-inf"),
    "value beyond float32": ("1 3:3.5e38", FINITE, "3:3.5e38"),
    "value beyond float64": ("1 3:1e999", FINITE, "3:1e999"),
    "value has an underscore": ("1 3:1_0", FINITE, "3:1_0"),
    "value is hexadecimal": ("1 3:0x10", FINITE, "3:0x10"),
    "value has two points": ("1 3:1.2.3", FINITE, "3:1.2.3"),
    "value is a sign": ("1 3:-", FINITE, "3:-"),
    "decimal comma": ("1 3:1,5", FINITE, "3:1,5"),
    "bytes that are not UTF-8": (b"1 3:\xff4", FINITE, "3:\\xff4"),
    "label that is not UTF-8": (b"\xe9 3:4", CLASS, "\\xe9"),
    "UTF-16": ("1 3:4".encode("utf-16-be"), CLASS, r"\x001\x00"),
    "null byte": ("1 3:4\x00", FINITE, r"3:4\x00"),
    "form feed": ("1 3:4\x0c5:6", FINITE, r"3:4\x0c5:6"),
    "carriage returns as line ends": ("1 3:4\r0 5:6\r", "`id:value`", "0"),
    "first of several": ("1 3:x 4 -5:1", FINITE, "3:x"),
}


def errors_of_both_readers(path, **options):
    with pytest.raises(ValueError, match=r".") as of_read:
        read_libfm(path, **options)
    with pytest.raises(tf.errors.OpError) as of_stream:
        list(libfm_dataset(path, 2, **options))
    assert str(of_read.value) in of_stream.value.message
    return str(of_read.value)


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_lines(write, name):
    line, expected, token = MALFORMED[name]
    line = line if isinstance(line, bytes) else line.encode()
    path = write(GOOD.encode() * 2 + b"\n# comment\n" + line + b"\n" + GOOD.encode() * 2)
    assert errors_of_both_readers(path) == f"{path}, line 5: expected {expected}, received '{token}'"


@pytest.mark.parametrize("line", ["1 3:x", "nan 3:4"])
def test_lines_are_counted_across_blocks(write, monkeypatch, line):
    monkeypatch.setattr(libfm, "_BLOCK_BYTES", 40)
    path = write(GOOD * 50 + "\n\n" + line + "\n" + GOOD)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, line 53: "):
        read_libfm(path)


@pytest.mark.parametrize(
    ("options", "line", "expected", "token"),
    [
        ({"task": "regression"}, "inf 0:1", "a finite number as label", "inf"),
        ({"task": "regression"}, "1e39 0:1", "a finite number as label", "1e39"),
        ({"task": "regression"}, "4,5 0:1", "a finite number as label", "4,5"),
        ({"num_features": 2}, "1 1:1 2:1", "an integer id from 0 to 1", "2:1"),
        ({"num_features": 2}, "1 -1:1", "an integer id from 0 to 1", "-1:1"),
        ({"num_features": 2, "zero_based": False}, "1 2:1 3:1", "an integer id from 1 to 2", "3:1"),
        ({"zero_based": False}, "1 2:1 0:1", "an integer id from 1 to 9223372036854775807", "0:1"),
        ({"num_fields": 2}, "1 0:1 1:1 2:7 3:1", "at most 2 `id:value` pairs (num_fields)", "2:7"),
    ],
)
def test_lines_that_do_not_fit_the_options(write, options, line, expected, token):
    good = "1 1:1\n"
    path = write(good * 2 + line + "\n" + good)
    assert errors_of_both_readers(path, **options) == f"{path}, line 3: expected {expected}, received '{token}'"


@pytest.mark.parametrize(("first", "other"), [("-1", "0"), ("0", "-1")])
@pytest.mark.parametrize("block_bytes", [8, 1 << 19])
def test_labels_of_both_conventions_are_ambiguous(write, monkeypatch, first, other, block_bytes):
    monkeypatch.setattr(libfm, "_BLOCK_BYTES", block_bytes)
    path = write(f"1 0:1\n{first} 0:1\n1 0:1\n1 0:1\n{other} 0:1\n{first} 0:1\n")
    assert errors_of_both_readers(path) == (
        f"{path}, line 5: expected the label {first} or 1, as on earlier lines (-1 and 0 are ambiguous), received '{other}'"
    )
    assert read_libfm(path, task="regression").labels.tolist() == [1, float(first), 1, 1, float(other), float(first)]


def test_the_malformed_file_of_several_is_named(write):
    good, bad = write(GOOD, "good"), write(GOOD + "1 x\n", "bad")
    assert errors_of_both_readers([good, bad]).startswith(f"{bad}, line 2: ")


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# only a comment\n", " \t\r\n", pytest.param(gzip.compress(b""), id="empty gzip")]
)
def test_files_without_samples(write, text):
    good, empty = write(GOOD, "good"), write(text, "empty")
    message = f"{empty}: expected at least one row, found none"
    assert errors_of_both_readers(empty) == message
    assert errors_of_both_readers([good, empty]) == message


@pytest.mark.parametrize("damage", ["truncated", "header only", "checksum", "contents", "trailing"])
def test_damaged_gzip(write, damage):
    packed = gzip.compress("".join(f"1 {i}:0.{i * 7919}\n" for i in range(2000)).encode())
    damaged = {
        "truncated": packed[: len(packed) // 2],
        "header only": packed[:5],
        "checksum": packed[:-8] + bytes(8),
        "contents": packed[:1000] + bytes(100) + packed[1100:],
        "trailing": packed + b"something else",
    }[damage]
    path = write(damaged)
    error = errors_of_both_readers(path)
    assert error.startswith(f"{path}: damaged or truncated gzip file (")


def test_missing_files_are_told_at_once(write, tmp_path):
    missing = tmp_path / "missing.libfm"
    for paths in (missing, [write(GOOD), missing]):
        with pytest.raises(FileNotFoundError, match=r"missing\.libfm"):
            read_libfm(paths)
        with pytest.raises(FileNotFoundError, match=r"missing\.libfm"):
            libfm_dataset(paths, 2)


def test_a_file_that_disappears(write):
    path = write(GOOD)
    dataset = libfm_dataset(path, 2)
    path.unlink()
    with pytest.raises(tf.errors.OpError, match=r"some\.libfm"):
        list(dataset)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"task": "ranking"}, ValueError, "`task` must be 'classification' or 'regression'. Received: task='ranking'"),
        ({"num_fields": 0}, ValueError, "`num_fields` must be at least 1. Received: num_fields=0"),
        ({"num_features": 0}, ValueError, "`num_features` must be at least 1. Received: num_features=0"),
        ({"num_features": 1.5}, TypeError, "`num_features` must be an integer. Received: num_features=1.5 of type float"),
    ],
)
def test_wrong_options(write, options, kind, message):
    path = write(GOOD)
    for reader in (lambda: read_libfm(path, **options), lambda: libfm_dataset(path, 2, **options)):
        with pytest.raises(kind, match=r".") as error:
            reader()
        assert str(error.value) == message


def test_wrong_sizes_and_no_files(write):
    path = write(GOOD)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        libfm_dataset(path, 0)
    with pytest.raises(ValueError, match="`num_samples` must be at least 1"):
        libfm_dataset(path, 1, num_samples=0)
    with pytest.raises(ValueError, match="`block_bytes` must be at least 1"):
        libfm_dataset(path, 1, block_bytes=0)
    for reader in (lambda: read_libfm([]), lambda: libfm_dataset([], 1)):
        with pytest.raises(ValueError, match="`path_or_paths` must name at least one file"):
            reader()


# --- real data


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
