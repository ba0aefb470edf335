"""CSV files of tests: reading them with the parser under test, and numbers as Python reads them."""

from __future__ import annotations

import contextlib
import math
import os
import re

import numpy as np
import pytest

from keras_rafm.data.formats import csv_parser
from keras_rafm.data.formats.csv_grammar import CSVDialect
from keras_rafm.data.formats.csv_parser import csv_blocks
from keras_rafm.data.raw.blocks import Strings
from keras_rafm.data.raw.columns import MISSING_INTEGER, RawColumn

BLOCK_BYTES = [1, 2, 5, 13, 40, 1 << 16]
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
TYPED = (RawColumn("s", "string"), RawColumn("i", "int64"), RawColumn("f", "float32"))


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


@contextlib.contextmanager
def parsed_without_pyarrow():
    """Leave all CSV to the package's own parser, as where pyarrow is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_parser, "arrow_reader", lambda **arguments: None)
        yield


def strings(*names):
    return tuple(RawColumn(name, "string") for name in names)


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


COUNT = "expected 3 fields, as in the first row, received"
AROUND = "expected a field that is enclosed in quotes or contains none, received"
AFTER = "expected ',' or the line's end after a closing quote, received"
