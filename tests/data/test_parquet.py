"""Parquet files: every type that fits a raw column, nulls and lists, and the errors of other types and of damaged files."""

import datetime
import decimal
import math
import random
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from keras_rafm.data import Schema, SkippedRows

pytestmark = pytest.mark.one_tensorflow

MISSING_INTEGER = -(2**63)
COLUMN_OF_DTYPE = {"string": Schema.string_categorical, "int64": Schema.integer_categorical}
BLOCK_ROWS = 16384


@pytest.fixture
def write(tmp_path):
    def write(array, name="c", **options):
        path = tmp_path / "some.parquet"
        pq.write_table(pa.table({name: array}), path, **options)
        return path

    return write


def schema_of(dtype, lists=False):
    column = Schema.float() if dtype == "float32" else COLUMN_OF_DTYPE[dtype](multivalued=lists)
    return Schema({"c": column})


def read(path, dtype, lists=False):
    """Return the values of all rows, with None for missing values."""
    missing = {"string": b"", "int64": MISSING_INTEGER}.get(dtype)
    rows = []
    for block in schema_of(dtype, lists).raw_dataset(path, training=False):
        values = block["c"]
        assert values.dtype == dtype
        rows += values.to_list() if lists else values.numpy().tolist()

    def plain(value):
        if isinstance(value, list):
            return [plain(item) for item in value]
        return None if value == missing or value != value else value

    return [plain(row) for row in rows]


STRINGS = ["ab", None, "", "ü€", "a\x00", "\x00"]
STRINGS_READ = [b"ab", None, None, "ü€".encode(), b"a\x00", b"\x00"]
STRING_TYPES = [
    pa.string(),
    pa.large_string(),
    pa.binary(),
    pa.large_binary(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.int32(), pa.large_string()),
    pa.dictionary(pa.int32(), pa.binary()),
]


def strings_of(kind, values=STRINGS):
    if pa.types.is_dictionary(kind):
        return pa.array(values, pa.string()).cast(kind.value_type).dictionary_encode().cast(kind)
    return pa.array(values, pa.string()).cast(kind)


@pytest.mark.parametrize("kind", STRING_TYPES, ids=str)
@pytest.mark.parametrize("options", [{}, {"row_group_size": 1}, {"use_dictionary": False, "compression": "none"}], ids=str)
def test_strings(write, kind, options):
    assert read(write(strings_of(kind), **options), "string") == STRINGS_READ


INTEGER_TYPES = [f() for f in (pa.int8, pa.int16, pa.int32, pa.int64, pa.uint8, pa.uint16, pa.uint32, pa.uint64)]


@pytest.mark.parametrize("kind", INTEGER_TYPES, ids=str)
def test_integers(write, kind):
    limits = np.iinfo(str(kind))
    values = [limits.min + (kind == pa.int64()), None, 0, 7, min(limits.max, 2**63 - 1)]
    path = write(pa.array(values, kind))
    assert read(path, "int64") == values
    assert read(path, "float32") == [None if v is None else float(np.float32(v)) for v in values]


def test_strings_of_a_fixed_size(write):
    path = write(pa.array([b"ab", None, b"cd"], pa.binary(2)))
    assert read(path, "string") == [b"ab", None, b"cd"]
    schema = schema_of("string")
    schema.adapt(path)
    assert schema.vocabulary("c") == ["[UNSEEN]", "[MISSING]", "ab", "cd"]


def test_other_numbers(write):
    expected = [1.5, None, None, -2.0]
    for kind, dtype in ((pa.float16(), np.float16), (pa.float32(), np.float32), (pa.float64(), np.float64)):
        values = np.array([1.5, 0, math.nan, -2], dtype)
        assert read(write(pa.array(values, kind, mask=np.array([0, 1, 0, 0], bool))), "float32") == expected
    for kind in (pa.decimal128(10, 2), pa.decimal256(50, 2)):
        values = [decimal.Decimal("1.5"), None, None, decimal.Decimal(-2)]
        assert read(write(pa.array(values, kind)), "float32") == expected
    flags = write(pa.array([True, None, False]))
    assert read(flags, "int64") == [1, None, 0]
    assert read(flags, "float32") == [1.0, None, 0.0]


