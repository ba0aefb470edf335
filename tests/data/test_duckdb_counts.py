"""Counting by DuckDB: exactly what comes of reading the same files with this package's readers, or an error."""

import gzip
import os
import random
import tempfile

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from keras_rafm.data import CSVFormat, Schema
from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.counting import duckdb as duckdb_counts
from keras_rafm.data.counting import duckdb_text
from keras_rafm.data.counting.duckdb import DuckDBCountError, count_files_with_duckdb
from keras_rafm.data.formats.csv_grammar import CSVDialect
from keras_rafm.data.formats.csv_parser import csv_blocks
from keras_rafm.data.formats.parquet import parquet_blocks
from keras_rafm.data.raw.blocks import ListValues, Strings

pytestmark = pytest.mark.one_tensorflow

CSV = CSVDialect()
MIXED = Schema(
    {
        "s": Schema.string_categorical(),
        "i": Schema.integer_categorical(),
        "x": Schema.float_discretized(num_bins=4),
        "tags": Schema.string_categorical(separator="|", weight_separator=":"),
    }
)
TEXT = Schema({"s": "string_categorical"})


def read(schema, paths, file_format):
    """The rows of files by this package's readers, as plain arrays."""
    columns = schema.raw_columns(training=False)
    rows = {column.name: [] for column in columns}
    for path in paths:
        blocks = parquet_blocks(path, columns)
        if file_format != "parquet":
            blocks = csv_blocks(path, file_format, columns, block_bytes=1 << 16)
        for _, block in blocks:
            for name, own in block.items():
                values = as_list(own.values if isinstance(own, ListValues) else own)
                if isinstance(own, ListValues):
                    ends = np.cumsum(own.row_lengths)
                    values = [values[end - n : end] for end, n in zip(ends, own.row_lengths, strict=True)]
                rows[name].extend(values)
    return {c.name: rows[c.name] if c.is_list else as_array(rows[c.name], c.dtype) for c in columns}


def as_list(values):
    if not isinstance(values, Strings):
        return values.tolist()
    return [values.text[s : s + n] for s, n in zip(values.starts, values.lengths, strict=True)]


def as_array(values, dtype):
    return np.array(values, object if dtype == "string" else dtype)


def check(schema, paths, file_format, **options):
    """DuckDB's counts equal those of the package itself."""
    rows = read(schema, paths, file_format)
    expected = schema.count_values(rows)
    for name, column in schema.columns.items():
        if column.dtype == "float32":  # TensorFlow takes numbers below 1.2e-38 for 0.
            known = rows[name][~np.isnan(rows[name])]
            expected[name] = ValueCounts.of("float32", *np.unique(known, return_counts=True), rows[name].size - known.size)
    counted = count_files_with_duckdb(schema.columns, paths, file_format, **options)
    assert list(counted) == list(expected)
    for name, own in counted.items():
        check_equal(own, expected[name])
    return counted


def check_equal(own: ValueCounts, expected: ValueCounts):
    assert (own.values.dtype, own.counts.dtype) == (expected.values.dtype, expected.counts.dtype)
    assert own.values.tolist() == expected.values.tolist()
    assert own.counts.tolist() == expected.counts.tolist()
    assert own.num_missing == expected.num_missing
    assert type(own.num_missing) is int
    if own.values.dtype == np.float32:
        assert not np.signbit(own.values[own.values == 0]).any()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder for files, with the temporary directory inside of it, which has to be empty at the end."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    yield tmp_path
    assert not list(temporary.iterdir())


@pytest.fixture
def written(folder):
    """Writes bytes to a new file."""
    numbers = iter(range(10_000))

    def write(content, name=None):
        path = folder / (name or f"rows{next(numbers)}.csv")
        path.write_bytes(content)
        return str(path)

    return write


def parquet_file(folder, name="rows.parquet", **columns):
    path = str(folder / name)
    pq.write_table(pa.table(columns), path, row_group_size=7)
    return path


# Text.


