"""Malformed CSV: the errors of rows, headers and files, which rows are skipped, and the time it takes."""

import gzip
import pickle
import re
import time

import pytest
from csv_files import AFTER, AROUND, BLOCK_BYTES, BYTE_ORDER_MARK, COUNT, TYPED, parsed, parsed_with_errors, strings
from damaged_gzip import DAMAGES, damaged_gzip

from keras_rafm.data.formats import csv_grammar
from keras_rafm.data.formats.csv_grammar import CSVDialect
from keras_rafm.data.formats.csv_parser import csv_blocks
from keras_rafm.data.raw.errors import EmptyFileError, MalformedRowError

pytestmark = [pytest.mark.one_tensorflow, pytest.mark.usefixtures("with_and_without_pyarrow")]


RANGE = "expected an integer from -9223372036854775807 to 9223372036854775807, received"
FINITE = "expected a number that is finite as float32, received"
MALFORMED = {
    "too few fields": ("x,1", None, f"{COUNT} 2"),
    "too many fields": ("x,1,2,", None, f"{COUNT} 4"),
    "one quoted empty field": ('""', None, f"{COUNT} 1"),
    "only a space": (" ", None, f"{COUNT} 1"),
    "a word as number": ("x,1,abc", "f", "expected a number, received 'abc'"),
    "NaN": ("x,1,nan", "f", "expected a number, received 'nan'"),
    "infinite": ("x,1,-inf", "f", "expected a number, received '-inf'"),
    "underscore": ("x,1,1_0", "f", "expected a number, received '1_0'"),
    "hexadecimal": ("x,1,0x10", "f", "expected a number, received '0x10'"),
    "spaces inside": ("x,1, 1 0 ", "f", "expected a number, received ' 1 0 '"),
    "line end before a number": ('x,1,"\n1e3"', "f", r"expected a number, received '\n1e3'"),
    "other spaces": ("x,1,\t10", "f", r"expected a number, received '\t10'"),
    "two points": ("x,1,1.2.3", "f", "expected a number, received '1.2.3'"),
    "only a point": ("x,1,.", "f", "expected a number, received '.'"),
    "only a sign": ("x,1,-", "f", "expected a number, received '-'"),
    "two signs": ("x,1,--1", "f", "expected a number, received '--1'"),
    "other digits": ("x,1,٣", "f", "expected a number, received '٣'"),
    "quoted number": ('x,1,"1""2"', "f", "expected a number, received '1\"2'"),
    "beyond float32": ("x,1,3.5e38", "f", f"{FINITE} '3.5e38'"),
    "beyond float64": ("x,1,1e999", "f", f"{FINITE} '1e999'"),
    "a word as integer": ("x,abc,1", "i", "expected an integer, received 'abc'"),
    "fraction as integer": ("x,1.0,1", "i", "expected an integer, received '1.0'"),
    "exponent in an integer": ("x,1e3,1", "i", "expected an integer, received '1e3'"),
    "sign alone as integer": ("x,+,1", "i", "expected an integer, received '+'"),
    "the missing integer": ("x,-9223372036854775808,1", "i", f"{RANGE} '-9223372036854775808'"),
    "beyond int64": ("x,9223372036854775808,1", "i", f"{RANGE} '9223372036854775808'"),
    "beyond 64 bits": ("x,99999999999999999999,1", "i", f"{RANGE} '99999999999999999999'"),
    "long integer with a letter": ("x,1234567890123456789x,1", "i", "expected an integer, received '1234567890123456789x'"),
    "null byte": ("x,1\x00,1", "i", r"expected an integer, received '1\x00'"),
    "first of several": ("x,a,b", "i", "expected an integer, received 'a'"),
    "not UTF-8": (b"a\xffb,1,1", "s", r"expected UTF-8, received 'a\xffb'"),
    "not UTF-8 in quotes": (b'"a,\xff\n",1,1', "s", r"expected UTF-8, received 'a,\xff\n'"),
    "half a character": (b"\xe2\x82,1,1", "s", r"expected UTF-8, received '\xe2\x82'"),
    "surrogate": (b"\xed\xa0\x80,1,1", "s", r"expected UTF-8, received '\xed\xa0\x80'"),
    "number that is not UTF-8": (b"x,1,\xff", "f", r"expected UTF-8, received '\xff'"),
    "quote inside": ('x"y,1,1', "s", f"{AROUND} 'x\"y'"),
    "quote after a space": (' "y",1,1', "s", f"{AROUND} ' \"y\"'"),
    "quote in the last field": ('x,1,1"', "f", f"{AROUND} '1\"'"),
    "quote beyond the columns": ('x,1,1,y"', None, f"{AROUND} 'y\"'"),
    "text after a quote": ('x,"1"2,3', "i", f"{AFTER} '2,3'"),
    "space after a quote": ('"x" ,1,1', "s", f"{AFTER} ' ,1,1'"),
    "carriage return after a quote": ('x,1,"1"\ry', "f", rf"{AFTER} '\ry'"),
    "two carriage returns after a quote": ('x,1,"1"\r\r', "f", rf"{AFTER} '\r'"),
    "text after doubled quotes": ('"""x""" y,1,1', "s", f"{AFTER} ' y,1,1'"),
    "opened quote that the next row closes": ('"x,1,1\n"good",1,1', "s", f"{AFTER} 'good\",1,1'"),
}


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_rows(write, name, line_end):
    row, column, problem = MALFORMED[name]
    if line_end == b"\r\n" and "two carriage returns" in name:
        problem = problem.replace(r"'\r'", r"'\r\r'")
    good = b"good,1,2" + line_end
    path = write(b"s,i,f" + line_end + good + b'"g\n\n""",1,2' + line_end + line_end + as_bytes(row) + line_end + good * 2)
    where = f"{path}, line 7" + (f", column '{column}'" if column else "")
    for block_bytes in BLOCK_BYTES:
        with pytest.raises(MalformedRowError) as raised:
            parsed(path, TYPED, block_bytes)
        assert str(raised.value) == f"{where}: {problem}"
        assert (raised.value.path, raised.value.line, raised.value.column) == (path, 7, column)
        assert raised.value.problem == problem
        errors = []
        rows = parsed(path, TYPED, block_bytes, errors.append)
        # If a row has illegal quotes, only its first line is skipped.
        after = [(b"good", 1, 1.0)] if name.startswith("opened quote") else []
        good_row = (b"good", 1, 2.0)
        assert rows == [good_row, (b'g\n\n"', 1, 2.0), *after, good_row, good_row]
        assert [str(error) for error in errors] == [str(raised.value)]