@pytest.mark.parametrize("dtype", ["string", "int64", "float32"])
def test_nulls_everywhere(write, dtype):
    for kind in (pa.null(), {"string": pa.string(), "int64": pa.int64(), "float32": pa.float64()}[dtype]):
        assert read(write(pa.array([None] * 3, kind)), dtype) == [None] * 3
        if dtype != "float32":
            assert (
                read(write(pa.array([None] * 3, kind if pa.types.is_null(kind) else pa.list_(kind))), dtype, True)
                == [[]] * 3
            )
            assert read(write(pa.array([[None], [], None], pa.list_(kind))), dtype, True) == [[None], [], []]


LISTS = [["a", "b"], [], None, ["c", None, "d"], [None], ["e"]]
LISTS_READ = [[b"a", b"b"], [], [], [b"c", None, b"d"], [None], [b"e"]]


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.dictionary(pa.int32(), pa.string()))],
    ids=str,
)
@pytest.mark.parametrize("options", [{}, {"row_group_size": 1}, {"row_group_size": 4}], ids=str)
def test_lists(write, kind, options):
    array = pa.array(LISTS, pa.list_(pa.string()))
    if pa.types.is_dictionary(kind.value_type):
        array = pa.ListArray.from_arrays(array.offsets, array.values.dictionary_encode(), mask=array.is_null())
    else:
        array = array.cast(kind)
    if pa.types.is_dictionary(kind.value_type) and options:
        # pyarrow can't read dictionaries in lists from several row groups.
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"not a readable Parquet file \(Nested data conversions not implemented"
        ):
            read(write(array, **options), "string", lists=True)
        return
    assert read(write(array, **options), "string", lists=True) == LISTS_READ
    assert read(write(array.slice(1, 4), **options), "string", lists=True) == LISTS_READ[1:5]


def test_lists_of_a_fixed_size(write):
    array = pa.array([[1, 2], [3, None], [4, 5]], pa.list_(pa.int64(), 2))
    assert read(write(array), "int64", lists=True) == [[1, 2], [3, None], [4, 5]]
    assert read(write(array.slice(1)), "int64", lists=True) == [[3, None], [4, 5]]
    with_null = pa.array([[1, 2], None, [4, 5]], pa.list_(pa.int64(), 2))
    # Some versions of pyarrow can't write such lists, and some can't read what others have written.
    try:
        path = write(with_null)
    except pa.ArrowNotImplementedError:
        path = write(pa.array([[1, 2], None, [4, 5]]))
    assert read(path, "int64", lists=True) == [[1, 2], [], [4, 5]]


@pytest.mark.parametrize("row_group_size", [777, 10**6])
def test_lists_over_several_blocks(write, row_group_size):
    rng = random.Random(0)
    rows = [rng.choice([None, [], [i], [i, None, -i]]) for i in range(2 * BLOCK_ROWS + 100)]
    path = write(pa.array(rows, pa.list_(pa.int64())), row_group_size=row_group_size)
    expected = [row or [] for row in rows]
    assert read(path, "int64", lists=True) == expected


def test_many_row_groups_of_one_row_are_read_in_large_blocks(write):
    path = write(pa.array(["x"] * 2000), row_group_size=1)
    assert [len(block["c"]) for block in schema_of("string").raw_dataset(path, training=False)] == [2000]


def test_names_of_columns_are_exact(tmp_path):
    path = tmp_path / "some.parquet"
    pq.write_table(pa.table({"a.b": ["x"], "a": pa.array([{"b": 1}]), "ü": [3]}), path)
    schema = Schema({"a.b": "string_categorical", "ü": "integer_categorical"})
    schema.adapt(path)
    assert [schema.vocabulary(name)[2:] for name in schema.columns] == [["x"], ["3"]]


