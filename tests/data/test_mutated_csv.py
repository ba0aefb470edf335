"""Randomly mutated CSV files: the same rows and errors as a parser that goes byte by byte."""

import gzip
import random
import time

import pytest
from csv_files import (
    BYTE_ORDER_MARK,
    TYPED,
    integer_of,
    listed,
    number_of,
    parsed,
    parsed_without_pyarrow,
    save,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rafm.data.formats import csv_grammar
from keras_rafm.data.formats.csv_grammar import CSVDialect
from keras_rafm.data.formats.csv_parser import csv_blocks
from keras_rafm.data.raw import arrow_text
from keras_rafm.data.raw.blocks import Strings
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import EmptyFileError

pytestmark = pytest.mark.one_tensorflow


many_examples = settings(max_examples=200, deadline=None)


def naive_row(text, start, quote):
    """Return the fields and the place after the row, or None if its quotes are illegal."""
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
    """Return the rows and the lines of malformed rows, or None if the file is malformed.

    Args:
        text: The file.
        quote: The quote.
        names: The names of columns, or None to read them from the header.
        missing: Marks of missing values.
    """
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


def mutated(text, rng, alphabet=ALPHABET):
    text = bytearray(text)
    for _ in range(rng.choice([1, 1, 2, 3, 6])):
        place = rng.randrange(len(text) + 1)
        size = rng.choice([1, 1, 2, 5, 20])
        kind = rng.randrange(6)
        if kind == 0:
            text[place : place + 1] = bytes([rng.choice(alphabet)])
        elif kind == 1 and place < len(text):
            text[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del text[place : place + size]
        elif kind == 3:
            text[place:place] = bytes(rng.choices(alphabet, k=rng.choice([1, 1, 2, 3])))
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


@pytest.mark.usefixtures("without_pyarrow")
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


def bits(values):
    """The strings, or the bytes of the numbers."""
    return listed(values) if isinstance(values, Strings) else [(values.dtype, number.tobytes()) for number in values]


def outcome_in_bits(path, columns, block_bytes, **options):
    """The rows and the errors, or the error that ends reading, with the rows before it."""
    rows, errors = [], []
    try:
        for num_rows, block in csv_blocks(path, CSVDialect(**options), columns, block_bytes, errors.append):
            lists = [bits(block[column.name]) for column in columns]
            assert {len(values) for values in lists} == {num_rows}
            rows += zip(*lists, strict=True)
    except ValueError as error:
        errors.append(error)
    return rows, list(map(str, errors))


# Texts that pyarrow reads, with what it would take for something else when mutated.
LEGAL = [
    b's,i,f\nabc,1,2.5\nd,-3,4e2\n"q""q",44,.5\n\xc3\xa4,7,-0.\n',
    b'f,i,s\n1,2,\n3.25,"-4","a\r\nb"\n1e-3,0,\xef\xbb\xbf\n0,0,x\n',
    b"f\n1\n\n2.5\n\r\n-0\n",
]
ROLES = [
    TYPED,
    TYPED[1:],
    TYPED[2:],
    (RawColumn("f", "float32", role="sample_weight"), RawColumn("i", "int64", role="label"), TYPED[0]),
]


def test_mutated_files_are_read_as_without_pyarrow(scratch, monkeypatch):
    rng = random.Random(3)
    monkeypatch.setattr(arrow_text, "_LONGEST_PAUSE", 0)
    num_read = 0

    class CountingReader(arrow_text.ArrowReader):
        def block(self, text):
            nonlocal num_read
            read = super().block(text)
            num_read += read is not None
            return read

    monkeypatch.setattr(arrow_text, "ArrowReader", CountingReader)
    for _ in range(4000):
        text = rng.choice([FUZZED, *LEGAL])
        names = text[: text.index(b"\n")].decode().split(",")
        text = text.replace(b"\n", b"\r\n") if rng.random() < 0.2 else text
        text = mutated(text, rng, ALPHABET + b"\tX\x0b\xef\xbb\xbf") if rng.random() < 0.9 else text
        delimiter, quote = rng.choice([",", ",", ",", ";", "\t", " ", "1"]), rng.choice(['"', '"', None, "'", "x"])
        options = {
            "delimiter": delimiter,
            "quote": quote,
            "column_names": rng.choice([None, names]),
            "missing_values": rng.choice([(), ("z", "7", "z"), ("-3", ",", ".5", "\x00", "é", "1e3", "nan", "inf")]),
        }
        text = text.replace(b",", delimiter.encode())
        save(scratch, text.replace(b'"', b"'") if quote == "'" else text)
        columns = [column for column in rng.choice(ROLES) if column.name in names]
        block_bytes = rng.choice([20, 60, 120, 1000])
        with_pyarrow = outcome_in_bits(scratch, columns, block_bytes, **options)
        with parsed_without_pyarrow():
            assert outcome_in_bits(scratch, columns, block_bytes, **options) == with_pyarrow
    assert num_read > 1000


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
