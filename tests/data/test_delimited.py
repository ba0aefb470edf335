import csv
import gzip
import io
import math
import os
import pickle
import random
import re
import time

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_rafm.data.formats import csv_grammar
from keras_rafm.data.formats.csv_grammar import CSVDialect
from keras_rafm.data.formats.csv_parser import csv_blocks
from keras_rafm.data.raw.blocks import Strings
from keras_rafm.data.raw.columns import MISSING_INTEGER, RawColumn
from keras_rafm.data.raw.errors import EmptyFileError, MalformedRowError

pytestmark = pytest.mark.one_tensorflow

many_examples = settings(max_examples=200, deadline=None)

BLOCK_BYTES = [1, 2, 5, 13, 40, 1 << 16]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
TYPED = (RawColumn("s", "string"), RawColumn("i", "int64"), RawColumn("f", "float32"))


@pytest.fixture
def write(tmp_path):
    def write(text, name="some.csv"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return str(tmp_path_factory.mktemp("scratch") / "file.csv")


def save(path, text):
    # Some file systems take milliseconds to empty a file, but not to shorten it.
    with open(path, "r+b" if os.path.exists(path) else "wb") as file:
        file.write(text)
        file.truncate()


def listed(values):
    if not isinstance(values, Strings):
        assert values.dtype in (np.int64, np.float32)
        assert values.ndim == 1
        return values.tolist()
    assert values.starts.dtype == values.lengths.dtype == np.int32
    pairs = zip(values.starts.tolist(), values.lengths.tolist(), strict=True)
    return [values.text[start : start + length] for start, length in pairs]


def parsed(path, columns, block_bytes=1 << 16, on_error=None, **options):
    """Rows as tuples, in which None stands for NaN."""
    rows = []
    for num_rows, block in csv_blocks(path, CSVDialect(**options), columns, block_bytes, on_error):
        assert num_rows > 0
        assert list(block) == [column.name for column in columns]
        lists = [listed(values) for values in block.values()]
        assert all(len(values) == num_rows for values in lists)
        assert len({id(values.text) for values in block.values() if isinstance(values, Strings)}) <= 1
        rows += zip(*lists, strict=True) if columns else [()] * num_rows
    return [tuple(None if value != value else value for value in row) for row in rows]


def parsed_with_errors(path, columns, block_bytes=1 << 16, **options):
    errors = []
    rows = parsed(path, columns, block_bytes, errors.append, **options)
    return rows, [str(error).removeprefix(path) for error in errors]


def strings(*names):
    return tuple(RawColumn(name, "string") for name in names)


# --- reading


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_reads_what_is_written_there(write, block_bytes):
    path = write("s,i,f\nabc,12,0.5\n,,\n€,-7,1e-3\n  x y , +3 ,   \n")
    assert parsed(path, TYPED, block_bytes) == [
        (b"abc", 12, 0.5),
        (b"", MISSING_INTEGER, None),
        ("€".encode(), -7, float(np.float32(0.001))),
        (b"  x y ", 3, None),
    ]


SAME = b"s,i,f\nabc,1,2.5\n,,\n\xc3\xa4,-3,4\n"


@pytest.mark.parametrize(
    "text",
    [
        SAME,
        SAME[:-1],
        SAME.replace(b"\n", b"\r\n"),
        SAME.replace(b"\n", b"\r\n")[:-1],
        SAME.replace(b"\n", b"\n\n\r\n"),
        b"\n\r\n" + SAME,
        BYTE_ORDER_MARK + SAME,
        BYTE_ORDER_MARK + b"\n" + SAME,
        BYTE_ORDER_MARK + SAME.replace(b"s,i,f", b'"s","i","f"'),
        b'"s",i,f\r\n"abc","1","2.5"\r\n"","",""\r\n"\xc3\xa4"," -3 ","4"\r\n',
        b'"s",i,f\n"abc","1","2.5"\n"",,""\n"\xc3\xa4","-3",4',
        b"f,unused,i,s\n2.5,,1,abc\n,nan,,\n4,x,-3,\xc3\xa4\n",
        gzip.compress(SAME, mtime=0),
        gzip.compress(BYTE_ORDER_MARK + SAME[:7], mtime=0) + gzip.compress(SAME[7:], mtime=0),
        gzip.compress(SAME, mtime=0) + bytes(100),  # Padding that gzip's own tools accept.
    ],
)
@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_spellings_of_the_same_rows(write, text, block_bytes):
    expected = [(b"abc", 1, 2.5), (b"", MISSING_INTEGER, None), ("ä".encode(), -3, 4.0)]
    assert parsed(write(text), TYPED, block_bytes) == expected


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_quotes(write, block_bytes):
    path = write('a,b\n"x,1\n2","say ""hi"""\n"",""""\n"""","a\n\n""\n"""\n"\r\n\r",\rx\r\n')
    assert parsed(path, strings("a", "b"), block_bytes) == [
        (b"x,1\n2", b'say "hi"'),
        (b"", b'"'),
        (b'"', b'a\n\n"\n"'),
        (b"\r\n\r", b"\rx"),
    ]
    assert parsed(path, strings("b"), block_bytes) == [(b'say "hi"',), (b'"',), (b'a\n\n"\n"',), (b"\rx",)]


def test_quotes_may_be_ordinary(write):
    path = write('"a",b"\n"x,y""\n')
    assert parsed(path, strings('"a"', 'b"'), quote=None) == [(b'"x', b'y""')]


def test_other_delimiters_and_quotes(write):
    assert parsed(write("a\tb\n1,5\t'\"'\n"), strings("a", "b"), delimiter="\t", quote="'") == [(b"1,5", b'"')]
    assert parsed(write("i-f\n7-\n-8\n"), TYPED[1:], delimiter="-") == [(7, None), (MISSING_INTEGER, 8.0)]
    assert parsed(write("i f\n7 8\n 9\n"), TYPED[1:], delimiter=" ") == [(7, 8.0), (MISSING_INTEGER, 9.0)]
    assert parsed(write("i f\n' 7 ' 8\n"), TYPED[1:], delimiter=" ", quote="'") == [(7, 8.0)]
    # A quote may even be a digit.
    assert parsed(write("1221,0.5\n12113111,2\n"), TYPED[1:], quote="1", column_names=("i", "f")) == [
        (22, 0.5),
        (2131, 2.0),
    ]


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_one_column_has_missing_values_in_blank_lines(write, block_bytes):
    path = write("\n\ni\n1\n\n\r\n2\n\n")
    assert parsed(path, TYPED[1:2], block_bytes) == [(1,), (MISSING_INTEGER,), (MISSING_INTEGER,), (2,), (MISSING_INTEGER,)]
    assert parsed(write("\nx"), strings("a"), block_bytes, column_names=("a",)) == [(b"",), (b"x",)]


def test_columns_come_in_the_order_asked_for(write):
    path = write("f,i,s\n1,2,3\n")
    assert list(next(csv_blocks(path, CSVDialect(), TYPED, 100))[1]) == ["s", "i", "f"]
    assert parsed(path, (TYPED[1],)) == [(2,)]
    assert parsed(path, ()) == [()]


def test_null_bytes_are_ordinary(write):
    assert parsed(write(b"a\x00,b\n\x00,\x00\x00x\n"), strings("a\x00", "b")) == [(b"\x00", b"\x00\x00x")]


def test_names_are_exact(write):
    assert parsed(write(' a,"a, ""b""\n",A\n1,2,3\n'), strings('a, "b"\n', " a")) == [(b"2", b"1")]


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_known_column_names(write, block_bytes):
    path = write("s,1,2\nx,3,4\n")
    assert parsed(path, TYPED, block_bytes, column_names=("s", "i", "f")) == [(b"s", 1, 2.0), (b"x", 3, 4.0)]
    assert parsed(path, TYPED, block_bytes, column_names=["s", "i", "f"]) == [(b"s", 1, 2.0), (b"x", 3, 4.0)]


def test_strings_of_a_block_share_a_buffer_with_its_text(write):
    path = write('a,b\nx,"y"\nz,"""w"\n')
    ((num_rows, block),) = csv_blocks(path, CSVDialect(), strings("a", "b"), 1 << 20)
    assert num_rows == 2
    assert block["a"].text is block["b"].text
    assert block["a"].text == b'x,"y"\nz,"""w"\n"w'


def test_blocks_are_about_as_large_as_asked(write):
    path = write("a,b\n" + "1234,5678\n" * 10_000)
    sizes = [num_rows for num_rows, _ in csv_blocks(path, CSVDialect(), strings("a"), 1000)]
    assert sum(sizes) == 10_000
    assert 95 <= min(sizes[:-1]) <= max(sizes) <= 105


# --- Python's csv module as oracle

cells = st.text(st.sampled_from(list("ab,;\t|\"'\n\r \x00äß€𝄞0")) | st.characters(codec="utf-8"), max_size=6)
tables = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(cells, min_size=width, max_size=width), min_size=1, max_size=8)
)


