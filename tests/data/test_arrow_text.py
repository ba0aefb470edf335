"""Text read by pyarrow: only what the package's parser reads as well, with the same result to the last bit."""

import itertools
import sys

import numpy as np
import pyarrow.csv
import pytest
from csv_files import TYPED, listed
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rafm.data.raw import arrow_text
from keras_rafm.data.raw.arrow_text import ArrowReader, arrow_reader
from keras_rafm.data.raw.columns import MISSING_INTEGER, RawColumn
from keras_rafm.data.raw.numbers import parsed_integer, parsed_number

pytestmark = pytest.mark.one_tensorflow

many_examples = settings(max_examples=200, deadline=None)


def reader(columns=TYPED, num_fields=None, delimiter=",", quote='"', missing_values=()):
    num_fields = len(columns) if num_fields is None else num_fields
    return ArrowReader(delimiter, quote, missing_values, num_fields, dict(enumerate(columns)))


def rows_of(read):
    """The rows as tuples, in which None stands for NaN."""
    num_rows, block = read
    lists = [listed(values) for values in block.values()]
    assert all(len(values) == num_rows for values in lists)
    return [tuple(None if value != value else value for value in row) for row in zip(*lists, strict=True)]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("ab,1,2.5\n,,\n", [(b"ab", 1, 2.5), (b"", MISSING_INTEGER, None)]),
        ("ab,1,2.5\r\n\r\n\n,,\r\n", [(b"ab", 1, 2.5), (b"", MISSING_INTEGER, None)]),
        ('"a""b,\r\nc","1","2.5"\n"","",""\n', [(b'a"b,\r\nc', 1, 2.5), (b"", MISSING_INTEGER, None)]),
        ('"""",1,2\n"""a""",1,2\n', [(b'"', 1, 2), (b'"a"', 1, 2)]),
        ("€, 1 , 2.5 \n  x ,-0, -0.0\n", [("€".encode(), 1, 2.5), (b"  x ", 0, 0)]),
        ("a\0b,007,1e3\n0,9223372036854775807,.5\n", [(b"a\0b", 7, 1000), (b"0", 2**63 - 1, 0.5)]),
        ("a,-9223372036854775807,1.\n", [(b"a", -(2**63) + 1, 1)]),
    ],
)
def test_usual_texts(text, rows):
    read = reader().block(text.encode())
    assert rows_of(read) == rows
    assert read[1]["i"].flags.writeable
    assert read[1]["f"].flags.writeable


def test_missing_values():
    read = reader(missing_values=("NA", "-1", "NA", ",")).block(b'NA,NA,NA\n",",-1,"-1"\n-1,1,"NA"\n')
    assert rows_of(read) == [(b"", MISSING_INTEGER, None)] * 2 + [(b"", 1, None)]


def test_one_column_has_missing_values_in_blank_lines():
    assert rows_of(reader(TYPED[2:]).block(b'1\n\n2\n\r\n""\n')) == [(1,), (None,), (2,), (None,), (None,)]


def test_strings_share_one_buffer():
    columns = (RawColumn("a", "string"), RawColumn("n", "float32"), RawColumn("b", "string"))
    _, block = reader(columns).block(b"x,1,yz\n,2,\n")
    assert list(block) == ["a", "n", "b"]
    assert block["a"].text is block["b"].text
    assert rows_of((2, block)) == [(b"x", 1, b"yz"), (b"", 2, b"")]


@pytest.mark.parametrize(
    "text",
    [
        b'x"y,1,2\n',
        b'"x"y,1,2\n',
        b'"x"",1,2\n',
        b'"x" ,1,2\n',
        b' "x",1,2\n',
        b'x,1""2,3\n',
        b'"x,1,2\n',
        b"x,1,2\ra,3,4\n",
        b"x,1,2\r\r\n",
        b"x\ry,1,2\n",
        b"x,\t1,2\n",
        b"x,1,2\t\n",
        b"x,0x10,2\n",
        b"x,0X10,2\n",
        b"x,-9223372036854775808,2\n",
        b"x,9223372036854775808,2\n",
        b"x,1.0,2\n",
        b"x,true,2\n",
        b"x,1,nan\n",
        b"x,1,inf\n",
        b"x,1,-Infinity\n",
        b"x,1,1e39\n",
        b"x,1,1e999\n",
        b"x,1,0x1p3\n",
        b"x,1,1_0\n",
        b"x,1\n",
        b"x,1,2,3\n",
        b"x,1,2\n\n \n",
        b"\xef\xbb\xbfx,1,2\n",
        b"\xff,1,2\n",
        b"\n\r\n",
        b"",
    ],
)
def test_unusual_texts_are_left_to_the_parser(text):
    assert reader().block(text) is None


def test_columns_that_are_not_read_must_be_utf8():
    assert reader(TYPED[2:], num_fields=2).block(b"1,\xff\n") is None
    assert rows_of(reader(TYPED[2:], num_fields=2).block(b"1,x\n")) == [(1,)]


def test_spaces_around_missing_numbers_are_left_to_the_parser():
    assert reader(missing_values=("NA", "7")).block(b"x, 7 ,1\n") is None
    assert reader(missing_values=("NA",)).block(b"x, NA ,1\n") is None
    assert rows_of(reader(missing_values=("NA",)).block(b"x, 7 ,1\n")) == [(b"x", 7, 1)]