@pytest.mark.parametrize(
    "content",
    [
        b"s\na\nb\na\n",
        b"s\na",
        b"s\r\na\r\nb\r\n",
        b"s\r\na\r\nb",
        b"\xef\xbb\xbfs\na\n",
        b'\xef\xbb\xbf"s"\na\n',
        b"s\na\n\n\nb\n\n",
        b"s\r\na\r\n\r\nb\r\n",
        b's\n""\n"a"\n""""\n""""""\n',
        b's\n"a\nb"\n"\n"\n"\n\n"\nc\n',
        b's\r\n"a\r\nb"\r\n"\r\n"\r\nc\r\n',
        b's\n"a\r\nb"\n',
        b's\n"x,y"\n"a""b"\n',
        b"s\n a \n  \n\t\n",
        b"s\nNULL\nnan\n\\N\n#\n'\n\\\n",
        b"s\na\0b\n\0\n",
        "s\nå\n日本\n\u2028\n\ufeff\n".encode(),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_one_column(written, content, packed):
    check(TEXT, [written(gzip.compress(content) if packed else content)], CSV)


@pytest.mark.parametrize(
    "content",
    [
        b"s,t\na,b\n\nc,d\n",
        b"\xef\xbb\xbft,s\na,b\n",
        b's,t\n"a\nb","c\n\nd"\ne,"\n"\n"",""\n',
        b"s,t\n,\na,\n,b\n",
        b'"s","t"\r\n"a","b"\r\n\r\n"c"",","d"',
        b'"s,",s\na,b\n',
    ],
)
def test_several_columns(written, content):
    check(TEXT, [written(content)], CSV)


@pytest.mark.parametrize(
    "content",
    [
        b"s,t\na,b,c\n",
        b"s,t\na\n",
        b"s,t\na,b,\n",
        b's,t\na,"b",\n',
        b"s,t,\na,b\n",
        b's,t\na,"b\n',
        b's,t\na,"b"c\n',
        b's,t\na,b"c\n',
        b's,t\na,b""c\n',
        b's,t\na, "b"\n',
        b's,t\na,"b" \n',
        b's,t\n"a" "b",c\n',
        b"s,t\na,\xff\n",
        b"s,t\n",
        b"",
        b"\n",
    ],
)
def test_malformed_text(written, content):
    path = written(content)
    with pytest.raises(ValueError, match=r"rows\d+\.csv"):
        read(TEXT, [path], CSV)
    with pytest.raises(DuckDBCountError, match=r"rows\d+\.csv"):
        count_files_with_duckdb(TEXT.columns, [path], CSV)


@pytest.mark.parametrize(
    "content",
    [
        b"s,t\na\rb,c\n",
        b"s,t\na,b\r\r\n",
        b"s,t\r\na,b\nc,d\r\n",
        b"s,t\na,b\r\n",
        b"\n\ns,t\na,b\n",
        b'"s","t\nu"\na,b\n',
        b"s,t\n" + b"a" * 3_000_000 + b",b\n",
    ],
)
def test_legal_text_that_duckdb_reads_differently(written, content):
    path = written(content)
    read(TEXT, [path], CSV)
    with pytest.raises(DuckDBCountError, match=r"rows\d+\.csv"):
        count_files_with_duckdb(TEXT.columns, [path], CSV)


PLAIN_FIELDS = ["", "a", " ", "b c", "7", "#", "\\", "y"]
FORMATS = [
    CSVDialect(),
    CSVDialect("\t"),
    CSVDialect(";", "'"),
    CSVDialect("|", None),
    CSVDialect(",", None),
    CSVDialect(" "),
    CSVDialect("\x01", None),
    CSVDialect(":", column_names=("s", "t")),
    CSVDialect("a", "b"),
    CSVDialect("\\", "'"),
    CSVDialect("#", "\\"),
    CSVDialect(",", " "),
    CSVDialect(missing_values=("a", "b c", "x")),
    CSVDialect("\t", None, missing_values=("y", "\\", "'")),
    CSVDialect("\0"),
    CSVDialect(",", "\0"),
]


def test_numbers_as_marks_of_missing_values(written):
    """DuckDB would not see them with spaces around."""
    path = written(b"i\n -1 \n-1\n5\n")
    schema, marked = Schema({"i": "integer_categorical"}), CSVFormat(missing_values=("-1",))
    with pytest.raises(DuckDBCountError, match="'-1' with spaces around it"):
        count_files_with_duckdb(schema.columns, [path], marked)
    schema.adapt(path, file_format=marked)
    assert (schema.vocabulary("i"), schema.counts.tolist()) == (["[UNSEEN]", "[MISSING]", "5"], [0, 2, 1])


@pytest.mark.parametrize("file_format", FORMATS, ids=repr)
def test_any_text_is_counted_alike_or_not_at_all(written, file_format):
    draw = random.Random(FORMATS.index(file_format))
    delimiter, quote = file_format.delimiter, file_format.quote or '"'
    counted = 0
    for _ in range(40):
        end = draw.choice(["\n", "\n", "\r\n"])
        head = "" if file_format.column_names else f"s{delimiter}t{end}"
        if draw.random() < 0.5:  # Mostly legal.
            fields = [field for field in PLAIN_FIELDS if delimiter not in field and quote not in field]
            fields += [quote * 2, quote + delimiter + end + quote, f"{quote}x{quote * 2}{quote}"]
            rows = [draw.choice(fields) + delimiter + draw.choice(fields) + end for _ in range(6)]
            text = "".join(rows + [end] * draw.randrange(2))
        else:
            text = "".join(draw.choices([delimiter, delimiter, quote, end, "x", " ", "\\", "#", "\r", "\0"], k=12))
        path = written((head + text).encode())
        try:
            expected = TEXT.count_values(read(TEXT, [path], file_format))
        except ValueError:
            with pytest.raises(ValueError, match=r"."):
                count_files_with_duckdb(TEXT.columns, [path], file_format)
            continue
        try:
            found = count_files_with_duckdb(TEXT.columns, [path], file_format)
        except DuckDBCountError:
            continue
        check_equal(found["s"], expected["s"])
        counted += 1
    assert counted >= (0 if "\0" in (delimiter, quote) or quote == " " else 8)


def test_long_text_with_line_ends_in_quotes(written):
    draw = random.Random(3)
    fields = ["".join(draw.choices(["1,2\n", "\n", "x,y\n", '""', "z"], k=draw.choice([1, 2, 400]))) for _ in range(40_000)]
    path = written(b"s,t\n" + "".join(f'"{field}",{i}\n' for i, field in enumerate(fields)).encode())
    assert os.path.getsize(path) > 10_000_000
    found = count_files_with_duckdb(TEXT.columns, [path], CSV, threads=2)["s"]
    assert found.total + found.num_missing == len(fields)
    assert set(found.values) == {field.replace('""', '"').encode() for field in fields} - {b""}


INTEGERS = [
    "0",
    "7",
    "+7",
    "-7",
    "007",
    " 5 ",
    "-0",
    "9223372036854775807",
    "-9223372036854775807",
    "",
    "  ",
    "0" * 30 + "3",
]
NUMBERS = ["0", "-0", "1.5", "+1.5", ".5", "5.", "1e3", "-1E-3", " 2 ", "", " ", "1e-46", "3.4028235e38", "0.1", "16777217"]
NUMBERS += ["1e-400", "0." + "0" * 50 + "1", "123456789012345678901234567890", "3.40282356e38", "+.5e+3"]


def test_numbers_in_text(written):
    rows = "".join(
        f"{i},{x}\n" for i, x in zip(INTEGERS * 2, NUMBERS + NUMBERS[: len(INTEGERS) * 2 - len(NUMBERS)], strict=True)
    )
    check(Schema({"i": "integer_categorical", "x": "float"}), [written(b"i,x\n" + rows.encode())], CSV)


def test_random_numbers_in_text(written):
    draw = np.random.default_rng(5)
    numbers = draw.normal(size=3000) * 10.0 ** draw.integers(-45, 39, 3000)
    numbers = numbers[np.abs(numbers) < 3.4e38]
    check(Schema({"x": "float"}), [written(b"x\n" + "\n".join(map(repr, numbers.tolist())).encode())], CSV)


@pytest.mark.parametrize("column", ["i", "x"])
@pytest.mark.parametrize(
    "text",
    [
        "a",
        "1_000",
        "1e3",
        "1.5",
        "0x10",
        "--1",
        "+-1",
        "1 2",
        "\t1",
        "1,5",
        "inf",
        "nan",
        "-",
        "+",
        "e5",
        ".",
        "1e",
        "1e400",
        "9223372036854775808",
        "-9223372036854775808",
        "3.5e38",
        "true",
        "٣",
        "1\n",
        "$1",
    ],
)
def test_what_is_no_number(written, column, text):
    path = written(f'{column}\n"{text}"\n1\n'.encode())
    schema = Schema({column: "integer_categorical" if column == "i" else "float"})
    try:
        read(schema, [path], CSV)
    except ValueError:
        with pytest.raises(DuckDBCountError, match=r"rows\d+\.csv"):
            count_files_with_duckdb(schema.columns, [path], CSV)
    else:
        check(schema, [path], CSV)


def test_separators_in_text(written):
    tags = ["jazz|folk", "jazz:0.5|folk:2", "", "|", "||a||", ":1", "a:b:3|:2", "a:1e-3", "|:.5|", "x y: +1"[:3], "a::1"]
    rows = "".join(f"{tag}\n" for tag in tags)
    schema = Schema({"tags": Schema.string_hashed(8, separator="|", weight_separator=":")})
    check(schema, [written(b"tags\n" + rows.encode())], CSVDialect(column_names=None))
    for separator, weight_separator in [
        ("|", None),
        (", ", None),
        ("aa", None),
        ("|", "z"),
        ("|", "\\"),
        ("|", "·"),
        ("'", '"'),
    ]:
        schema = Schema({"tags": Schema.string_categorical(separator=separator, weight_separator=weight_separator)})
        tags = [f"x{separator}y", "xaaaay", separator, "é", f"{separator}é{separator * 2}"]
        tags += (
            [] if weight_separator is None else [f"v{weight_separator}2{separator}v{weight_separator}{weight_separator}0.5"]
        )
        content = b"tags\n" + "\n".join(tags).encode()
        check(schema, [written(content)], CSVDialect(delimiter="\t", quote=None))


@pytest.mark.parametrize("tag", ["a:", "a:x", "a|b:1_0", "a:inf", "a:1e999", ":"])
def test_weights_that_are_no_numbers(written, tag):
    schema = Schema({"tags": Schema.string_categorical(separator="|", weight_separator=":")})
    with pytest.raises(DuckDBCountError, match="weights must be finite numbers"):
        count_files_with_duckdb(schema.columns, [written(f"tags\nok:1\n{tag}\n".encode())], CSV)


def test_lists_of_files_whose_columns_differ_in_order(written):
    paths = [
        written(b"s,i,x,tags\na,1,0.5,p|q\n"),
        written(b'tags,extra,x,i,s\n"p:2|r",?,,2,a\n'),
        written(gzip.compress(b"s,i,x,tags\r\nb,1,0.5,p\r\n", mtime=0)),
        written(gzip.compress(b"s,i,x,tags\nb,1,", mtime=0) + gzip.compress(b"0.5,\n", mtime=0), "no gzip in this name"),
    ]
    counted = check(MIXED, paths, CSV)
    assert counted["s"].values.tolist() == [b"a", b"b"]
    assert counted["tags"].values.tolist() == [b"p", b"q", b"r"]
    assert (counted["tags"].num_missing, counted["x"].num_missing) == (1, 1)


@pytest.mark.parametrize("name", ["a[b].csv", "a*.csv", "a?.csv", "it's {x}.csv", "x.parquet", "day=1,é.tsv", "a.csv.gz"])
def test_names_of_files_mean_nothing(written, name):
    written(b"s\nwrong\n", "ab.csv")
    check(TEXT, [written(b"s\na\n", name)], CSV)


@pytest.mark.parametrize("damage", ["cut 1", "cut 9", "cut half", "checksum", "garbage"])
def test_damaged_gzip(written, damage):
    rows = random.Random(0).randbytes(30_000).hex()
    packed = gzip.compress(b"s\n" + "\n".join(rows[i : i + 6] for i in range(0, len(rows), 6)).encode())
    damaged = {
        "cut 1": packed[:-1],
        "cut 9": packed[:-9],
        "cut half": packed[: len(packed) // 2],
        "checksum": packed[:-6] + bytes([packed[-6] ^ 1]) + packed[-5:],
        "garbage": packed + b"garbage",
    }[damage]
    with pytest.raises(DuckDBCountError, match=r"rows\d+\.csv: damaged or truncated gzip"):
        count_files_with_duckdb(TEXT.columns, [written(packed), written(damaged)], CSV)


# Parquet.


def test_parquet_of_every_type(folder):
    strings = ["a", "", None, "å", "a\0b", "a", " a", "b\n"]
    columns: dict = {
        "s": pa.array(strings),
        "b": pa.array([None if s is None else s.encode() for s in strings], pa.binary()),
    }
    columns["d"] = pa.array(strings).dictionary_encode()
    columns["l"] = pa.array(strings, pa.large_string())
    small = [1, 0, None, 1, 100, 7, 0, 1]
    integers = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    columns |= {name: pa.array(small, name) for name in integers}
    columns["bool"] = pa.array([True, False, None] * 2 + [True, True])
    columns["int64"] = pa.array([-(2**63), 2**63 - 1, None, -1, -(2**63), 2**62 + 1, 0, 0])
    columns["half"] = pa.array(np.array([0.1, -0.0, 0.0, np.nan, 1, 2, 2, 6e4], np.float16))
    columns["float"] = pa.array([0.1, -0.0, 0.0, np.nan, None, 1e-45, 0.1, 3e38], pa.float32())
    columns["double"] = pa.array([0.1, -0.0, 0.0, np.nan, None, 1e-46, 0.1 + 1e-12, 3.40282356e38])
    path = parquet_file(folder, **columns)
    schema = Schema(
        dict.fromkeys("sbdl", "string_categorical")
        | dict.fromkeys([*integers, "bool"], "integer_categorical")
        | dict.fromkeys(["half", "float", "double"], "float")
    )
    check(schema, [path], "parquet")
    check(Schema(dict.fromkeys([*integers, "bool"], "float")), [path, path], "parquet")


def test_doubles_are_rounded_as_by_numpy(folder):
    draw = np.random.default_rng(1)
    doubles = draw.normal(size=20_000) * 10.0 ** draw.integers(-50, 38, 20_000)
    halves = (draw.integers(0, 2**31 - 2**24, 20_000).astype(np.uint32).view(np.float32)).astype(np.float64)
    halfway = (halves + np.nextafter(halves.astype(np.float32), np.float32(np.inf)).astype(np.float64)) / 2
    big = draw.integers(-(2**63), 2**63 - 1, 40_000, np.int64)
    both = np.concatenate([doubles, halfway[np.isfinite(halfway) & (halfway < 3.4e38)]])
    path = parquet_file(folder, x=np.resize(both, 40_000), i=big)
    check(Schema({"x": "float", "i": "float"}), [path], "parquet")


def test_parquet_lists(folder):
    path = parquet_file(
        folder,
        words=pa.array([["a", "b", "a"], [], None, ["", None], ["a", ""], ["c"]]),
        ids=pa.array([[1, 2], [], None, [None], [-5, None], [3]], pa.list_(pa.int32())),
        weighted=pa.array([["a", "b"], [], None, ["a"], ["b", "c"], ["c"]], pa.large_list(pa.string())),
        w=pa.array([[1.0, 2.0], [], None, [0.0], [-1.0, 1.0], [3.0]]),
    )
    schema = Schema(
        {
            "words": Schema.string_categorical(multivalued=True),
            "ids": Schema.integer_identity(9, multivalued=True),
            "weighted": Schema.string_hashed(4, multivalued=True, weights="w"),
        }
    )
    counted = check(schema, [path, path], "parquet")
    assert counted["words"].num_missing == 6
    separated = Schema({"words": Schema.string_categorical(separator="|", weight_separator=":")})
    check(separated, [parquet_file(folder, "tags.parquet", words=pa.array(["a:2|b", None, "", "|", ":3", "a"]))], "parquet")


@pytest.mark.parametrize("weights", [[[1.0], [1.0]], [None, [1.0]], [[1.0, None], [1.0]], [[1.0, np.inf], [1.0]]])
def test_weights_that_do_not_fit(folder, weights):
    path = parquet_file(folder, v=pa.array([["a", "b"], ["a"]]), w=pa.array(weights))
    schema = Schema({"v": Schema.string_categorical(multivalued=True, weights="w")})
    with pytest.raises(DuckDBCountError, match="column 'w' must have one finite weight for each value of column 'v'"):
        count_files_with_duckdb(schema.columns, [path], "parquet")


def test_parquet_files_of_different_types(folder):
    paths = [
        parquet_file(folder, "0.parquet", i=pa.array([1, 2], pa.int8()), x=pa.array([1, 2], pa.int8())),
        parquet_file(folder, "1.parquet", x=pa.array([0.5, 2.0]), other=pa.array([1, 2]), i=pa.array([2**40, 2])),
        parquet_file(folder, "2.parquet", i=pa.array([None, 1], pa.uint64()), x=pa.array([0.5, None], pa.float32())),
    ]
    counted = check(Schema({"i": "integer_categorical", "x": "float"}), paths, "parquet")
    assert counted["i"].values.tolist() == [1, 2, 2**40]
    assert counted["x"].values.tolist() == [0.5, 2.0, 1.0]


@pytest.mark.parametrize(
    "name", ["filename", "file_row_number", "rowid", 'a"b', "a'b", "a.b", "v", "n", "x", "select", "é", "*"]
)
def test_names_of_columns_mean_nothing(folder, written, name):
    schema = Schema({name: "string_categorical"})
    check(schema, [parquet_file(folder, **{name: pa.array(["a", "b", "a"])})], "parquet")
    quoted = name.replace('"', '""')
    check(schema, [written(f'"{quoted}",other\na,b\n'.encode())], CSV)


def test_folders_named_like_partitions_mean_nothing(folder):
    own = folder / "s=9" / "x[1]"
    own.mkdir(parents=True)
    check(TEXT, [parquet_file(own, s=pa.array(["a"]))], "parquet")


def test_columns_that_differ_in_case(folder, written):
    check(Schema({"A": "string_categorical", "a": "string_categorical"}), [written(b"a,A\n1,2\n")], CSV)
    with pytest.raises(DuckDBCountError, match="DuckDB cannot tell columns apart that differ in case, as 'a'"):
        count_files_with_duckdb(
            {"a": TEXT.columns["s"]}, [parquet_file(folder, a=pa.array(["x"]), A=pa.array(["y"]))], "parquet"
        )
    with pytest.raises(DuckDBCountError, match="expected a column 's' among"):
        count_files_with_duckdb(TEXT.columns, [parquet_file(folder, S=pa.array(["x"]))], "parquet")


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([1, 2]), "string_categorical"),
        (pa.array([1.0]), "integer_categorical"),
        (pa.array(["1"]), "integer_categorical"),
        (pa.array(["1"]), "float"),
        (pa.array([["a"]]), "string_categorical"),
        (pa.array([1, 2], pa.timestamp("us")), "integer_categorical"),
        (pa.array([1], pa.decimal128(5)), "float"),
        (pa.array([{"a": 1}]), "float"),
        (pa.array([2**63], pa.uint64()), "integer_categorical"),
        (pa.array([b"\xff"], pa.binary()), "string_categorical"),
        (pa.array([np.inf]), "float"),
        (pa.array([1e39]), "float"),
        (pa.array([-np.inf], pa.float32()), "float"),
        (pa.array([], pa.string()), "string_categorical"),
    ],
)
def test_parquet_columns_of_other_types(folder, column, kind):
    with pytest.raises(DuckDBCountError, match=r"rows\.parquet|column 'c'"):
        count_files_with_duckdb(Schema({"c": kind}).columns, [parquet_file(folder, c=column)], "parquet")