@many_examples
@given(
    tables,
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.sampled_from(['"', "'"]),
    st.booleans(),
    st.booleans(),
    st.data(),
)
def test_agrees_with_the_csv_module(scratch, table, delimiter, line_end, quoting, quote, has_header, is_packed, data):
    if any("\r" in cell for row in table for cell in row):
        quoting = csv.QUOTE_ALL  # The module takes a bare carriage return for a line's end.
    options = {"delimiter": delimiter, "quotechar": quote}
    names = tuple(f"c{i}" for i in range(len(table[0])))
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=line_end, quoting=quoting, **options).writerows([names, *table])
    text = file.getvalue()
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True, **options))[1:] == table
    if not has_header:
        text = text.split(line_end, 1)[1]
        assume(not text.startswith("\ufeff"))  # A byte order mark there.
    save(scratch, gzip.compress(text.encode(), mtime=0) if is_packed else text.encode())
    asked = strings(*data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1)))
    expected = [tuple(row[names.index(column.name)].encode() for column in asked) for row in table]
    for block_bytes in {*BLOCK_BYTES, data.draw(st.integers(1, 100))}:
        column_names = None if has_header else names
        rows = parsed(scratch, asked, block_bytes, delimiter=delimiter, quote=quote, column_names=column_names)
        assert rows == expected


