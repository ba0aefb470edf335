"""Counting of the values of each column by Apache Beam: on a Flink or Spark cluster, or on Dataflow.

```python
with beam.Pipeline() as pipeline:
    rows = pipeline | beam.io.ReadFromParquet("gs://bucket/train/*.parquet")
    rows | CountValues(schema) | WriteCounts("gs://bucket/counts/train")
schema.adapt(read_counts("gs://bucket/counts/train*", schema))
```

Workers receive the code that they run. It needs NumPy alone: neither TensorFlow nor this package must be installed there.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from keras_rafm.checks.optional_packages import imported
from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.raw.columns import MISSING_INTEGER, RawDType
from keras_rafm.data.raw.numbers import NUMBER_PATTERN
from keras_rafm.data.schema import Schema

beam = imported("apache_beam", "beam")
_PTransform: Any = beam.PTransform

__all__ = ["CountValues", "WriteCounts", "read_counts"]

_SUFFIX = ".jsonl.gz"
_SHARD = re.compile(r"^(.*)-([0-9]{5,})-of-([0-9]{5,})(\..*)?$", re.DOTALL)


class DeclaredColumn(NamedTuple):
    """The properties of a column that workers need."""

    name: str
    dtype: RawDType
    is_list: bool
    separator: str | None
    weight_separator: str | None
    weights: str | None


class CountValues(_PTransform):
    """Counts the values of all columns of a schema in raw rows, as `Schema.count_values` does.

    The input is a `PCollection` of mappings from column names to strings (or UTF-8 `bytes`), integers, floats and lists of
    them. A missing value is `None`, an empty string, NaN, −2**63, or absent from the row.

    The output is a `PCollection` of tuples `(column, value, count)`, one per distinct value. A value is a `str`, an `int`,
    or a `float` rounded to float32; `None` stands for the rows without a value.

    Each worker adds up the counts of its rows before it sends them to others. A row that does not match the declaration
    fails the pipeline with a `TypeError` or `ValueError` that names the column.

    Args:
        schema: Declares the columns. It need not be adapted.

    Raises:
        TypeError: `schema` is not a `Schema`.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        if not isinstance(schema, Schema):
            raise TypeError(f"`schema` must be a Schema. Received: {type(schema).__name__}")
        self._declared = declared_columns(schema)

    def expand(self, pcoll: Any) -> Any:
        """Build the transform. Beam calls it."""
        names = [column.name for column in self._declared]
        values_of = value_reader([tuple(column) for column in self._declared])
        key_type = tuple[int, Any]
        return (
            pcoll
            | "Values" >> beam.FlatMap(values_of).with_output_types(key_type)
            | "Count" >> beam.combiners.Count.PerElement()
            | "Names" >> beam.Map(column_namer(names)).with_output_types(tuple[str, Any, int])
        )


class WriteCounts(_PTransform):
    """Writes the output of `CountValues` as files of JSON lines, compressed with gzip, for `read_counts`.

    Args:
        path_prefix: The beginning of all file names, on any file system that Beam supports. Beam appends
            `-00000-of-00001.jsonl.gz` and so on.
        num_shards: The number of files; 0 lets the runner choose it.
    """

    def __init__(self, path_prefix: str | os.PathLike[str], num_shards: int = 0) -> None:
        super().__init__()
        self._prefix = os.fspath(path_prefix)
        self._num_shards = num_shards

    def expand(self, pcoll: Any) -> Any:
        """Build the transform. Beam calls it."""
        return (
            pcoll
            | "Lines" >> beam.Map(line_formatter()).with_output_types(str)
            | "Write" >> beam.io.WriteToText(self._prefix, file_name_suffix=_SUFFIX, num_shards=self._num_shards)
        )


