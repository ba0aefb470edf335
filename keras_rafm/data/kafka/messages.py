"""Parsers of messages: the messages of a stream, each with one row -> raw columns."""

from __future__ import annotations

import abc
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

import tensorflow as tf

from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.formats.csv_grammar import CSVRowGrammar, columns_by_place
from keras_rafm.data.formats.examples import NumberKinds, explain_records, parse_examples
from keras_rafm.data.raw.arrays import as_raw_columns, blocks_as_arrays
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import MalformedRowError, OnError, RefusedValuesError
from keras_rafm.data.raw.numbers import parsed_integer, parsed_number
from keras_rafm.data.raw.python_values import column_values

_MAX_SHOWN: Final = 200
#: For each malformed message, by its number in the batch from 0, the name of the illegal column, if any, and the problem.
_Problems = dict[int, tuple[str | None, str]]


class MalformedMessageError(MalformedRowError):
    """A message that is not legal.

    Attributes:
        path: The name of the stream, such as `Kafka topic 'clicks'`.
        line: The number of the message in this iteration, from 1.
        column: The name of the illegal column, or `None` if the message as a whole is illegal.
        problem: What was expected, and what was received.
        message: The content of the message.
    """

    def __init__(self, path: str, line: int, column: str | None, problem: str, message: bytes) -> None:
        super().__init__(path, line, column, problem, "message")
        self.args = (path, line, column, problem, message)  # the arguments that pickle passes to the constructor
        self.message = message

    def __str__(self) -> str:
        shown = self.message if len(self.message) <= _MAX_SHOWN else self.message[:_MAX_SHOWN] + b"..."
        column = "" if self.column is None else f", column '{self.column}'"
        return f"{self.path}, message {self.line}{column}: {self.problem}; the message is {shown!r}"


class MessageParser(abc.ABC):
    """Parses messages of one format.

    Args:
        stream: The name of the stream, for messages of errors.
        columns: The columns to read.
        on_error: Receives the error of each malformed message, which is then skipped. With `None`, the first error is
            raised.
    """

    def __init__(self, stream: str, columns: Sequence[RawColumn], on_error: OnError | None) -> None:
        self._stream, self._columns, self._on_error = stream, list(columns), on_error

    def parse(self, messages: Sequence[bytes], first: int) -> list[Any]:
        """Return the columns in their order, as tensors `[n]` or ragged tensors `[n, None]`.

        Args:
            messages: The messages.
            first: The number of the first message in this iteration.

        Raises:
            MalformedMessageError: A message is malformed and there is no `on_error`; the error is that of the first one.
        """
        numbered = list(enumerate(messages, start=first))
        errors = []
        while True:
            try:
                parsed = self._parsed([message for _, message in numbered])
                break
            except _MalformedError as malformed:
                problems = malformed.problems
            for place, (column, problem) in problems.items():
                number, message = numbered[place]
                errors.append(MalformedMessageError(self._stream, number, column, problem, message))
            numbered = [message for place, message in enumerate(numbered) if place not in problems]
        for error in sorted(errors, key=lambda error: error.line):
            if self._on_error is None:
                raise error
            self._on_error(error)
        return parsed

    @abc.abstractmethod
    def _parsed(self, messages: list[bytes]) -> list[Any]:
        """Return the columns, or raise a `_MalformedError` with the problems of malformed messages."""

    def _from_values(self, values: Mapping[str, Sequence[Any]], num_rows: int) -> list[Any]:
        """Return the columns made from Python values.

        Args:
            values: The value of each column in each row.
            num_rows: The number of rows.
        """
        block = {}
        problems: _Problems = {}
        for column in self._columns:
            try:
                block[column.name] = column_values(values[column.name], column)
            except RefusedValuesError as refused:
                for place, problem in refused.problems.items():
                    problems.setdefault(place, (column.name, problem))
        _raise_if_any(problems)
        ((texts, arrays),) = blocks_as_arrays(iter([(num_rows, block)]), self._columns, shares_text=False)
        tensors = [tuple(map(tf.convert_to_tensor, column_arrays)) for column_arrays in arrays]
        raw = as_raw_columns(texts, tensors, self._columns)
        return [raw[column.name] for column in self._columns]


class _MalformedError(Exception):
    """Some messages of a batch are malformed."""

    def __init__(self, problems: _Problems) -> None:
        super().__init__(problems)
        self.problems = problems


def _raise_if_any(problems: _Problems) -> None:
    if problems:
        raise _MalformedError(problems)


class ExampleParser(MessageParser):
    """Parses messages that are serialised `tf.train.Example`s, as in `TFRecordFormat`."""

    def __init__(self, stream: str, columns: Sequence[RawColumn], on_error: OnError | None) -> None:
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
    """Parses messages that are JSON objects. An absent key and a null are missing values."""

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
    raise ValueError(f"{name} is not JSON")


class CSVParser(MessageParser):
    """Parses messages that are lines of CSV, with or without a line end.

    Args:
        stream: See `MessageParser`.
        columns: See `MessageParser`. Text has no lists.
        on_error: See `MessageParser`.
        csv_format: How lines are written. Without `column_names`, the fields are `columns` in order.

    Raises:
        ValueError: A column has lists, or is missing from `column_names`.
    """

    def __init__(self, stream: str, columns: Sequence[RawColumn], on_error: OnError | None, csv_format: CSVFormat) -> None:
        super().__init__(stream, columns, on_error)
        for column in columns:
            if column.is_list:
                raise ValueError(f"{stream}: text has no lists. Received: column '{column.name}' with lists")
        names = csv_format.column_names or tuple(column.name for column in columns)
        self._columns_by_place = columns_by_place(stream, names, columns, csv_format)
        self._grammar = CSVRowGrammar(stream, csv_format, names, self._columns_by_place)

    def _parsed(self, messages: list[bytes]) -> list[Any]:
        rows = []
        problems: _Problems = {}
        for place, message in enumerate(messages):
            try:
                rows.append(self._fields(message))
            except MalformedRowError as error:
                problems[place] = error.column, error.problem
        _raise_if_any(problems)
        values = {column.name: [row[place] for row in rows] for place, column in self._columns_by_place.items()}
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
        for place, column in self._columns_by_place.items():
            fields[place] = _python_value(self._grammar.value_in(fields[place], column), column)
            if fields[place] is _ILLEGAL:
                raise self._grammar.error_in(text, 0, 1)
        return fields


_ILLEGAL: Final = object()


def _python_value(value: bytes, column: RawColumn) -> Any:
    """Return the Python value for `column_values`, or `_ILLEGAL`."""
    if column.dtype == "string":
        try:
            return value.decode()
        except UnicodeDecodeError:
            return _ILLEGAL
    if not value:
        return None
    number = parsed_integer(value) if column.dtype == "int64" else parsed_number(value)
    return _ILLEGAL if number is None else number