def test_every_place_of_a_split(write):
    text = b'a,b\r\n"x\r\n\r\n""y","\n,"\r\n1,""\r\n"""\n","\n"""\n'
    path = write(text)
    expected = [(b'x\r\n\r\n"y', b"\n,"), (b"1", b""), (b'"\n', b'\n"')]
    for block_bytes in range(1, len(text) + 2):
        assert parsed(path, strings("a", "b"), block_bytes) == expected


# --- numbers

decimals = st.from_regex(r"[+-]?([0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?", fullmatch=True)
short_decimals = st.from_regex(r"[+-]?([0-9]{1,9}\.?[0-9]{0,6}|\.[0-9]{1,15})", fullmatch=True)
integers = st.from_regex(r"[+-]?(0{0,20}[0-9]{1,18}|[0-9]{19})", fullmatch=True) | st.integers(-(10**20), 10**20).map(str)
not_numbers = st.text(st.sampled_from("0123.+-eE_ xn∞٣"), max_size=8) | st.sampled_from(
    ["nan", "inf", "-Infinity", "0x10", "1_0", "1e999", "3.5e38", ".", "+", "-", "1 2", "1.2.3", "٣", "1,5", "\t1"]
)
paddings = st.tuples(*[st.sampled_from(["", "", " ", " " * 7, " " * 8, " " * 20])] * 2)
padded = st.builds(lambda token, spaces: spaces[0] + token + spaces[1], decimals | short_decimals | integers, paddings)