def read_counts(pattern: str | os.PathLike[str], schema: Schema) -> dict[str, ValueCounts]:
    """Read the files of `WriteCounts`, for `Schema.adapt`.

    Args:
        pattern: The `path_prefix`, or a pattern such as `"counts/day-*"`, on any file system that TensorFlow supports.
            Counts of several runs are added up.
        schema: Declares the columns. Counts of other columns are ignored.

    Raises:
        FileNotFoundError: No file matches the pattern.
        ValueError: A file of a run is missing or damaged, a column has no counts, or a value is of another kind than its
            column.
    """
    columns = {column.name: column for column in declared_columns(schema)}
    totals: dict[str, dict[Any, int]] = {name: defaultdict(int) for name in columns}
    for path in _files(os.fspath(pattern)):
        for line_number, (name, value, count) in enumerate(_lines(path), start=1):
            if name in columns:
                place = f"{path}, line {line_number}, column '{name}'"
                totals[name][_checked_value(value, columns[name].dtype, place)] += count
    absent = [name for name, counts in totals.items() if not counts]
    if absent:
        raise ValueError(f"there are no counts of the columns {absent} in {os.fspath(pattern)}")
    result = {}
    for name, counts in totals.items():
        missing = counts.pop(None, 0)
        result[name] = ValueCounts.of(columns[name].dtype, counts.keys(), counts.values(), missing)
    return result


def declared_columns(schema: Schema) -> list[DeclaredColumn]:
    """Return the properties of the columns of a schema, without labels and sample weights."""
    columns = []
    for name, column in schema.columns.items():
        is_list = column.raw_columns(name)[0].is_list
        options = (getattr(column, option, None) for option in ("separator", "weight_separator", "weights"))
        columns.append(DeclaredColumn(name, column.dtype, is_list, *options))
    return columns


# The functions below return functions that run on workers. Beam sends nested functions with their code, but other functions
# by name only, to be imported from a package that workers may not have. So nested functions use nothing of this module.


