"""What was left out of files."""

from __future__ import annotations

from collections import Counter

from keras_rafm.data.raw.errors import EmptyFileError, MalformedRowError

_SHOWN = 10


class SkippedRows:
    """Counts malformed rows and empty files, which are left out of what is read: give it as `on_error`.

    Rows are counted each time that they are read, so over three epochs each is counted three times. `len()` is the number
    of rows and files.
    """

    def __init__(self) -> None:
        self._per_file: Counter[str] = Counter()
        self._empty_files: Counter[str] = Counter()
        self._first: list[str] = []

    def __call__(self, error: MalformedRowError) -> None:
        """Count one more."""
        if isinstance(error, EmptyFileError):
            self._empty_files[error.path] += 1
            return
        self._per_file[error.path] += 1
        if len(self._first) < _SHOWN:
            self._first.append(str(error))

    def __len__(self) -> int:
        return self._per_file.total() + self._empty_files.total()

    @property
    def per_file(self) -> dict[str, int]:
        """How many rows of each file were left out."""
        return dict(self._per_file)

    @property
    def empty_files(self) -> list[str]:
        """The files that have no rows."""
        return list(self._empty_files)

    def summary(self) -> str:
        """How many there are, and what is wrong with the first ten."""
        if not len(self):
            return "no rows were left out"
        lines = []
        if self._empty_files:
            lines.append(f"files without rows: {', '.join(self._empty_files)}")
        number = self._per_file.total()
        if number:
            files = ", ".join(f"{path} {own:,}" for path, own in self._per_file.items())
            lines += [f"rows left out: {number:,}, of {files}", *self._first]
            lines += ["…"] if number > len(self._first) else []
        return "\n".join(lines)