def number_of(token):
    """As Python sees it: None if missing, a ValueError if illegal."""
    token = token.strip(" ")
    if not token:
        return None
    if not re.fullmatch(r"[-+.0-9eE]+", token):
        raise ValueError(token)
    with np.errstate(over="ignore"):
        number = np.float32(float(token))
    if math.isinf(number):
        raise ValueError(token)
    return number.item()


def integer_of(token):
    token = token.strip(" ")
    if not token:
        return MISSING_INTEGER
    if not re.fullmatch(r"[-+0-9]+", token) or not -(2**63) < int(token) < 2**63:
        raise ValueError(token)
    return int(token)


def legal(tokens, number):
    """The legal ones, and the lines of others if these are the rows of a file with a header."""
    numbers, lines = [], []
    for line, token in enumerate(tokens, start=2):
        try:
            numbers.append(number(token))
        except ValueError:
            lines.append(line)
    return numbers, lines


@many_examples
@given(st.lists(padded | not_numbers, min_size=1, max_size=12), st.booleans())
def test_numbers_are_as_python_reads_them(scratch, tokens, quoted):
    quote = '"' if quoted else ""
    save(scratch, ("x;y\n" + "".join(f"{quote}{token}{quote};\n" for token in tokens)).encode())
    for column, number in ((RawColumn("x", "float32"), number_of), (RawColumn("x", "int64"), integer_of)):
        errors = []
        rows = parsed(scratch, (column,), 1 << 16, errors.append, delimiter=";")
        expected, lines = legal(tokens, number)
        assert repr([value for (value,) in rows]) == repr(expected)  # -0.0 is not 0.0 there.
        assert [error.line for error in errors] == lines
        assert {error.column for error in errors} <= {"x"}


def test_many_decimals_exactly(write):
    rng = random.Random(0)
    tokens = [
        f"{rng.choice(['', '-', '+'])}{rng.uniform(0, 10 ** rng.randint(-3, 9)):.{rng.randint(0, 14)}f}"
        for _ in range(30_000)
    ]
    tokens += [repr(rng.uniform(-1, 1)) for _ in range(5000)] + [
        "0",
        "-0",
        "-0.0",
        "-0e0",
        "1e-45",
        "1e-46",
        "3.4028235e38",
    ]
    # Halves between float32 numbers, where a last digit of the float64 decides.
    tokens += [f"{1 + (2 * k + 1) * 2.0**-24:.15f}"[:16] for k in range(2000)]
    rows = parsed(write("f\n" + "\n".join(tokens)), TYPED[2:])
    expected = np.array([float(token) for token in tokens]).astype(np.float32)
    np.testing.assert_array_equal(np.array(rows, np.float32)[:, 0].view(np.int32), expected.view(np.int32))


def test_long_tokens(write):
    long = 100_000
    path = write(
        f"i,f\n{'0' * long}7,{'0' * long}.5\n{' ' * long}-8{' ' * long},{' ' * long}\n{'9' * long},1\n1,{'9' * long}\n"
    )
    rows, errors = parsed_with_errors(path, TYPED[1:])
    assert rows == [(7, 0.5), (-8, None)]
    nines = "9" * 60 + "…"
    assert errors == [
        f", line 4, column 'i': expected an integer from -9223372036854775807 to 9223372036854775807, received '{nines}'",
        f", line 5, column 'f': expected a number that is finite as float32, received '{nines}'",
    ]


# --- malformed rows