def test_weights_of_lists(tmp_path):
    path = tmp_path / "some.parquet"
    rows = {"tags": [["a", "b"], None, ["b", None]], "w": [[0.5, 2.0], None, [1.0, None]], "y": [1, 0, 1]}
    pq.write_table(pa.table(rows), path)
    schema = Schema({"tags": Schema.string_categorical(multivalued=True, weights="w")}, label="y")
    schema.adapt(path)
    ((inputs, labels),) = schema.dataset(path, 3)
    expected, _ = schema.training_batch({"tags": [["a", "b"], [], ["b"]], "w": [[0.5, 2], [], [1]], "y": [1, 0, 1]})
    np.testing.assert_array_equal(inputs["ids"], expected["ids"])
    np.testing.assert_array_equal(inputs["values"], expected["values"])
    assert labels.numpy().tolist() == [[1], [0], [1]]


# --- what is wrong


def assert_same_error(path, schema, message, **options):
    with pytest.raises(ValueError, match=message):
        schema.count_values(path, **options)
    with pytest.raises(tf.errors.OpError, match=message):
        list(schema.raw_dataset(path, training=False, **options))


@pytest.mark.parametrize(
    ("array", "dtype", "lists", "problem"),
    [
        (pa.array([1.0]), "string", False, "expected string, found the type double"),
        (pa.array([True]), "string", False, "expected string, found the type bool"),
        (pa.array(["1"]), "int64", False, "expected int64, found the type string"),
        (pa.array(["1"]), "float32", False, "expected float32, found the type string"),
        (pa.array([datetime.datetime(2020, 1, 1)]), "int64", False, "expected int64, found the type timestamp[us]"),
        (pa.array([datetime.date(2020, 1, 1)]), "int64", False, "expected int64, found the type date32[day]"),
        (pa.array([{"a": 1}]), "int64", False, "expected int64, found the type struct<a: int64>"),
        (pa.array([["a"]]), "string", False, "expected string, found the type list<"),
        (pa.array(["a"]), "string", True, "expected lists of string, found the type string"),
        (pa.array([[1.0]]), "string", True, "expected lists of string, found the type list<"),
        (pa.array([[["a"]]]), "string", True, "expected lists of string, found the type list<"),
    ],
    ids=str,
)
def test_columns_of_another_type(write, array, dtype, lists, problem):
    path = write(array)
    assert_same_error(path, schema_of(dtype, lists), re.escape(f"{path}, column 'c': {problem}"))


def test_old_timestamps(write):
    array = pa.array([datetime.datetime(2020, 1, 1)], pa.timestamp("ns"))
    path = write(array, use_deprecated_int96_timestamps=True)
    assert_same_error(path, schema_of("int64"), "column 'c': expected int64, found the type timestamp")


_INT64 = "an integer from -9223372036854775808 to 9223372036854775807"
LATE = BLOCK_ROWS + 5