@pytest.mark.parametrize(
    ("role", "value"), [("label", ""), ("binary_label", "2"), ("numeric_label", ""), ("sample_weight", "-1")]
)
def test_illegal_labels_are_left_to_the_parser(role, value):
    columns = (RawColumn("y", "float32", role=role), RawColumn("f", "float32"))
    assert reader(columns).block(f"1,2\n{value},3\n".encode()) is None
    assert rows_of(reader(columns).block(b"1,2\n0,3\n")) == [(1, 2), (0, 3)]


def test_every_short_token(monkeypatch):
    monkeypatch.setattr(arrow_text, "_LONGEST_PAUSE", 0)
    alphabet = b"019.eE+-_xn \t\v\0\xef"
    num_read = 0
    for dtype, parse in (("int64", parsed_integer), ("float32", parsed_number)):
        column_reader = reader((RawColumn("v", dtype), RawColumn("s", "string")))
        for size in (1, 2, 3):
            for token in map(bytes, itertools.product(alphabet, repeat=size)):
                read = column_reader.block(token + b",\n")
                if read is None:
                    continue
                num_read += 1
                expected = parse(token.strip(b" "))
                assert expected is not None, token
                values = read[1]["v"]
                assert values.tobytes() == np.array([expected]).astype(values.dtype).tobytes(), token
    assert num_read > 100


decimals = st.from_regex(r"-?([0-9]{1,25}\.?[0-9]{0,25}|\.[0-9]{1,25})([eE][+-]?[0-9]{1,2})?", fullmatch=True)
float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)
halfway = float32s.filter(lambda x: 1e-30 < abs(x) < 1e30).map(
    lambda x: repr((x + float(np.nextafter(np.float32(x), np.float32(np.inf)))) / 2)
)


@many_examples
@given(st.lists(decimals | float32s.map(repr) | float32s.map(lambda x: str(np.float32(x))) | halfway, min_size=1))
def test_numbers_are_equal_to_the_last_bit(tokens):
    tokens = [token for token in tokens if parsed_number(token.encode()) is not None]
    read = reader(TYPED[2:]).block("".join(f"{token}\n" for token in tokens).encode())
    if read is None:
        # Older versions of pyarrow refuse numbers below the least float64.
        assert not tokens or any(float(token) == 0 for token in tokens)
    else:
        expected = np.array([float(token) for token in tokens]).astype(np.float32)
        assert read[1]["f"].tobytes() == expected.tobytes()


def test_texts_pass_after_one_that_cannot_be_read(monkeypatch):
    column_reader, good, bad = reader(TYPED[2:]), b"1\n", b"x\n"
    assert column_reader.block(bad) is column_reader.block(good) is None
    assert column_reader.block(good) is not None
    assert column_reader.block(b"\xff\n") is None  # pyarrow does not try to read this text, so no other one passes.
    assert column_reader.block(good) is not None

    texts_read = []
    read_csv = pyarrow.csv.read_csv
    monkeypatch.setattr(pyarrow.csv, "read_csv", lambda text, *options: texts_read.append(text) or read_csv(text, *options))
    for _ in range(1 + 1 + 1 + 2 + 1 + 4 + 1 + 8 + 1 + 16 + 1 + 16):
        assert column_reader.block(bad) is None
    assert len(texts_read) == 6


def made_for(dtypes, **options):
    columns = {place: RawColumn(str(place), dtype) for place, dtype in enumerate(dtypes)}
    options = {"delimiter": ",", "quote": '"', "missing_values": (), "num_fields": len(dtypes), **options}
    return arrow_reader(columns=columns, **options)


def test_it_reads_files_with_many_numbers():
    assert made_for(["float32"]) is not None
    assert made_for(["string"] * 7 + ["int64"] * 4) is not None
    assert made_for(["string"] * 10 + ["float32"]) is None
    assert made_for(["string"]) is None
    assert made_for([]) is None


@pytest.mark.parametrize("option", ["delimiter", "quote"])
def test_null_bytes_are_left_to_the_parser(option):
    assert made_for(["float32"], **{option: "\0"}) is None


@pytest.mark.parametrize("character", [chr(code) for code in range(1, 128) if chr(code) not in "\r\n"])
def test_every_delimiter_and_quote(character):
    letter, number = ("a" if character != "a" else "b"), ("2" if character != "2" else "3")
    columns, expected = (RawColumn("s", "string"), TYPED[2]), [(letter.encode(), float(number))]
    if character != '"':  # It must not be a delimiter.
        for quote, field in (("'" if character != "'" else "`", letter), (None, letter)):
            text = f"{field}{character}{number}\n".encode()
            assert rows_of(reader(columns, delimiter=character, quote=quote).block(text)) == expected
    if character != "\t":  # Tabs are left to the parser.
        delimiter = ";" if character != ";" else ","
        text = f"{character}{letter}{character}{delimiter}{character}{number}{character}\n".encode()
        assert rows_of(reader(columns, delimiter=delimiter, quote=character).block(text)) == expected


def test_without_pyarrow(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.csv", None)
    assert made_for(["float32"]) is None