COUNT = "expected 3 fields, as in the first row, received"
AROUND = "expected a field enclosed in quotes or without any, received"
AFTER = "expected ',' or the line's end after a closing quote, received"
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
        # Of a row with illegal quotes, only the first line is left out.
        after = [(b"good", 1, 1.0)] if name.startswith("opened quote") else []
        good_row = (b"good", 1, 2.0)
        assert rows == [good_row, (b'g\n\n"', 1, 2.0), *after, good_row, good_row]
        assert [str(error) for error in errors] == [str(raised.value)]


def test_columns_not_asked_for_are_not_parsed_but_must_be_utf8(write):
    assert parsed(write("s,i,f\nx,abc,def\n"), TYPED[:1]) == [(b"x",)]
    with pytest.raises(MalformedRowError, match="line 2, column 'f': expected UTF-8"):
        parsed(write(b"s,i,f\nx,abc,\xff\n"), TYPED[:1])


def test_known_names_tell_the_number_of_fields(write):
    with pytest.raises(MalformedRowError, match="line 1: expected 3 fields, as in `column_names`, received 2"):
        parsed(write("a,b\n"), TYPED, column_names=("s", "i", "f"))


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_malformed_rows_are_left_out_and_told_in_order(write, block_bytes):
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
    # On its own, the next line is a row with text after a quote.
    assert errors == [f", line 3, column 'f': {problem.format(4)}", f", line 4, column 's': {AFTER} '2\",\"3'"]


def test_an_error_of_a_row_can_be_pickled():
    error = MalformedRowError("some.csv", 7, "price", "expected a number, received 'abc'")
    assert str(error) == "some.csv, line 7, column 'price': expected a number, received 'abc'"
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, ValueError)
    assert (str(copy), copy.line, copy.column) == (str(error), 7, "price")


def test_what_on_error_raises_ends_it(write):
    def refuse(error):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        parsed(write("i\nx\n"), TYPED[1:2], on_error=refuse)


def test_long_values_are_shown_shortened(write):
    with pytest.raises(MalformedRowError) as raised:
        parsed(write("i\n" + "é" * 1000 + "\n"), TYPED[1:2])
    assert raised.value.problem == f"expected an integer, received '{'é' * 60}…'"


# --- the longest row


@pytest.fixture
def short_rows(monkeypatch):
    monkeypatch.setattr(csv_grammar, "MAX_ROW_BYTES", 20)


@pytest.mark.usefixtures("short_rows")
@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_rows_that_are_too_long(write, block_bytes):
    within = (
        "expected the quote opened on line {} to be closed within the 20 bytes a row may have, found no closing quote"
    )
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


# --- errors of files


@pytest.mark.parametrize(
    "text", ["", "\n\r\n\n", BYTE_ORDER_MARK, "a,b", "a,b\n", "\na,b\n\n\r\n", gzip.compress(b"", mtime=0)]
)
@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_files_without_rows(write, text, block_bytes):
    path = write(text)
    with pytest.raises(EmptyFileError) as raised:
        parsed(path, strings("a"), block_bytes)
    assert str(raised.value) == f"{path}: expected at least one row, found none"
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    told = []
    assert parsed(path, strings("a"), block_bytes, told.append) == []
    assert list(map(str, told)) == [str(raised.value)]


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_files_without_rows_and_header(write, names):
    for text in (b"", BYTE_ORDER_MARK, gzip.compress(BYTE_ORDER_MARK, mtime=0)):
        with pytest.raises(ValueError, match="expected at least one row, found none"):
            parsed(write(text), strings("a"), column_names=names)


def test_files_of_malformed_rows_only_are_not_without_rows(write):
    assert parsed_with_errors(write("a,b\n1\n"), strings("a"))[0] == []
    assert parsed_with_errors(write('a,b\n1,"\n'), strings("a"))[0] == []


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_columns_that_are_not_there(write, block_bytes):
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
def test_names_that_are_there_twice(write, block_bytes):
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


