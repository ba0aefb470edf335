"""The model directory that TF Serving watches: subdirectories named by integers, each a whole model or not there.

A version is written beside the model directory under a name that starts with a dot, and then renamed; one that goes is
renamed before it is deleted. So whoever looks, or if the process is killed at any moment, nothing half is ever in the model
directory. What a killed process left beside it, the next export removes, but for a folder that is still empty.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from keras_rafm.checks.arguments import integer_or_none
from keras_rafm.files.atomic import flush, flush_entries, locked_folder_beside


class VersionDirectory:
    """A model directory, and the version that is to be written into it.

    Args:
        path: Where it is or will be.
        version: The number of the new version; `None`: the next after the highest.
        keep: How many versions stay, the highest ones, once the new one is there; `None`: all.

    Raises:
        TypeError: A number is not an integer.
        ValueError: It is out of range, or the directory is not local, is a file, is where a file system is mounted, or
            holds something else than versions.
        FileExistsError: The version is there.
    """

    def __init__(self, path: str | os.PathLike[str], version: int | None = None, keep: int | None = None) -> None:
        if "://" in os.fspath(path):
            raise ValueError(f"`path` must be a local directory. Received: {os.fspath(path)}")
        self.path = Path(os.path.realpath(path))
        self._given = Path(path)
        self._version = integer_or_none(version, "version", at_least=0)
        self._keep = integer_or_none(keep, "keep", at_least=1)
        self._next()
        if os.path.ismount(self.path):
            raise ValueError(
                f"{self._given} is where a file system is mounted, and nothing can be moved to there as a whole: `path` "
                "must be a directory below"
            )

    def versions(self) -> list[int]:
        """The versions that are there, ascending.

        Raises:
            ValueError: As the class.
        """
        if not self.path.exists():
            return []
        if not self.path.is_dir():
            raise ValueError(f"{self._given} is a file; `path` must be a model directory, which holds integer versions")
        names = [entry.name for entry in self.path.iterdir()]
        others = sorted(name for name in names if not (name.isascii() and name.isdecimal()))
        if others:
            raise ValueError(
                f"A model directory must hold nothing but integer versions. Received: {self._given}, which holds {others}"
            )
        return sorted(map(int, names))

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[Path]:
        """A new folder beside the model directory, on the same file system, that is gone afterwards."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked_folder_beside(self.path) as folder:
            yield folder

    def publish(self, model: Path) -> Path:
        """Move a whole model to where it is served from.

        Args:
            model: A directory in an `unfinished` folder.

        Returns:
            The version's directory, beneath the path as it was given.

        Raises:
            FileExistsError: The version is there.
        """
        flush(model)
        self.path.mkdir(exist_ok=True)
        while True:
            number = self._next()
            try:
                model.rename(self.path / str(number))
            except OSError as error:
                # Another process may have been faster.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                break
        flush_entries(self.path)
        if self._keep is not None:
            for version in self.versions()[: -self._keep]:
                self._remove(version)
        return self._given / str(number)

    def _next(self) -> int:
        """The number of the new version."""
        there = self.versions()
        if self._version is None:
            return 1 + max(there, default=0)
        if self._version in there:
            raise FileExistsError(f"{self._given / str(self._version)} is there already: a version is never overwritten")
        if self._keep is not None and sum(number > self._version for number in there) >= self._keep:
            raise ValueError(
                f"with `keep` of {self._keep}, version {self._version} would go at once: {there[-self._keep :]} are higher"
            )
        return self._version

    def _remove(self, version: int) -> None:
        with self.unfinished() as folder, contextlib.suppress(FileNotFoundError):
            (self.path / str(version)).rename(folder / "removed")
