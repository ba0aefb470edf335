"""Errors in files and rows. Each message begins with the place of the error."""

from __future__ import annotations

from collections.abc import Callable, Mapping

_MAX_SHOWN = 60
_MAX_BYTES_OF_A_CHARACTER = 4  # in UTF-8


class MalformedRowError(ValueError):
    """A row that is not legal.

    Attributes:
        path: The name of the file.
        line: In text, the number of the line on which the row begins, from 1; in other files, the number of the row.
        column: The name of the illegal column, or `None` if the row as a whole is illegal or the column has no name.
        problem: What was expected, and what was received.
        unit: What `line` counts: `"line"`, `"row"` or `"record"`.
    """

    def __init__(self, path: str, line: int, column: str | None, problem: str, unit: str = "line") -> None:
        # Pickling an exception stores its arguments, so all of them are passed on, not just the message.
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
        self.args = (path,)  # the arguments that pickle passes to the constructor

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class RefusedValuesError(ValueError):
    """Values of one column that the column may not have.

    Attributes:
        problems: For the number of each such row, from 0, what was expected and what was received.
    """

    def __init__(self, problems: dict[int, str]) -> None:
        super().__init__(problems)
        self.problems = problems


#: Receives the error of each row that a reader skips.
OnError = Callable[[MalformedRowError], None]


def refuse_empty(path: str, on_error: OnError | None) -> None:
    """Report an `EmptyFileError` to `on_error`, or raise it if that is `None`."""
    _raise_or_report(EmptyFileError(path), on_error)


def refuse_rows(
    path: str, first_row: int, problems: Mapping[int, tuple[str, str]], unit: str, on_error: OnError | None
) -> None:
    """Report a `MalformedRowError` for each row to `on_error`, or raise the first one if that is `None`.

    Args:
        path: The name of the file.
        first_row: The number in the file of the block's first row.
        problems: For each illegal row, by its number in the block, the name of the illegal column and the problem.
        unit: What numbers of rows count, as in `MalformedRowError`.
        on_error: Receives the errors in the order of the rows.
    """
    for row, (column, problem) in sorted(problems.items()):
        _raise_or_report(MalformedRowError(path, first_row + row, column, problem, unit=unit), on_error)


def _raise_or_report(error: MalformedRowError, on_error: OnError | None) -> None:
    if on_error is None:
        raise error
    on_error(error)


def shown_name(name: str) -> str:
    """Return the name of a column as messages show it: quoted, and cut if it is long."""
    return repr(name if len(name) <= _MAX_SHOWN else name[:_MAX_SHOWN] + "…")


def shown_bytes(value: bytes) -> str:
    """Return a value from a text file as messages show it: quoted, printable, and cut if it is long."""
    # A value may have millions of bytes, so it is cut before it is decoded, too.
    shown = value[: _MAX_BYTES_OF_A_CHARACTER * (_MAX_SHOWN + 1)].decode("utf-8", "backslashreplace")
    if len(shown) > _MAX_SHOWN:
        shown = shown[:_MAX_SHOWN] + "…"
    printable = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown)
    return f"'{printable}'"
