"""Criteo: clicks on display advertisements, from the Display Advertising Challenge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from keras_rafm.data.columns.column import Column
from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.known.recipe import Recipe
from keras_rafm.data.known.rows import malformed
from keras_rafm.data.known.sources import Layout, Source
from keras_rafm.data.known.splits import SplitWriter, filled_lines, num_filled_lines, write_in_time_order
from keras_rafm.data.schema import Schema

_INTEGERS = tuple(f"I{number}" for number in range(1, 14))
_CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
_COLUMNS = ("label", *_INTEGERS, *_CATEGORIES)
_DAYS = (12, 1, 1)  # half days of each split: six days, then the two halves of the seventh


def _schema(min_count: int) -> Schema:
    integer: Column = Schema.float_discretized(binning="log", missing="category")
    # With `min_count=1`, training would never update a feature of unseen values.
    category: Column = Schema.string_categorical(min_count=min_count, num_oov_indices=int(min_count > 1))
    return Schema({**dict.fromkeys(_INTEGERS, integer), **dict.fromkeys(_CATEGORIES, category)}, label="label")


def _write(writer: SplitWriter, sources: Mapping[str, Source], _: int) -> None:
    source = sources["train.txt"]
    write_in_time_order(writer, _rows(source), num_filled_lines(source), _DAYS)


def _rows(source: Source) -> Iterator[bytes]:
    """Yield the lines of the file, after checking the first one. Readers check the others."""
    lines = filled_lines(source)
    for line in lines:
        label, *others = line.split(b"\t")
        if len(others) + 1 != len(_COLUMNS) or label not in (b"0", b"1"):
            expected = f"a label that is 0 or 1 and {len(_COLUMNS) - 1} fields separated by '\\t', and no header"
            raise malformed(source, 1, expected, line.decode("latin-1"))
        yield line
        break
    yield from lines


CRITEO = Recipe(
    layout=Layout("criteo", (("train.txt", "train_examples.txt"),), ("dac", "criteo"), "dac.tar.gz"),
    description="45,840,617 display advertisements of seven days, clicked or not; 13 integers and 26 hashed categories",
    citation="Criteo Labs. 2014. Display Advertising Challenge. https://www.kaggle.com/c/criteo-display-ad-challenge",
    licence="Criteo's terms, which a person must accept: not for commercial use, not to be redistributed",
    page="https://www.kaggle.com/c/criteo-display-ad-challenge or https://ailab.criteo.com/ressources/",
    source="a person must accept its terms",
    file_format=CSVFormat(delimiter="\t", quote=None, column_names=_COLUMNS),
    suffix=".tsv",
    write=_write,
    schema=_schema,
    min_count=10,
    draws_split=False,
)
