"""Counting of text by DuckDB: exactly the counts of this package's readers, or an error."""

import gzip
import os
import random

import numpy as np
import pytest
from duckdb_checks import CSV, MIXED, TEXT, check, check_equal, read

from keras_rafm.data import CSVFormat, Schema
from keras_rafm.data.counting import duckdb as duckdb_counts
from keras_rafm.data.counting import duckdb_text
from keras_rafm.data.counting.duckdb import DuckDBCountError, count_files_with_duckdb
from keras_rafm.data.formats.csv_grammar import CSVDialect

pytestmark = pytest.mark.one_tensorflow


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


def test_numbers_as_missing_values(written):
    """With spaces around them, DuckDB would not recognise these missing values."""
    path = written(b"i\n -1 \n-1\n5\n")
    schema, marked = Schema({"i": "integer_categorical"}), CSVFormat(missing_values=("-1",))
    with pytest.raises(DuckDBCountError, match="'-1' with spaces around it"):
        count_files_with_duckdb(schema.columns, [path], marked)
    schema.adapt(path, file_format=marked)
    assert (schema.vocabulary("i"), schema.counts.tolist()) == (["[UNSEEN]", "[MISSING]", "5"], [0, 2, 1])


@pytest.mark.parametrize("file_format", FORMATS, ids=repr)
def test_random_text_is_counted_equally_or_refused(written, file_format):
    draw = random.Random(FORMATS.index(file_format))
    delimiter, quote = file_format.delimiter, file_format.quote or '"'
    counted = 0
    for _ in range(40):
        end = draw.choice(["\n", "\n", "\r\n"])
        head = "" if file_format.column_names else f"s{delimiter}t{end}"
        if draw.random() < 0.5:  # These rows are mostly legal.
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
            counts = count_files_with_duckdb(TEXT.columns, [path], file_format)
        except DuckDBCountError:
            continue
        check_equal(counts["s"], expected["s"])
        counted += 1
    assert counted >= (0 if "\0" in (delimiter, quote) or quote == " " else 8)


def test_long_text_with_line_ends_in_quotes(written):
    draw = random.Random(3)
    fields = ["".join(draw.choices(["1,2\n", "\n", "x,y\n", '""', "z"], k=draw.choice([1, 2, 400]))) for _ in range(40_000)]
    path = written(b"s,t\n" + "".join(f'"{field}",{i}\n' for i, field in enumerate(fields)).encode())
    assert os.path.getsize(path) > 10_000_000
    counts = count_files_with_duckdb(TEXT.columns, [path], CSV, threads=2)["s"]
    assert counts.total + counts.num_missing == len(fields)
    assert set(counts.values) == {field.replace('""', '"').encode() for field in fields} - {b""}


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
def test_text_that_is_not_a_number(written, column, text):
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
def test_weights_that_are_not_numbers(written, tag):
    schema = Schema({"tags": Schema.string_categorical(separator="|", weight_separator=":")})
    with pytest.raises(DuckDBCountError, match="weights must be finite numbers"):
        count_files_with_duckdb(schema.columns, [written(f"tags\nok:1\n{tag}\n".encode())], CSV)


def test_files_with_different_orders_of_columns(written):
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
def test_file_names_have_no_special_meaning(written, name):
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


@pytest.mark.parametrize("quote", ['"', "'", None])
def test_block_sizes_do_not_affect_the_counts(written, monkeypatch, quote):
    monkeypatch.setattr(duckdb_text, "_BLOCK_BYTES", 8)
    monkeypatch.setattr(duckdb_counts, "_ROWS_AT_ONCE", 2)
    file_format = CSVDialect(quote=quote, column_names=("s", "t"))
    marked = "'" if quote is None else quote
    text = f"a,b\n\n{marked}long\n\ntext{marked * 2}\nof lines{marked},b\n\nc,{marked}{marked}\n"
    if quote is None:
        text = "a,b\n\nc'd',\"\n\n\ne,f\n"
    check(TEXT, [written(text.encode())], file_format)