@pytest.mark.parametrize("damage", ["truncated", "header only", "checksum", "contents", "trailing"])
def test_damaged_gzip(write, damage):
    packed = gzip.compress("".join(f"{i},0.{i * 7919}\n" for i in range(2000)).encode())
    damaged = {
        "truncated": packed[: len(packed) // 2],
        "header only": packed[:5],
        "checksum": packed[:-8] + bytes(8),
        "contents": packed[:1000] + bytes(100) + packed[1100:],
        "trailing": packed + b"something else",
    }[damage]
    path = write(damaged)
    for on_error in (None, lambda error: None):
        with pytest.raises(ValueError, match="^" + re.escape(f"{path}: damaged or truncated gzip file (")):
            parsed(path, strings("a"), 1000, on_error, column_names=("a", "b"))


def test_missing_files(tmp_path):
    with pytest.raises(FileNotFoundError):
        parsed(str(tmp_path / "missing.csv"), strings("a"))


# --- wrong arguments


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"delimiter": ""},
            ValueError,
            "`delimiter` must be one ASCII character other than a line end. Received: delimiter=''",
        ),
        ({"delimiter": ",,"}, ValueError, "one ASCII character"),
        ({"delimiter": "\n"}, ValueError, "one ASCII character"),
        ({"delimiter": "\r"}, ValueError, "one ASCII character"),
        ({"delimiter": "ä"}, ValueError, "one ASCII character"),
        ({"delimiter": '"'}, ValueError, "`delimiter` must not be a quote. Received: delimiter='\"'"),
        ({"delimiter": '"', "quote": None}, ValueError, "`delimiter` must not be a quote"),
        ({"delimiter": "'", "quote": "'"}, ValueError, "`delimiter` must not be a quote"),
        ({"delimiter": b","}, TypeError, "`delimiter` must be a string. Received: b',' of type bytes"),
        ({"delimiter": None}, TypeError, "`delimiter` must be a string"),
        ({"quote": ""}, ValueError, "`quote` must be one ASCII character other than a line end. Received: quote=''"),
        ({"quote": "«"}, ValueError, "`quote` must be one ASCII character"),
        ({"quote": 1}, TypeError, "`quote` must be a string. Received: 1 of type int"),
        ({"column_names": ()}, ValueError, "`column_names` must have at least one name"),
        ({"column_names": ("a", "b", "a")}, ValueError, "`column_names` must be distinct. Received: 'a' more than once"),
        ({"column_names": ("a", "")}, ValueError, "`column_names` must not be empty. Received: '' as name 2"),
        ({"column_names": "abc"}, TypeError, "`column_names` must be a sequence of strings. Received: 'abc' of type str"),
        ({"column_names": 3}, TypeError, "`column_names` must be a sequence of strings. Received: 3 of type int"),
        ({"column_names": ("a", b"b")}, TypeError, "`column_names` must be strings. Received: b'b' of type bytes"),
        ({"missing_values": "NA"}, TypeError, "`missing_values` must be a sequence of strings. Received: 'NA'"),
        ({"missing_values": (None,)}, TypeError, "`missing_values` must be strings. Received: None of type NoneType"),
        ({"missing_values": ("NA", "")}, ValueError, "`missing_values` must not be empty, contain line ends or have spaces"),
        ({"missing_values": (" NA",)}, ValueError, "or have spaces around them. Received: ' NA'"),
        ({"missing_values": ("a\nb",)}, ValueError, "`missing_values` must not be empty, contain line ends"),
    ],
)
def test_wrong_formats(options, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        CSVDialect(**options)


def test_marks_of_missing_values(write):
    path = write('s,i,f\nNaN,NaN, nan\n\\N,\\N,"NaN"\nNaNs,1, nan \n NaN,2,3\n\n')
    assert parsed(path, TYPED, missing_values=["NaN", "\\N", "nan"]) == [
        (b"", MISSING_INTEGER, None), (b"", MISSING_INTEGER, None), (b"NaNs", 1, None), (b" NaN", 2, 3.0),
    ]  # fmt: skip
    errors = []
    assert parsed(path, TYPED, 1000, errors.append, missing_values=["NaN"]) == [(b" NaN", 2, 3.0)]
    assert [(error.line, error.column) for error in errors] == [(2, "f"), (3, "i"), (4, "f")]
    label = RawColumn("f", "float32", role="label")
    with pytest.raises(MalformedRowError, match=r"line 2, column 'f': expected a label, .* received ' nan'"):
        parsed(path, [label], missing_values=["NaN", "nan"])


def test_formats_can_be_compared_and_are_keys():
    assert CSVDialect(column_names=["a", "b"]) == CSVDialect(column_names=("a", "b"))
    assert len({CSVDialect(), CSVDialect(","), CSVDialect("\t")}) == 2


@pytest.mark.parametrize(
    ("columns", "block_bytes", "kind", "message"),
    [
        (
            (RawColumn("a", "string", is_list=True),),
            1,
            ValueError,
            "text has no lists. Received: column 'a' with is_list=True",
        ),
        (strings("a", "b", "a"), 1, ValueError, "`columns` must be distinct. Received: 'a' more than once"),
        (strings("a"), 0, ValueError, "`block_bytes` must be at least 1. Received: block_bytes=0"),
        (strings("a"), 2**29 + 1, ValueError, "`block_bytes` must be at most 536870912. Received: block_bytes=536870913"),
        (strings("a"), 1.5, TypeError, "`block_bytes` must be an integer. Received: block_bytes=1.5 of type float"),
    ],
)
def test_wrong_arguments_are_told_before_the_file_is_opened(columns, block_bytes, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        csv_blocks("missing.csv", CSVDialect(), columns, block_bytes)


# --- a byte-by-byte parser as oracle of mutated files


def naive_row(text, start, quote):
    """Fields and the place after the row, or None if its quotes are illegal."""
    fields, field, state = [], bytearray(), "start"
    for place in range(start, len(text)):
        char = text[place : place + 1]
        ends_line = char == b"\n" or (char == b"\r" and text[place + 1 : place + 2] == b"\n")
        if state == "quoted":
            if char == quote:
                state = "closed"
            else:
                field += char
        elif state == "closed" and char == quote:
            field += char
            state = "quoted"
        elif char == b"," or ends_line:
            fields.append(bytes(field))
            if ends_line:
                return fields, place + (1 if char == b"\n" else 2)
            field, state = bytearray(), "start"
        elif state == "start" and char == quote:
            state = "quoted"
        elif state == "closed" or char == quote:
            return None
        else:
            field += char
            state = "bare"
    return None


def naively_parsed(text, quote, names, missing):
    """Rows and lines of malformed ones; without names, the header's. None if the file is malformed."""
    text = text.removeprefix(BYTE_ORDER_MARK)
    if text and not text.endswith(b"\n"):
        text += b"\n"
    place, line, rows, lines = 0, 1, [], []
    while place < len(text):
        row = naive_row(text, place, quote)
        if row is None:
            if names is None:
                return None
            lines.append(line)
            place, line = text.index(b"\n", place) + 1, line + 1
            continue
        fields, stop = row
        is_blank = text[place:stop] in (b"\n", b"\r\n")
        try:
            if names is None:
                if not is_blank:
                    names = [field.decode() for field in fields]
                    if any(names.count(name) != 1 for name in "sif"):
                        return None
            elif not is_blank or len(names) == 1:
                if len(fields) != len(names):
                    raise ValueError
                named = dict(zip(names, [field.decode() for field in fields], strict=True))
                s, i, f = named["s"], named["i"].strip(" "), named["f"].strip(" ")
                s, i, f = ("" if value in missing else value for value in (s, i, f))
                rows.append((s.encode(), integer_of(i), number_of(f)))
        except ValueError:
            if names is None:
                return None
            lines.append(line)
        line += text.count(b"\n", place, stop)
        place = stop
    return (rows, lines) if rows or lines else None


FUZZED = (
    b's,i,f\nabc,1,2.5\n,,\n"x,\ny",-3,"1e3"\n"q""q",+44,.5\n\xc3\xa4\xe2\x82\xac, 7 ,-0.25\n'
    b'""""," 8",9.\nz,12345678901234567890,1\n'
)
ALPHABET = b'",\n\r"\n,"0129.+-eE _x\x00\xff\xc3\xa4n'


def mutated(text, rng):
    text = bytearray(text)
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        place = rng.randrange(len(text) + 1)
        size = rng.choice([1, 1, 2, 5, 20])
        kind = rng.randrange(6)
        if kind == 0:
            text[place : place + 1] = bytes([rng.choice(ALPHABET)])
        elif kind == 1 and place < len(text):
            text[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del text[place : place + size]
        elif kind == 3:
            text[place:place] = bytes(rng.choices(ALPHABET, k=rng.choice([1, 1, 2, 3])))
        elif kind == 4:
            text[place:place] = text[place : place + size]
        elif rng.random() < 0.2:
            del text[place:]
    return bytes(text)


def outcome(path, block_bytes, on_error=None, **options):
    try:
        return parsed(path, TYPED, block_bytes, on_error, **options)
    except ValueError as error:
        return str(error)


def test_mutated_files_are_read_or_refused(scratch):
    rng = random.Random(1)
    slowest, num_read = 0.0, 0
    for _ in range(9000):
        text = mutated(FUZZED.replace(b"\n", b"\r\n") if rng.random() < 0.2 else FUZZED, rng)
        quote = rng.choice(['"', '"', None])
        column_names = rng.choice([None, None, ("s", "i", "f")])
        missing = rng.choice([(), (), ("z", "7", "-3", ",", ".5", "\x00", "é", "1e3")])
        options = {"quote": quote, "column_names": column_names, "missing_values": missing}
        save(scratch, text)
        errors = []
        started = time.monotonic()
        rows = outcome(scratch, rng.choice([20, 60, 120, 1000]), errors.append, **options)
        if list(map(type, errors)) == [EmptyFileError]:
            rows = outcome(scratch, 1000, **options)
        slowest = max(slowest, time.monotonic() - started)
        expected = naively_parsed(text, None if quote is None else quote.encode(), column_names, missing)
        if expected is None:
            assert isinstance(rows, str)
            assert rows.startswith(scratch)
        else:
            num_read += 1
            assert (rows, [error.line for error in errors]) == expected
            if errors and rng.random() < 0.1:
                assert outcome(scratch, rng.choice([30, 1000]), **options) == str(errors[0])
    assert num_read > 6000
    assert slowest < 5


def test_mutated_gzip_files_are_read_or_refused(scratch):
    rng = random.Random(2)
    packed = gzip.compress(FUZZED * 2, mtime=0)
    for _ in range(1000):
        save(scratch, mutated(packed, rng))
        rows = outcome(scratch, rng.choice([1, 20, 1000]), lambda error: None)
        assert isinstance(rows, list) or rows.startswith(scratch)


@many_examples
@given(
    st.lists(st.sampled_from(['"', '"', '""', ",", "\n", "\r\n", "\r", "a", "1", " ", "é", "\udcff"]), max_size=40),
    st.sampled_from([6, 10, 1000]),
)
def test_what_is_read_does_not_depend_on_blocks(scratch, parts, max_row_bytes):
    save(scratch, b"s,i,f\n" + "".join(parts).encode("utf-8", "surrogateescape"))
    outcomes = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_grammar, "MAX_ROW_BYTES", max_row_bytes)
        for block_bytes in (*range(1, 12), 20, 1000):
            errors = []
            rows = outcome(scratch, block_bytes, errors.append)
            outcomes.add((str(rows), str([str(error) for error in errors])))
    assert len(outcomes) == 1