def value_reader(columns: list[tuple[Any, ...]]) -> Callable[[Mapping[str, Any]], Iterable[tuple[int, Any]]]:
    """Return a function that yields the values of a row, each with the number of its column.

    For a column without a value it yields `None`.

    Args:
        columns: The columns, as plain tuples of the fields of `DeclaredColumn`.
    """
    number_pattern, missing_integer = NUMBER_PATTERN, MISSING_INTEGER

    def text_of(value: Any, name: str) -> str | None:
        if isinstance(value, bytes):
            try:
                value = value.decode()
            except UnicodeDecodeError as error:
                raise ValueError(f"column '{name}': expected UTF-8. Received: {value!r}") from error
        if not isinstance(value, str):
            raise TypeError(f"column '{name}' must hold strings. Received: {value!r} of type {type(value).__name__}")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise ValueError(f"column '{name}': expected text. Received: {value!r}") from error
        return str(value) or None

    def integer_of(value: Any, name: str) -> int | None:
        import numpy as np

        if not isinstance(value, int | np.integer):
            raise TypeError(f"column '{name}' must hold integers. Received: {value!r} of type {type(value).__name__}")
        integer = int(value)
        if not -(2**63) <= integer < 2**63:
            raise ValueError(f"column '{name}' must hold integers of 64 bits. Received: {value!r}")
        return None if integer == missing_integer else integer

    def number_of(value: Any, name: str) -> float | None:
        import numpy as np

        if not isinstance(value, int | float | np.integer | np.floating):
            raise TypeError(f"column '{name}' must hold numbers. Received: {value!r} of type {type(value).__name__}")
        with np.errstate(over="ignore"):
            rounded = float(np.float32(float(value))) + 0.0  # makes 0.0 of -0.0
        if abs(rounded) == float("inf"):
            raise ValueError(f"column '{name}' must hold numbers that are finite in float32. Received: {value!r}")
        return None if rounded != rounded else rounded

    def without_weight(token: str, separator: str, name: str) -> str:
        import math
        import re

        value, weight_separator, weight = token.rpartition(separator)
        if not weight_separator:
            return token
        if not re.fullmatch(number_pattern, weight) or not math.isfinite(float(weight)):
            raise ValueError(f"column '{name}': weights must be finite numbers. Received: {token!r}")
        return value

    def items_of(row: Mapping[str, Any], name: str, separator: str | None, weight_separator: str | None) -> list[Any]:
        cell = row.get(name)
        if cell is None:
            return []
        if separator is not None:
            tokens = (text_of(cell, name) or "").split(separator)
            return tokens if weight_separator is None else [without_weight(t, weight_separator, name) for t in tokens]
        if isinstance(cell, str | bytes) or not hasattr(cell, "__len__"):
            raise TypeError(f"column '{name}' must hold lists. Received: {cell!r} of type {type(cell).__name__}")
        return list(cell)

    def check_weights(row: Mapping[str, Any], weights_name: str, name: str, items: list[Any]) -> None:
        weights = row.get(weights_name)
        weights = [] if weights is None else list(weights)
        if len(weights) != len(items):
            raise ValueError(
                f"column '{weights_name}' must have as many weights in each row as column '{name}' has values. "
                f"Received: {len(weights)} weights and {len(items)} values"
            )
        for item, weight in zip(items, weights, strict=True):
            if item is not None and (weight is None or number_of(weight, weights_name) is None):
                raise ValueError(f"column '{weights_name}': weights must be finite. Received: {weight!r}")

    converters = {"string": text_of, "int64": integer_of, "float32": number_of}

    def values_of(row: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
        for column_number, (name, dtype, is_list, separator, weight_separator, weights_name) in enumerate(columns):
            convert = converters[dtype]
            if not is_list and separator is None:
                value = row.get(name)
                yield column_number, None if value is None else convert(value, name)
                continue
            items = items_of(row, name, separator, weight_separator)
            values = [None if item is None else convert(item, name) for item in items]
            if weights_name is not None:
                check_weights(row, weights_name, name, values)
            known = [value for value in values if value is not None]
            if not known:
                yield column_number, None
            for value in known:
                yield column_number, value

    return values_of


def column_namer(names: list[str]) -> Callable[[tuple[tuple[int, Any], int]], tuple[str, Any, int]]:
    """Return a function that maps `((column number, value), count)` to `(column name, value, count)`."""

    def named(counted: tuple[tuple[int, Any], int]) -> tuple[str, Any, int]:
        (column_number, value), count = counted
        return names[column_number], value, count

    return named


def line_formatter() -> Callable[[tuple[str, Any, int]], str]:
    """Return a function that formats `(column name, value, count)` as a line of JSON."""

    def line(counted: tuple[str, Any, int]) -> str:
        import json

        return json.dumps(counted)

    return line


def _files(pattern: str) -> list[str]:
    """Return the files that match a pattern, after checking that each run is complete."""
    paths = tf.io.gfile.glob(pattern if pattern.endswith(_SUFFIX) else f"{pattern}-*-of-*{_SUFFIX}")
    if not paths and not pattern.endswith(_SUFFIX):
        paths = tf.io.gfile.glob(f"{pattern}{_SUFFIX}")
    if not paths:
        raise FileNotFoundError(f"no file matches {pattern}-*-of-*{_SUFFIX}")
    shards: dict[tuple[str, str], set[int]] = defaultdict(set)  # by prefix and number of shards
    for path in paths:
        match = _SHARD.match(path)
        if match:
            shards[match[1], match[3]].add(int(match[2]))
    for (prefix, num_shards), shard_numbers in shards.items():
        absent = sorted(set(range(int(num_shards))) - shard_numbers)
        if absent:
            raise ValueError(f"{prefix}: expected {int(num_shards)} files, but file number {absent[0]} is missing")
    nums_of_shards: dict[str, set[str]] = defaultdict(set)
    for prefix, num_shards in shards:
        nums_of_shards[prefix].add(num_shards)
    for prefix, numbers in nums_of_shards.items():
        if len(numbers) > 1:
            raise ValueError(
                f"{prefix}: expected the files of one run, received files of runs with {', '.join(sorted(numbers))} files"
            )
    return sorted(paths)


def _lines(path: str) -> Iterator[tuple[str, Any, int]]:
    """Yield the lines of a file as `(column name, value, count)`."""
    try:
        with tf.io.gfile.GFile(path, "rb") as file, gzip.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    name, value, count = json.loads(line)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}, line {number}: expected column, value and count ({error})") from error
                if not isinstance(name, str) or type(count) is not int or count < 1:
                    raise ValueError(f"{path}, line {number}: expected column, value and count, received {line.strip()}")
                yield name, value, count
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise ValueError(f"{path}: damaged or truncated gzip file ({error})") from error


def _checked_value(value: Any, dtype: RawDType, place: str) -> Any:
    """Return a value as `ValueCounts` holds it, after checking that it fits the column's dtype."""
    if value is None:
        return None
    kind: Any = {"string": str, "int64": int, "float32": float}[dtype]
    if type(value) is not kind:
        raise ValueError(f"{place}: expected a value of dtype {dtype}, received {value!r}")
    return value.encode() if dtype == "string" else value
