"""Errors about files and rows, which name the place."""

from __future__ import annotations

from collections.abc import Callable

_MAX_SHOWN = 60


class MalformedRowError(ValueError):
    """A row that is not legal.

    Attributes:
        path: Name of the file.
        line: Number of the line on which the row begins, from 1; of other files than text, of the row itself.
        column: Name of the column that is wrong, or `None` if it is the row as a whole or the column has no name.
        problem: What was expected, and what was there.
        unit: What `line` counts: `"line"`, `"row"` or `"record"`.
    """

    def __init__(self, path: str, line: int, column: str | None, problem: str, unit: str = "line") -> None:
        # All of them are arguments, not the message alone: so the error can be pickled.
        super().__init__(path, line, column, problem, unit)
        self.path = path
        self.line = line
        self.column = column
        self.problem = problem
        self.unit = unit

    def __str__(self) -> str:
        where = f"{self.path}, {self.unit} {self.line}"
        if self.column is not None:
            where += f", column {shown_name(self.column)}"
        return f"{where}: {self.problem}"


class EmptyFileError(MalformedRowError):
    """A file without rows."""

    def __init__(self, path: str) -> None:
        super().__init__(path, 1, None, "expected at least one row, found none")
        self.args = (path,)  # so that it can be pickled

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def refuse_empty(path: str, on_error: Callable[[MalformedRowError], None] | None) -> None:
    """Raise an `EmptyFileError`, or tell `on_error` of it."""
    error = EmptyFileError(path)
    if on_error is None:
        raise error
    on_error(error)


def shown_name(name: str) -> str:
    """Of a column, for a message."""
    return repr(name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "…")


#: Receives the error of each row that a reader leaves out.
OnError = Callable[[MalformedRowError], None]
