"""Reading CSV: values, quotes, delimiters, column names and blocks, compared with Python's csv module; wrong options."""

import csv
import gzip
import io
import re

import numpy as np
import pytest
from csv_files import BLOCK_BYTES, BYTE_ORDER_MARK, TYPED, parsed, save, strings
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from keras_rafm.data.formats.csv_grammar import CSVDialect
from keras_rafm.data.formats.csv_parser import csv_blocks
from keras_rafm.data.raw.columns import MISSING_INTEGER, RawColumn
from keras_rafm.data.raw.errors import MalformedRowError

pytestmark = [pytest.mark.one_tensorflow, pytest.mark.usefixtures("with_and_without_pyarrow")]


many_examples = settings(max_examples=200, deadline=None)


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_values_of_every_dtype(write, block_bytes):
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


def test_quotes_without_special_meaning(write):
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


def test_columns_are_in_the_requested_order(write):
    path = write("f,i,s\n1,2,3\n")
    assert list(next(csv_blocks(path, CSVDialect(), TYPED, 100))[1]) == ["s", "i", "f"]
    assert parsed(path, (TYPED[1],)) == [(2,)]
    assert parsed(path, ()) == [()]


def test_null_bytes_have_no_special_meaning(write):
    assert parsed(write(b"a\x00,b\n\x00,\x00\x00x\n"), strings("a\x00", "b")) == [(b"\x00", b"\x00\x00x")]


def test_names_are_exact(write):
    assert parsed(write(' a,"a, ""b""\n",A\n1,2,3\n'), strings('a, "b"\n', " a")) == [(b"2", b"1")]


@pytest.mark.parametrize("block_bytes", BLOCK_BYTES)
def test_column_names_as_an_option(write, block_bytes):
    path = write("s,1,2\nx,3,4\n")
    assert parsed(path, TYPED, block_bytes, column_names=("s", "i", "f")) == [(b"s", 1, 2.0), (b"x", 3, 4.0)]
    assert parsed(path, TYPED, block_bytes, column_names=["s", "i", "f"]) == [(b"s", 1, 2.0), (b"x", 3, 4.0)]


def test_strings_of_a_block_share_a_buffer_with_its_text(write):
    path = write('a,b\nx,"y"\nz,"""w"\n')
    ((num_rows, block),) = csv_blocks(path, CSVDialect(), strings("a", "b"), 1 << 20)
    assert num_rows == 2
    assert block["a"].text is block["b"].text
    assert block["a"].text == b'x,"y"\nz,"""w"\n"w'


def test_blocks_have_about_the_requested_size(write):
    path = write("a,b\n" + "1234,5678\n" * 10_000)
    sizes = [num_rows for num_rows, _ in csv_blocks(path, CSVDialect(), strings("a"), 1000)]
    assert sum(sizes) == 10_000
    assert 95 <= min(sizes[:-1]) <= max(sizes) <= 105


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
        quoting = csv.QUOTE_ALL  # The csv module treats a bare carriage return as a line end.
    options = {"delimiter": delimiter, "quotechar": quote}
    names = tuple(f"c{i}" for i in range(len(table[0])))
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator=line_end, quoting=quoting, **options).writerows([names, *table])
    text = file.getvalue()
    assert list(csv.reader(io.StringIO(text, newline=""), strict=True, **options))[1:] == table
    if not has_header:
        text = text.split(line_end, 1)[1]
        assume(not text.startswith("\ufeff"))  # It would be a byte order mark.
    save(scratch, gzip.compress(text.encode(), mtime=0) if is_packed else text.encode())
    asked = strings(*data.draw(st.lists(st.sampled_from(names), unique=True, min_size=1)))
    expected = [tuple(row[names.index(column.name)].encode() for column in asked) for row in table]
    for block_bytes in {*BLOCK_BYTES, data.draw(st.integers(1, 100))}:
        column_names = None if has_header else names
        rows = parsed(scratch, asked, block_bytes, delimiter=delimiter, quote=quote, column_names=column_names)
        assert rows == expected


def test_every_block_size(write):
    text = b'a,b\r\n"x\r\n\r\n""y","\n,"\r\n1,""\r\n"""\n","\n"""\n'
    path = write(text)
    expected = [(b'x\r\n\r\n"y', b"\n,"), (b"1", b""), (b'"\n', b'\n"')]
    for block_bytes in range(1, len(text) + 2):
        assert parsed(path, strings("a", "b"), block_bytes) == expected


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
        (
            {"missing_values": ("NA", "")},
            ValueError,
            "`missing_values` must not be empty, contain line ends or have",
        ),
        ({"missing_values": (" NA",)}, ValueError, "or have spaces around them. Received: ' NA'"),
        ({"missing_values": ("a\nb",)}, ValueError, "`missing_values` must not be empty, contain line ends"),
    ],
)
def test_wrong_options(options, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        CSVDialect(**options)


def test_missing_values(write):
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


def test_dialects_are_comparable_and_hashable():
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
def test_wrong_arguments_raise_before_the_file_is_opened(columns, block_bytes, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        csv_blocks("missing.csv", CSVDialect(), columns, block_bytes)