def test_damaged_parquet(folder, written):
    path = parquet_file(folder, s=pa.array([str(i) for i in range(1000)]))
    with open(path, "rb") as file:
        content = file.read()
    with pytest.raises(DuckDBCountError, match=r"cut\.parquet: not a readable Parquet file"):
        count_files_with_duckdb(TEXT.columns, [path, written(content[:-20], "cut.parquet")], "parquet")
    with pytest.raises(DuckDBCountError, match=r"DuckDB could not count .*holed\.parquet"):
        count_files_with_duckdb(
            TEXT.columns, [written(content[:40] + b"\xff" * 200 + content[240:], "holed.parquet")], "parquet"
        )


# Whatever the files.


def test_more_than_the_memory(folder):
    number = 2_000_000
    values = pa.array(np.random.default_rng(0).permutation(number) + number)
    path = str(folder / "rows.parquet")
    pq.write_table(pa.table({"s": values.cast(pa.string())}), path, row_group_size=50_000)
    limit = "120MB" if int(duckdb.__version__.split(".")[0]) >= 2 else "300MB"  # Before 2.0, it needs more to spill at all.
    counted = count_files_with_duckdb(TEXT.columns, [path], "parquet", memory_limit=limit, threads=2)["s"]
    assert counted.counts.size == number
    assert counted.total == number
    assert counted.values[[0, 1, -1]].tolist() == [b"2000000", b"2000001", b"3999999"]
    with pytest.raises(DuckDBCountError, match="Out of Memory"):
        count_files_with_duckdb(TEXT.columns, [path], "parquet", memory_limit="1MB", threads=2)


