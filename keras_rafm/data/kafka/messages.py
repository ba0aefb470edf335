"""Messages of a stream, each with one row -> raw columns."""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NoReturn

import tensorflow as tf

from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.formats.csv_grammar import Grammar, parsed_integer, parsed_number, places_of
from keras_rafm.data.formats.examples import NumberKinds, explain_records, parse_examples
from keras_rafm.data.raw.arrays import as_raw_columns, blocks_as_arrays
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import MalformedRowError
from keras_rafm.data.raw.python_values import RefusedValuesError, column_values

_MAX_SHOWN: Final = 200
#: What is wrong with messages, by their numbers from 0 in their batch: in which column if it is one, and what.
_Problems = dict[int, tuple[str | None, str]]


class MalformedMessageError(MalformedRowError):
    """A message that is not legal.

    Attributes:
        path: The stream, such as `Kafka topic 'clicks'`.
        line: Number of the message in this iteration, from 1.
        column: Name of the column that is wrong, or `None` if it is the message as a whole.
        problem: What was expected, and what was there.
        message: The message itself.
    """

    def __init__(self, path: str, line: int, column: str | None, problem: str, message: bytes) -> None:
        super().__init__(path, line, column, problem, "message")
        self.args = (path, line, column, problem, message)  # so that it can be pickled
        self.message = message

    def __str__(self) -> str:
        shown = self.message if len(self.message) <= _MAX_SHOWN else self.message[:_MAX_SHOWN] + b"..."
        column = "" if self.column is None else f", column '{self.column}'"
        return f"{self.path}, message {self.line}{column}: {self.problem}; the message is {shown!r}"


class MessageParser(abc.ABC):
    """How a row is in a message.

    Args:
        stream: Where messages come from, for errors.
        columns: Those to read.
        on_error: Told of each malformed message, which is then left out. `None`: the first one raises.
    """

    def __init__(
        self, stream: str, columns: Sequence[RawColumn], on_error: Callable[[MalformedRowError], None] | None
    ) -> None:
        self._stream, self._columns, self._on_error = stream, list(columns), on_error

    def parse(self, messages: Sequence[bytes], first: int) -> list[Any]:
        """The columns, in their order, as tensors `[n]` or ragged `[n, None]`.

        Args:
            messages: Some.
            first: The number of the first of them.

        Raises:
            MalformedMessageError: Of the first message that is malformed, if there is no `on_error`.
        """
        good = list(enumerate(messages, start=first))
        errors = []
        while True:
            try:
                parsed = self._parsed([message for _, message in good])
                break
            except _MalformedError as found:
                problems = found.problems
            for place, (column, problem) in problems.items():
                number, message = good[place]
                errors.append(MalformedMessageError(self._stream, number, column, problem, message))
            good = [own for place, own in enumerate(good) if place not in problems]
        for error in sorted(errors, key=lambda error: error.line):
            if self._on_error is None:
                raise error
            self._on_error(error)
        return parsed

    @abc.abstractmethod
    def _parsed(self, messages: list[bytes]) -> list[Any]:
        """The columns; raises a `_MalformedError` of the malformed messages."""

    def _from_values(self, values: Mapping[str, Sequence[Any]], num_rows: int) -> list[Any]:
        """The columns, from Python values."""
        block = {}
        problems: _Problems = {}
        for column in self._columns:
            try:
                block[column.name] = column_values(values[column.name], column)
            except RefusedValuesError as refused:
                problems = {**{place: (column.name, problem) for place, problem in refused.problems.items()}, **problems}
        _raise_if_any(problems)
        ((texts, arrays),) = blocks_as_arrays(iter([(num_rows, block)]), self._columns, shares_text=False)
        raw = as_raw_columns(texts, [tuple(map(tf.convert_to_tensor, own)) for own in arrays], self._columns)
        return [raw[column.name] for column in self._columns]


class _MalformedError(Exception):
    def __init__(self, problems: _Problems) -> None:
        super().__init__(problems)
        self.problems = problems


def _raise_if_any(problems: _Problems) -> None:
    if problems:
        raise _MalformedError(problems)


