"""Malformed libFM text, damaged files and wrong options: the same errors from reading and from streaming."""

import gzip
import os
import re

import pytest
import tensorflow as tf
from damaged_gzip import DAMAGES, damaged_gzip

from keras_rafm.data import libfm_dataset, read_libfm
from keras_rafm.data.reading import libfm

pytestmark = pytest.mark.one_tensorflow


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


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_gzip(write, damage):
    packed = gzip.compress("".join(f"1 {i}:0.{i * 7919}\n" for i in range(2000)).encode())
    path = write(damaged_gzip(packed, damage))
    error = errors_of_both_readers(path)
    assert error.startswith(f"{path}: damaged or truncated gzip file (")


def test_missing_files_raise_at_once(write, tmp_path):
    missing = tmp_path / "missing.libfm"
    for paths in (missing, [write(GOOD), missing]):
        with pytest.raises(FileNotFoundError, match=r"missing\.libfm"):
            read_libfm(paths)
        with pytest.raises(FileNotFoundError, match=r"missing\.libfm"):
            libfm_dataset(paths, 2)


def test_a_file_that_disappears(write):
    path = write(GOOD)
    dataset = libfm_dataset(path, 2)
    os.unlink(path)
    with pytest.raises(tf.errors.OpError, match=r"some\.txt"):
        list(dataset)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"task": "ranking"}, ValueError, "`task` must be one of 'classification', 'regression'. Received: task='ranking'"),
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