def test_progress(folder, written):
    steps: list = []
    count_files_with_duckdb(
        MIXED.columns, [written(b"s,i,x,tags\na,1,2,3\n")], CSV, progress=lambda *own: steps.append(own)
    )
    assert steps == [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    steps.clear()
    path = parquet_file(folder, s=pa.array(["a"]))
    count_files_with_duckdb(TEXT.columns, [path], "parquet", progress=lambda *own: steps.append(own))
    assert steps == [(1, 1)]


def test_adapt_takes_it(written):
    path = written(b"s,i,x,tags\na,1,0.5,p|q\nb,2,1.5,\na,1,,q\n")
    schema = Schema(MIXED.columns)
    schema.adapt(count_files_with_duckdb(schema.columns, [path], CSV))
    assert schema.vocabulary("s") == ["[UNSEEN]", "[MISSING]", "a", "b"]
    assert schema.vocabulary("tags") == ["[UNSEEN]", "[MISSING]", "q", "p"]


@pytest.mark.parametrize("quote", ['"', "'", None])
def test_blocks_make_no_difference(written, monkeypatch, quote):
    monkeypatch.setattr(duckdb_text, "_BLOCK_BYTES", 8)
    monkeypatch.setattr(duckdb_counts, "_ROWS_AT_ONCE", 2)
    file_format = CSVDialect(quote=quote, column_names=("s", "t"))
    marked = "'" if quote is None else quote
    text = f"a,b\n\n{marked}long\n\ntext{marked * 2}\nof lines{marked},b\n\nc,{marked}{marked}\n"
    if quote is None:
        text = "a,b\n\nc'd',\"\n\n\ne,f\n"
    check(TEXT, [written(text.encode())], file_format)


def test_files_that_are_not_there(written):
    with pytest.raises(FileNotFoundError, match=r"file not found: nowhere\.csv"):
        count_files_with_duckdb(TEXT.columns, [written(b"s\na\n"), "nowhere.csv"], CSV)
    with pytest.raises(ValueError, match=r"at least one file\. Received: \[\]"):
        count_files_with_duckdb(TEXT.columns, [], CSV)
    with pytest.raises(DuckDBCountError, match=r"s3://bucket/a\.csv: DuckDB counts local files only"):
        count_files_with_duckdb(TEXT.columns, ["s3://bucket/a.csv"], CSV)


def test_columns_that_are_not_there(written):
    with pytest.raises(ValueError, match="expected a column 's', the first row has 't'"):
        count_files_with_duckdb(TEXT.columns, [written(b"t\na\n")], CSV)
    with pytest.raises(ValueError, match="expected one column 's', the first row has 2 of that name"):
        count_files_with_duckdb(TEXT.columns, [written(b"s,s\na,b\n")], CSV)
    schema = Schema({"s": Schema.string_categorical(multivalued=True)})
    with pytest.raises(DuckDBCountError, match="text has no lists"):
        count_files_with_duckdb(schema.columns, [written(b"s\na\n")], CSV)


def test_without_duckdb(written, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(ImportError, match=r"pip install 'keras_rafm\[data\]'"):
        count_files_with_duckdb(TEXT.columns, [written(b"s\na\n")], CSV)