class ExampleParser(MessageParser):
    """Messages are serialised `tf.train.Example`s, as `TFRecordFormat` reads them."""

    def __init__(
        self, stream: str, columns: Sequence[RawColumn], on_error: Callable[[MalformedRowError], None] | None
    ) -> None:
        super().__init__(stream, columns, on_error)
        self._kinds = NumberKinds(columns)

    def _parsed(self, messages: list[bytes]) -> list[Any]:
        self._kinds.look_at(messages)
        int64_numbers = self._kinds.int64_numbers
        texts = tf.constant(messages, tf.string, [len(messages)])
        try:
            raw = parse_examples(texts, self._columns, self._stream, 1, int64_numbers)
        except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
            problems: _Problems = {}
            for place, message in enumerate(messages):
                try:
                    explain_records([message], self._columns, self._stream, 1, int64_numbers)
                except MalformedRowError as error:
                    problems[place] = error.column, error.problem
            _raise_if_any(problems)
            raise
        return [raw[column.name] for column in self._columns]


class JSONParser(MessageParser):
    """Messages are JSON objects; a key that is not there and a null are missing values."""

    def _parsed(self, messages: list[bytes]) -> list[Any]:
        rows = []
        problems: _Problems = {}
        for place, message in enumerate(messages):
            try:
                rows.append(_json_object(message))
            except ValueError as error:
                problems[place] = None, f"expected a JSON object{error}"
        _raise_if_any(problems)
        values = {column.name: [row.get(column.name) for row in rows] for column in self._columns}
        return self._from_values(values, len(rows))


def _json_object(message: bytes) -> dict[str, Any]:
    try:
        row = json.loads(message, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f" ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f", received a {type(row).__name__}")
    return row


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


class CSVParser(MessageParser):
    """Messages are lines of CSV, with a line end or without.

    Args:
        stream: As in `MessageParser`.
        columns: As in `MessageParser`; text has no lists.
        on_error: As in `MessageParser`.
        csv_format: How lines are written. Without `column_names`, their fields are `columns` in order.

    Raises:
        ValueError: A column has lists, or is not among the names.
    """

    def __init__(
        self,
        stream: str,
        columns: Sequence[RawColumn],
        on_error: Callable[[MalformedRowError], None] | None,
        csv_format: CSVFormat,
    ) -> None:
        super().__init__(stream, columns, on_error)
        for column in columns:
            if column.is_list:
                raise ValueError(f"{stream}: text has no lists. Received: column '{column.name}' with lists")
        names = csv_format.column_names or tuple(column.name for column in columns)
        grammar = csv_format.grammar
        self._places = places_of(stream, names, columns, grammar)
        self._grammar = Grammar(stream, grammar, names, self._places)

    def _parsed(self, messages: list[bytes]) -> list[Any]:
        rows = []
        problems: _Problems = {}
        for place, message in enumerate(messages):
            try:
                rows.append(self._fields(message))
            except MalformedRowError as error:
                problems[place] = error.column, error.problem
        _raise_if_any(problems)
        values = {column.name: [row[place] for row in rows] for place, column in self._places.items()}
        return self._from_values(values, len(rows))

    def _fields(self, message: bytes) -> list[Any]:
        text = message if message.endswith(b"\n") else message + b"\n"
        row = self._grammar.row_at(text, 0, 1, at_end=True)
        if row is None or len(row.fields) != len(self._grammar.names):
            raise self._grammar.error_in(text, 0, 1)
        if row.stop != len(text):
            problem = f"expected one line, received {len(text) - row.stop} bytes after it"
            raise MalformedRowError(self._stream, 1, None, problem)
        fields: list[Any] = list(row.fields)
        for at, column in self._places.items():
            fields[at] = _of_value(self._grammar.value_in(fields[at], column), column)
            if fields[at] is _WRONG:
                raise self._grammar.error_in(text, 0, 1)
        return fields


_WRONG: Final = object()


def _of_value(value: bytes, column: RawColumn) -> Any:
    if column.dtype == "string":
        try:
            return value.decode()
        except UnicodeDecodeError:
            return _WRONG
    if not value:
        return None
    number = parsed_integer(value) if column.dtype == "int64" else parsed_number(value)
    return _WRONG if number is None else number
