"""A record of the rows and files that were skipped."""

from __future__ import annotations

from collections import Counter

from keras_rafm.data.raw.errors import EmptyFileError, MalformedRowError

_SHOWN = 10


class SkippedRows:
    """Counts malformed rows and empty files, which readers then skip. Pass it as `on_error`.

    A row counts each time it is read: over three epochs, each malformed row counts three times. `len()` is the number of
    rows and empty files.
    """

    def __init__(self) -> None:
        self._per_file: Counter[str] = Counter()
        self._empty_files: Counter[str] = Counter()
        self._first_errors: list[str] = []

    def __call__(self, error: MalformedRowError) -> None:
        """Count one more row or empty file."""
        if isinstance(error, EmptyFileError):
            self._empty_files[error.path] += 1
            return
        self._per_file[error.path] += 1
        if len(self._first_errors) < _SHOWN:
            self._first_errors.append(str(error))

    def __len__(self) -> int:
        return self._per_file.total() + self._empty_files.total()

    @property
    def per_file(self) -> dict[str, int]:
        """The number of skipped rows of each file."""
        return dict(self._per_file)

    @property
    def empty_files(self) -> list[str]:
        """The files without rows."""
        return list(self._empty_files)

    def summary(self) -> str:
        """Return the number of skipped rows, and the errors of the first ten."""
        if not len(self):
            return "no rows were skipped"
        lines = []
        if self._empty_files:
            lines.append(f"empty files: {', '.join(self._empty_files)}")
        num_rows = self._per_file.total()
        if num_rows:
            files = ", ".join(f"{path}: {number:,}" for path, number in self._per_file.items())
            lines += [f"skipped rows: {num_rows:,} ({files})", *self._first_errors]
            lines += ["…"] if num_rows > len(self._first_errors) else []
        return "\n".join(lines)
