"""How often each value of each column occurs, counted by Apache Beam: on a Flink or Spark cluster, or by Dataflow.

```python
with beam.Pipeline() as pipeline:
    rows = pipeline | beam.io.ReadFromParquet("gs://bucket/train/*.parquet")
    rows | CountValues(schema) | WriteCounts("gs://bucket/counts/train")
schema.adapt(read_counts("gs://bucket/counts/train*", schema))
```

What workers run is sent to them as it is, and needs NumPy only: neither TensorFlow nor this package has to be there.
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


class _Declared(NamedTuple):
    """What workers have to know of a column."""

    name: str
    dtype: RawDType
    is_list: bool
    separator: str | None
    weight_separator: str | None
    weights: str | None


class CountValues(_PTransform):
    """Raw rows -> the counts of all values of all columns.

    Takes a `PCollection` of mappings of column names to strings (or UTF-8 `bytes`), integers, floats and lists of them; a
    missing value is `None`, an empty string, NaN or −2**63, or not in the row at all. Gives tuples
    `(column, value, count)`, each value once: `str`, `int`, or `float` rounded to float32; the value `None` stands for rows
    that have none. They are what `Schema.count_values` counts in the same rows.

    Counts are added up where rows are before they are sent elsewhere.

    A row that is not as declared fails the pipeline with a `TypeError` or `ValueError` that names the column.

    Args:
        schema: Declares the columns. It needs not be adapted.

    Raises:
        TypeError: `schema` is none.
    """

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        if not isinstance(schema, Schema):
            raise TypeError(f"`schema` must be a Schema. Received: {type(schema).__name__}")
        self._declared = _declared(schema)

    def expand(self, pcoll: Any) -> Any:
        """Part of `beam.PTransform`."""
        names = [column.name for column in self._declared]
        values_of = _taker([tuple(column) for column in self._declared])
        key_type = tuple[int, Any]
        return (
            pcoll
            | "Values" >> beam.FlatMap(values_of).with_output_types(key_type)
            | "Count" >> beam.combiners.Count.PerElement()
            | "Names" >> beam.Map(_namer(names)).with_output_types(tuple[str, Any, int])
        )


class WriteCounts(_PTransform):
    """Writes what `CountValues` gives as files of JSON lines, compressed by gzip, for `read_counts`.

    Args:
        path_prefix: What the names of all files begin with; `-00000-of-00001.jsonl.gz` and so on follow. Any file system
            that Beam knows.
        num_shards: How many files; 0 leaves it to the runner.
    """

    def __init__(self, path_prefix: str | os.PathLike[str], num_shards: int = 0) -> None:
        super().__init__()
        self._prefix = os.fspath(path_prefix)
        self._num_shards = num_shards

    def expand(self, pcoll: Any) -> Any:
        """Part of `beam.PTransform`."""
        return (
            pcoll
            | "Lines" >> beam.Map(_line_maker()).with_output_types(str)
            | "Write" >> beam.io.WriteToText(self._prefix, file_name_suffix=_SUFFIX, num_shards=self._num_shards)
        )


def read_counts(pattern: str | os.PathLike[str], schema: Schema) -> dict[str, ValueCounts]:
    """What `WriteCounts` has written, for `Schema.adapt`.

    Args:
        pattern: The `path_prefix`, or a pattern such as `"counts/day-*"`; counts of several runs are added up. Any file
            system that TensorFlow knows.
        schema: Declares the columns. Counts of other columns are left out.

    Raises:
        FileNotFoundError: No file fits.
        ValueError: A file is not there of those that were written together, or is damaged; or there are no counts of a
            column, or counts of values of another kind.
    """
    columns = {column.name: column for column in _declared(schema)}
    counted: dict[str, dict[Any, int]] = {name: defaultdict(int) for name in columns}
    for path in _files(os.fspath(pattern)):
        for number, (name, value, count) in enumerate(_lines(path), start=1):
            if name in columns:
                counted[name][_checked(value, columns[name].dtype, f"{path}, line {number}, column '{name}'")] += count
    absent = [name for name, counts in counted.items() if not counts]
    if absent:
        raise ValueError(f"there are no counts of the columns {absent} in {os.fspath(pattern)}")
    result = {}
    for name, counts in counted.items():
        missing = counts.pop(None, 0)
        result[name] = ValueCounts.of(columns[name].dtype, counts.keys(), counts.values(), missing)
    return result


def _declared(schema: Schema) -> list[_Declared]:
    columns = []
    for name, column in schema.columns.items():
        is_list = column.raw_columns(name)[0].is_list
        options = (getattr(column, option, None) for option in ("separator", "weight_separator", "weights"))
        columns.append(_Declared(name, column.dtype, is_list, *options))
    return columns


# What runs on workers. Functions within functions are sent there whole; others by name, from a package that would have to
# be there. So they refer to nothing of this module.


def _taker(columns: list[tuple[Any, ...]]) -> Callable[[Mapping[str, Any]], Iterable[tuple[int, Any]]]:
    """What yields the values of a row with the places of their columns; `None` for a column without any."""
    number, no_integer = NUMBER_PATTERN, MISSING_INTEGER

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
        return None if integer == no_integer else integer

    def number_of(value: Any, name: str) -> float | None:
        import numpy as np

        if not isinstance(value, int | float | np.integer | np.floating):
            raise TypeError(f"column '{name}' must hold numbers. Received: {value!r} of type {type(value).__name__}")
        with np.errstate(over="ignore"):
            rounded = float(np.float32(float(value))) + 0.0  # Of -0.0, 0.0.
        if abs(rounded) == float("inf"):
            raise ValueError(f"column '{name}' must hold numbers that are finite in float32. Received: {value!r}")
        return None if rounded != rounded else rounded

    def without_weight(token: str, separator: str, name: str) -> str:
        import math
        import re

        value, found, weight = token.rpartition(separator)
        if not found:
            return token
        if not re.fullmatch(number, weight) or not math.isfinite(float(weight)):
            raise ValueError(f"column '{name}': weights must be finite numbers. Received: {token!r}")
        return value

    def items_of(row: Mapping[str, Any], name: str, separator: str | None, weight_separator: str | None) -> list[Any]:
        given = row.get(name)
        if given is None:
            return []
        if separator is not None:
            tokens = (text_of(given, name) or "").split(separator)
            return tokens if weight_separator is None else [without_weight(t, weight_separator, name) for t in tokens]
        if isinstance(given, str | bytes) or not hasattr(given, "__len__"):
            raise TypeError(f"column '{name}' must hold lists. Received: {given!r} of type {type(given).__name__}")
        return list(given)

    def check_weights(row: Mapping[str, Any], weights_name: str, name: str, items: list[Any]) -> None:
        weights = row.get(weights_name)
        weights = [] if weights is None else list(weights)
        if len(weights) != len(items):
            raise ValueError(
                f"column '{weights_name}' must have as many weights in each row as column '{name}' has values. "
                f"Received: {len(weights)} weights of {len(items)} values"
            )
        for item, weight in zip(items, weights, strict=True):
            if item is not None and (weight is None or number_of(weight, weights_name) is None):
                raise ValueError(f"column '{weights_name}': weights must be finite. Received: {weight!r}")

    of_dtype = {"string": text_of, "int64": integer_of, "float32": number_of}

    def values_of(row: Mapping[str, Any]) -> Iterator[tuple[int, Any]]:
        for place, (name, dtype, is_list, separator, weight_separator, weights_name) in enumerate(columns):
            convert = of_dtype[dtype]
            if not is_list and separator is None:
                value = row.get(name)
                yield place, None if value is None else convert(value, name)
                continue
            items = items_of(row, name, separator, weight_separator)
            values = [None if item is None else convert(item, name) for item in items]
            if weights_name is not None:
                check_weights(row, weights_name, name, values)
            known = [value for value in values if value is not None]
            if not known:
                yield place, None
            for value in known:
                yield place, value

    return values_of


def _namer(names: list[str]) -> Callable[[tuple[tuple[int, Any], int]], tuple[str, Any, int]]:
    def named(counted: tuple[tuple[int, Any], int]) -> tuple[str, Any, int]:
        (place, value), count = counted
        return names[place], value, count

    return named


def _line_maker() -> Callable[[tuple[str, Any, int]], str]:
    def line(counted: tuple[str, Any, int]) -> str:
        import json

        return json.dumps(counted)

    return line


# Reading.


def _files(pattern: str) -> list[str]:
    """All files, if none is missing."""
    found = tf.io.gfile.glob(pattern if pattern.endswith(_SUFFIX) else f"{pattern}-*-of-*{_SUFFIX}")
    if not found and not pattern.endswith(_SUFFIX):
        found = tf.io.gfile.glob(f"{pattern}{_SUFFIX}")
    if not found:
        raise FileNotFoundError(f"no file fits {pattern}-*-of-*{_SUFFIX}")
    shards: dict[tuple[str, str], set[int]] = defaultdict(set)
    for path in found:
        match = _SHARD.match(path)
        if match:
            shards[match[1], match[3]].add(int(match[2]))
    for (prefix, number), there in shards.items():
        absent = sorted(set(range(int(number))) - there)
        if absent:
            raise ValueError(f"{prefix}: expected {int(number)} files, number {absent[0]} is not there")
    totals: dict[str, set[str]] = defaultdict(set)
    for prefix, number in shards:
        totals[prefix].add(number)
    for prefix, numbers in totals.items():
        if len(numbers) > 1:
            raise ValueError(f"{prefix}: expected files of one run, found some of {', '.join(sorted(numbers))} files")
    return sorted(found)


def _lines(path: str) -> Iterator[tuple[str, Any, int]]:
    try:
        with tf.io.gfile.GFile(path, "rb") as file, gzip.open(file, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    name, value, count = json.loads(line)
                except (TypeError, ValueError) as error:
                    raise ValueError(f"{path}, line {number}: expected column, value and count ({error})") from error
                if not isinstance(name, str) or type(count) is not int or count < 1:
                    raise ValueError(f"{path}, line {number}: expected column, value and count. Received: {line.strip()}")
                yield name, value, count
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        raise ValueError(f"{path}: damaged or truncated gzip file ({error})") from error


def _checked(value: Any, dtype: RawDType, where: str) -> Any:
    if value is None:
        return None
    kind: Any = {"string": str, "int64": int, "float32": float}[dtype]
    if type(value) is not kind:
        raise ValueError(f"{where}: expected a value of {dtype}. Received: {value!r}")
    return value.encode() if dtype == "string" else value