def test_other_columns_are_not_parsed_but_must_be_utf8(write):
    assert parsed(write("s,i,f\nx,abc,def\n"), TYPED[:1]) == [(b"x",)]
    with pytest.raises(MalformedRowError, match="line 2, column 'f': expected UTF-8"):
        parsed(write(b"s,i,f\nx,abc,\xff\n"), TYPED[:1])


def test_column_names_set_the_number_of_fields(write):
    with pytest.raises(MalformedRowError, match="line 1: expected 3 fields, as in `column_names`, received 2"):
        parsed(write("a,b\n"), TYPED, column_names=("s", "i", "f"))


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_malformed_rows_are_skipped_and_reported_in_order(write, block_bytes):
    text = b's,i,f\nx,1\na,1,1\ny"z,2,2\n"b\n",2,2\n\xff,1,1\nu,v,w\n"c"d,1,1\n\n\xc3\xa9,3,3\n,,,\ne"\n"f""",4,\ng,5,x\n'
    rows, errors = parsed_with_errors(write(text), TYPED, block_bytes)
    assert rows == [(b"a", 1, 1.0), (b"b\n", 2, 2.0), ("é".encode(), 3, 3.0), (b'f"', 4, None)]
    assert errors == [
        f", line 2: {COUNT} 2",
        f", line 4, column 's': {AROUND} 'y\"z'",
        r", line 7, column 's': expected UTF-8, received '\xff'",
        ", line 8, column 'i': expected an integer, received 'v'",
        f", line 9, column 's': {AFTER} 'd,1,1'",
        f", line 12: {COUNT} 4",
        f", line 13, column 's': {AROUND} 'e\"'",
        ", line 15, column 'f': expected a number, received 'x'",
    ]
    with pytest.raises(MalformedRowError, match=rf"line 2: {COUNT} 2"):
        parsed(write(text), TYPED, block_bytes)


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_a_quote_that_is_never_closed(write, block_bytes):
    problem = "expected the quote opened on line {} to be closed before the file's end, found no closing quote"
    rows, errors = parsed_with_errors(write('s,i,f\na,1,1\n"b,2,2\nc,3,3\n\nd,4,4'), TYPED, block_bytes)
    assert rows == [(b"a", 1, 1.0), (b"c", 3, 3.0), (b"d", 4, 4.0)]
    assert errors == [f", line 3, column 's': {problem.format(3)}"]

    path = write('s,i,f\na,1,1\n"b\n","2","3\nc,3,3\n\n')
    with pytest.raises(MalformedRowError) as raised:
        parsed(path, TYPED, block_bytes)
    assert (raised.value.line, raised.value.column, raised.value.problem) == (3, "f", problem.format(4))
    rows, errors = parsed_with_errors(path, TYPED, block_bytes)
    assert rows == [(b"a", 1, 1.0), (b"c", 3, 3.0)]
    # By itself, the next line is a row with text after a closing quote.
    assert errors == [f", line 3, column 'f': {problem.format(4)}", f", line 4, column 's': {AFTER} '2\",\"3'"]


