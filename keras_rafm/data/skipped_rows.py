"""What was left out of files."""

from __future__ import annotations

from collections import Counter

from keras_rafm.data._delimited_format import MalformedRowError

_SHOWN = 10


class SkippedRows:
    """Counts malformed rows, which are left out of what is read: give it as `on_error`.

    Rows are counted each time that they are read, so over three epochs each is counted three times.
    """

    def __init__(self) -> None:
        self._per_file: Counter[str] = Counter()
        self._first: list[str] = []

    def __call__(self, error: MalformedRowError) -> None:
        """Count one more."""
        self._per_file[error.path] += 1
        if len(self._first) < _SHOWN:
            self._first.append(str(error))

    def __len__(self) -> int:
        return self._per_file.total()

    @property
    def per_file(self) -> dict[str, int]:
        """How many rows of each file were left out."""
        return dict(self._per_file)

    def summary(self) -> str:
        """How many there are, and what is wrong with the first ten."""
        if not self:
            return "no rows were left out"
        files = ", ".join(f"{number:,} of {path}" for path, number in self._per_file.items())
        more = ["…"] if len(self) > len(self._first) else []
        return "\n".join([f"{len(self):,} rows were left out: {files}", *self._first, *more])