@pytest.mark.parametrize(
    ("array", "dtype", "problem"),
    [
        (pa.array([1] * LATE + [2**64 - 1], pa.uint64()), "int64", f"expected {_INT64}, received 18446744073709551615"),
        (pa.array([1.0] * LATE + [1.5]), "int64", f"expected {_INT64}, received 1.5"),
        (pa.array([1.0] * LATE + [math.nan]), "int64", f"expected {_INT64}, received nan"),
        (pa.array([1.0] * LATE + [1e19]), "int64", f"expected {_INT64}, received 1e+19"),
        (pa.array([1.0] * LATE + [math.inf]), "float32", "expected a number that is finite as float32, received inf"),
        (pa.array([1.0] * LATE + [-1e39]), "float32", "expected a number that is finite as float32, received -1e+39"),
        (pa.array([b"a"] * LATE + [b"\xff\xfe"]), "string", r"expected UTF-8, received b'\xff\xfe'"),
    ],
    ids=["overflow", "fraction", "NaN", "large float", "infinite", "too large", "not UTF-8"],
)  # fmt: skip
def test_illegal_values(write, array, dtype, problem):
    path = write(array)
    assert_same_error(path, schema_of(dtype), re.escape(f"{path}, row {LATE + 1}, column 'c': {problem}"))
    skipped = SkippedRows()
    assert sum(len(block["c"]) for block in schema_of(dtype).raw_dataset(path, training=False, on_error=skipped)) == LATE
    assert skipped.summary().splitlines()[1:] == [f"{path}, row {LATE + 1}, column 'c': {problem}"]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([7, None, 300, 7], pa.float64()),
        pa.array([7, None, 300, 7], pa.float32()),
        pa.array([decimal.Decimal(7), None, decimal.Decimal(300), decimal.Decimal(7)]),
        pa.array([7, None, 300, 7], pa.uint16()),
        pa.array([7, None, 300, 7], pa.int64()).dictionary_encode(),
    ],
    ids=lambda array: str(array.type),
)
def test_integers_in_other_types(write, array):
    """pandas and databases write integers in these types. As strings, they are the same text as in CSV."""
    path = write(array)
    schema = schema_of("int64")
    schema.adapt(path)
    assert schema.vocabulary("c") == ["[UNSEEN]", "[MISSING]", "7", "300"]
    (block,) = schema.raw_dataset(path, training=False)
    assert block["c"].numpy().tolist() == [7, MISSING_INTEGER, 300, 7]
    if pa.types.is_integer(array.type) or pa.types.is_dictionary(array.type):
        schema = schema_of("string")
        schema.adapt(path)
        assert schema.vocabulary("c") == ["[UNSEEN]", "[MISSING]", "7", "300"]
        (block,) = schema.raw_dataset(path, training=False)
        assert block["c"].numpy().tolist() == [b"7", b"", b"300", b"7"]


def test_large_unsigned_integers_as_text(write):
    path = write(pa.array([2**64 - 1, 0], pa.uint64()))
    schema = schema_of("string")
    schema.adapt(path)
    assert sorted(schema.vocabulary("c")[2:]) == ["0", str(2**64 - 1)]


def test_illegal_values_in_lists(write):
    array = pa.array([[b"a", b"b"], None, [], [b"c"], [b"d", b"\xff"], [b"e"]])
    path = write(array)
    message = r"row 5, column 'c': expected UTF-8, received b'\\xff'"
    assert_same_error(path, schema_of("string", True), message)
    skipped = SkippedRows()
    (block,) = schema_of("string", True).raw_dataset(path, training=False, on_error=skipped)
    assert block["c"].to_list() == [[b"a", b"b"], [], [], [b"c"], [b"e"]]
    assert skipped.per_file == {str(path): 1}


def test_missing_and_repeated_columns(tmp_path):
    path = tmp_path / "some.parquet"
    pq.write_table(pa.table([pa.array(["a"]), pa.array(["b"]), pa.array(["d"])], names=["b", "d", "d"]), path)
    message = r"some\.parquet: expected one column 'c', found 0 among \['b', 'd', 'd'\]"
    assert_same_error(path, schema_of("string"), message)
    assert_same_error(path, Schema({"d": "string_categorical"}), "expected one column 'd', found 2 among")


def test_empty_files(write):
    path = write(pa.array([], pa.string()))
    assert_same_error(path, schema_of("string"), f"^.*{re.escape(str(path))}: expected at least one row, found none")


@pytest.mark.parametrize("damage", ["empty", "text", "cut off", "head", "contents"])
def test_damaged_files(write, damage):
    path = write(pa.array([str(number) for number in range(5000)]), compression="snappy")
    whole = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"a,b\n1,2\n",
            "cut off": whole[:-100],
            "head": whole[100:],
            "contents": whole[:200] + bytes(2000) + whole[2200:],
        }[damage]
    )
    assert_same_error(path, schema_of("string"), rf"{re.escape(str(path))}: not a readable Parquet file \(")


def test_a_file_that_disappears(write):
    path = write(pa.array(["a"]))
    dataset = schema_of("string").raw_dataset(path, training=False)
    path.unlink()
    with pytest.raises(tf.errors.OpError, match=r"some\.parquet"):
        list(dataset)