def test_an_error_of_a_row_can_be_pickled():
    error = MalformedRowError("some.csv", 7, "price", "expected a number, received 'abc'")
    assert str(error) == "some.csv, line 7, column 'price': expected a number, received 'abc'"
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, ValueError)
    assert (str(copy), copy.line, copy.column) == (str(error), 7, "price")


def test_an_error_in_on_error_ends_the_iteration(write):
    def refuse(error):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        parsed(write("i\nx\n"), TYPED[1:2], on_error=refuse)


def test_long_values_are_truncated_in_messages(write):
    with pytest.raises(MalformedRowError) as raised:
        parsed(write("i\n" + "é" * 1000 + "\n"), TYPED[1:2])
    assert raised.value.problem == f"expected an integer, received '{'é' * 60}…'"


@pytest.fixture
def short_rows(monkeypatch):
    monkeypatch.setattr(csv_grammar, "MAX_ROW_BYTES", 20)


@pytest.mark.usefixtures("short_rows")
@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_rows_that_are_too_long(write, block_bytes):
    within = "expected the quote opened on line {} to be closed within the 20 bytes a row may have, found no closing quote"
    longer = "expected a row of at most 20 bytes, received a longer one"
    fits, too_long = "12345678,123456789,\n", "12345678,1234567890,\n"
    text = "a,b,c\n" + fits + too_long + '"1234567\r\n","",\n1\n' + '"1234567\n","123456",\n' + "1,2,3\n"
    text += '"\n' + "1,2,3\n" * 4 + '"1","2","3\n1234567890"\n"1","2","3\n12345678"\n"1","2","3\n1234567"\n'
    rows, errors = parsed_with_errors(write(text), strings("a", "b", "c"), block_bytes)
    ones = (b"1", b"2", b"3")
    assert rows == [
        (b"12345678", b"123456789", b""),
        (b"1234567\r\n", b"", b""),
        ones,
        *[ones] * 4,
        (b"1", b"2", b"3\n1234567"),
    ]
    assert errors == [
        f", line 3: {longer}",
        ", line 6: expected 3 fields, as in the first row, received 1",
        f", line 7: {longer}",
        f", line 8, column 'a': {AFTER} '123456\",'",
        f", line 10, column 'a': {within.format(10)}",
        f", line 15, column 'c': {within.format(15)}",
        f", line 16, column 'a': {AROUND} '1234567890\"'",
        f", line 17: {longer}",
        f", line 18, column 'a': {AROUND} '12345678\"'",
    ]


@pytest.mark.parametrize("line", ["1,2\n", '1,""\n', '","\n', '"1","2"\n'])
@pytest.mark.parametrize("block_bytes", [1, 1000])
def test_unclosed_quotes_take_linear_time(write, line, block_bytes):
    num_lines = 10_000
    path = write('a,b\n"' + line * num_lines)
    started = time.monotonic()
    rows, errors = parsed_with_errors(path, strings("a", "b"), block_bytes)
    with pytest.raises(MalformedRowError, match="line 2"):
        parsed(path, strings("a", "b"), block_bytes)
    assert time.monotonic() - started < 20
    assert len(errors) + len(rows) >= num_lines - 1
    assert errors[0].startswith(", line 2")


