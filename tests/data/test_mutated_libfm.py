"""Randomly mutated libFM text: the same rows and errors as a parser that goes line by line."""

import collections
import random
import re

import numpy as np
import pytest
from table_files import libfm_schema

from keras_rafm.data import LibFMFormat, MalformedRowError

pytestmark = pytest.mark.one_tensorflow


_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def oracle(text, zero_based):
    """Return the rows `(ids, values, label)` of the legal lines of regression text, and the numbers of the other lines."""
    rows, wrong = [], []
    for number, line in enumerate(text.split(b"\n"), start=1):
        tokens = re.findall(rb"[^ \t\r]+", line.split(b"#")[0])
        if not tokens:
            continue
        try:
            pairs = [token.split(b":") for token in tokens[1:]]
            rows.append(
                (
                    [oracle_id(i, zero_based) for i, _ in pairs],
                    [oracle_number(x) for _, x in pairs],
                    oracle_number(tokens[0]),
                )
            )
        except ValueError:
            wrong.append(number)
    return rows, wrong


def oracle_number(token):
    if not _NUMBER.fullmatch(token) or abs(float(token)) >= 2.0**128 * (1 - 2.0**-25):  # rounds to infinity
        raise ValueError
    return float(np.float32(float(token)))


def oracle_id(token, zero_based):
    if not re.fullmatch(rb"[0-9]+", token) or not (not zero_based) <= int(token) < 2**63:
        raise ValueError
    return int(token) - (not zero_based)


PIECES = [
    b"",
    b" ",
    b"\n",
    b"\r\n",
    b"\t",
    b":",
    b"::",
    b"#",
    b"0",
    b"-",
    b"+",
    b".",
    b"e",
    b"1e39",
    b"nan",
    b"inf",
    b"\x00",
]
PIECES += [
    b"\xff",
    b"9" * 18,
    b"9223372036854775807",
    b"9223372036854775808",
    b"00000000000000000000001",
    b"_",
    b"\x0b",
    b"1:1",
    b"\xc2\xa0",
]


def mutated(rng):
    lines = [
        b"%d" % rng.randrange(-3, 9)
        + b"".join(b" %d:%s" % (rng.randrange(30), rng.choice([b"1", b"0.5", b"-2e-1"])) for _ in range(rng.randrange(4)))
        for _ in range(rng.randrange(1, 6))
    ]
    text = b"\n".join(lines) + rng.choice([b"", b"\n"])
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice(PIECES) + text[at + rng.choice([0, 0, 1, 2]) :]
    return text


def test_mutated_libfm_text(tmp_path):
    """Rows and errors are the same as those of a parser that goes line by line."""
    path = tmp_path / "some.libfm"
    rng = random.Random(1)
    columns = {column.name: column for column in libfm_schema(task="regression").raw_columns(training=True)}
    asked = [columns[name] for name in ("ids", "values", "label")]
    outcomes = collections.Counter()
    with open(path, "wb", buffering=0) as file:
        for _ in range(10_000):
            text = mutated(rng)
            file.seek(0)
            file.truncate()
            file.write(text)
            zero_based = rng.random() < 0.7
            file_format = LibFMFormat(zero_based, rng.choice([1, 3, 10, 40, 1 << 19]))
            rows, wrong = oracle(text, zero_based)
            errors = []
            if not rows and not wrong:
                with pytest.raises(ValueError, match="expected at least one row, found none"):
                    list(file_format.blocks(str(path), asked, None))
                assert list(file_format.blocks(str(path), asked, errors.append)) == []
                assert list(map(str, errors)) == [f"{path}: expected at least one row, found none"]
                outcomes["empty"] += 1
                continue
            assert rows_of_blocks(file_format.blocks(str(path), asked, errors.append)) == rows, text
            assert [error.line for error in errors] == wrong, text
            assert all(isinstance(error, MalformedRowError) for error in errors)
            if wrong:
                with pytest.raises(MalformedRowError) as error:
                    list(file_format.blocks(str(path), asked, None))
                assert str(error.value) == str(errors[0])
                outcomes["malformed"] += 1
            else:
                assert rows_of_blocks(file_format.blocks(str(path), asked, None)) == rows
                outcomes["good"] += 1
    assert min(outcomes[kind] for kind in ("good", "malformed")) > 2000
    assert outcomes["empty"] > 0


def rows_of_blocks(blocks):
    rows = []
    for num_rows, block in blocks:
        assert num_rows > 0
        ids, values, labels = block["ids"], block["values"], block["label"]
        assert len(labels) == len(ids.row_lengths) == num_rows
        ends = np.cumsum(ids.row_lengths)
        for end, length, label in zip(ends, ids.row_lengths, labels.tolist(), strict=True):
            rows.append((ids.values[end - length : end].tolist(), values.values[end - length : end].tolist(), label))
    return rows
