"""Numbers in CSV: the same as Python reads them, to the last bit."""

import random

import numpy as np
import pytest
from csv_files import TYPED, integer_of, number_of, parsed, parsed_with_errors, save
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_rafm.data.raw.columns import RawColumn

pytestmark = [pytest.mark.one_tensorflow, pytest.mark.usefixtures("with_and_without_pyarrow")]


many_examples = settings(max_examples=200, deadline=None)
decimals = st.from_regex(r"[+-]?([0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})([eE][+-]?[0-9]{1,2})?", fullmatch=True)
short_decimals = st.from_regex(r"[+-]?([0-9]{1,9}\.?[0-9]{0,6}|\.[0-9]{1,15})", fullmatch=True)
integers = st.from_regex(r"[+-]?(0{0,20}[0-9]{1,18}|[0-9]{19})", fullmatch=True) | st.integers(-(10**20), 10**20).map(str)
not_numbers = st.text(st.sampled_from("0123.+-eE_ xn∞٣"), max_size=8) | st.sampled_from(
    ["nan", "inf", "-Infinity", "0x10", "1_0", "1e999", "3.5e38", ".", "+", "-", "1 2", "1.2.3", "٣", "1,5", "\t1"]
)
paddings = st.tuples(*[st.sampled_from(["", "", " ", " " * 7, " " * 8, " " * 20])] * 2)
padded = st.builds(lambda token, spaces: spaces[0] + token + spaces[1], decimals | short_decimals | integers, paddings)


def legal(tokens, number):
    """Return the legal numbers, and the lines of illegal ones in a file with a header and one token per row."""
    numbers, lines = [], []
    for line, token in enumerate(tokens, start=2):
        try:
            numbers.append(number(token))
        except ValueError:
            lines.append(line)
    return numbers, lines


@many_examples
@given(st.lists(padded | not_numbers, min_size=1, max_size=12), st.booleans())
def test_numbers_equal_those_of_python(scratch, tokens, quoted):
    quote = '"' if quoted else ""
    save(scratch, ("x;y\n" + "".join(f"{quote}{token}{quote};\n" for token in tokens)).encode())
    for column, number in ((RawColumn("x", "float32"), number_of), (RawColumn("x", "int64"), integer_of)):
        errors = []
        rows = parsed(scratch, (column,), 1 << 16, errors.append, delimiter=";")
        expected, lines = legal(tokens, number)
        assert repr([value for (value,) in rows]) == repr(expected)  # The representation tells -0.0 from 0.0.
        assert [error.line for error in errors] == lines
        assert {error.column for error in errors} <= {"x"}


def test_decimals_are_exact(write):
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
    # Halfway between float32 numbers, where the last digit of the float64 decides.
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