@pytest.mark.usefixtures("short_rows")
def test_many_broken_rows_take_linear_time(write):
    path = write("a,b\n" + '"\n1,2\n""\n1,2\n1,2\n1,2\n1"\n1,2\n' * 4000)
    started = time.monotonic()
    rows, errors = parsed_with_errors(path, strings("a", "b"))
    assert time.monotonic() - started < 20
    assert len(rows) > 10_000
    assert len(errors) >= 8000


@pytest.mark.parametrize(
    "text", ["", "\n\r\n\n", BYTE_ORDER_MARK, "a,b", "a,b\n", "\na,b\n\n\r\n", gzip.compress(b"", mtime=0)]
)
@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_empty_files(write, text, block_bytes):
    path = write(text)
    with pytest.raises(EmptyFileError) as raised:
        parsed(path, strings("a"), block_bytes)
    assert str(raised.value) == f"{path}: expected at least one row, found none"
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    errors = []
    assert parsed(path, strings("a"), block_bytes, errors.append) == []
    assert list(map(str, errors)) == [str(raised.value)]


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_empty_files_without_header(write, names):
    for text in (b"", BYTE_ORDER_MARK, gzip.compress(BYTE_ORDER_MARK, mtime=0)):
        with pytest.raises(ValueError, match="expected at least one row, found none"):
            parsed(write(text), strings("a"), column_names=names)


def test_files_of_malformed_rows_only_are_not_empty(write):
    assert parsed_with_errors(write("a,b\n1\n"), strings("a"))[0] == []
    assert parsed_with_errors(write('a,b\n1,"\n'), strings("a"))[0] == []


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_missing_columns(write, block_bytes):
    path = write("a,B,\n1,2,3\n")
    with pytest.raises(ValueError, match=r".") as raised:
        parsed(path, strings("a", "b"), block_bytes, pytest.fail)
    assert str(raised.value) == f"{path}: expected a column 'b', the first row has 'a', 'B', ''"
    with pytest.raises(ValueError, match=re.escape("expected a column 'x', `column_names` has 'a'")):
        csv_blocks(path, CSVDialect(column_names=("a",)), strings("x"), block_bytes)
    path = write(",".join(map(str, range(100))) + "\n")
    with pytest.raises(ValueError, match=r"'48', '49' and 50 more$"):
        parsed(path, strings("x"), block_bytes)


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_repeated_names(write, block_bytes):
    path = write("a,b,a\n1,2,3\n")
    assert parsed(path, strings("b"), block_bytes) == [(b"2",)]
    with pytest.raises(ValueError, match=r".") as raised:
        parsed(path, strings("b", "a"), block_bytes, pytest.fail)
    assert str(raised.value) == f"{path}: expected one column 'a', the first row has 2 of that name"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('\n"a,b\n1,2\n', ", line 2: expected the quote opened on line 2 to be closed before the file's end"),
        ('a,b"\n1,2\n', f", line 1: {AROUND} 'b\"'"),
        ('\n\n"a"b\n1,2\n', f", line 3: {AFTER} 'b'"),
        (b"a,\xff\n1,2\n", r", line 1: expected UTF-8 in the header, received '\xff'"),
    ],
)
@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_malformed_headers(write, text, message, block_bytes):
    path = write(text)
    for on_error in (None, pytest.fail):
        with pytest.raises(MalformedRowError, match="^" + re.escape(path + message)):
            parsed(path, strings("a"), block_bytes, on_error)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_gzip(write, damage):
    packed = gzip.compress("".join(f"{i},0.{i * 7919}\n" for i in range(2000)).encode())
    path = write(damaged_gzip(packed, damage))
    for on_error in (None, lambda error: None):
        with pytest.raises(ValueError, match="^" + re.escape(f"{path}: damaged or truncated gzip file (")):
            parsed(path, strings("a"), 1000, on_error, column_names=("a", "b"))


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        parsed(str(tmp_path / "missing.csv"), strings("a"))
