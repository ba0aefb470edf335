"""The model directory that TF Serving watches: its subdirectories are versions, named by integers.

Versions are written atomically. A version is written in a hidden folder beside the model directory and then renamed, and
one that is removed is renamed before it is deleted. So the model directory never holds an incomplete version, even if the
process is killed. The next export removes the folder that a killed process leaves behind, unless it is still empty.
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
    """A model directory, and the version to write into it.

    Args:
        path: The directory, which need not exist.
        version: The number of the new version. `None`: one more than the highest version.
        keep: How many versions to keep, the highest ones, once the new one is written. `None`: all.

    Raises:
        TypeError: A number is not an integer.
        ValueError: A number is out of range, or `path` is not local, is a file, is a mount point, or holds something
            other than versions.
        FileExistsError: The version exists.
    """

    def __init__(self, path: str | os.PathLike[str], version: int | None = None, keep: int | None = None) -> None:
        if "://" in os.fspath(path):
            raise ValueError(f"`path` must be a local directory. Received: {os.fspath(path)}")
        self.path = Path(os.path.realpath(path))
        self._path_as_given = Path(path)
        self._version = integer_or_none(version, "version", at_least=0)
        self._keep = integer_or_none(keep, "keep", at_least=1)
        self._next_version()
        if os.path.ismount(self.path):
            raise ValueError(
                f"`path` must be a directory below a mount point, because versions are moved into it from beside it. "
                f"Received: {self._path_as_given}, where a file system is mounted"
            )

    def versions(self) -> list[int]:
        """Return the existing versions, ascending.

        Raises:
            ValueError: The path is a file or holds something other than versions.
        """
        if not self.path.exists():
            return []
        if not self.path.is_dir():
            raise ValueError(
                f"`path` must be a model directory, which holds integer versions. Received: {self._path_as_given}, a file"
            )
        names = [entry.name for entry in self.path.iterdir()]
        others = sorted(name for name in names if not (name.isascii() and name.isdecimal()))
        if others:
            raise ValueError(
                "`path` must be a directory that holds nothing but integer versions. "
                f"Received: {self._path_as_given}, which holds {others}"
            )
        return sorted(map(int, names))

    @contextlib.contextmanager
    def unfinished(self) -> Iterator[Path]:
        """Create a folder beside the model directory, on the same file system, and remove it at the end of the block."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked_folder_beside(self.path) as folder:
            yield folder

    def publish(self, model: Path) -> Path:
        """Move a complete model into the model directory.

        Args:
            model: A directory in an `unfinished` folder.

        Returns:
            The version directory, below the path as it was given.

        Raises:
            FileExistsError: The version exists.
        """
        flush(model)
        self.path.mkdir(exist_ok=True)
        while True:
            number = self._next_version()
            try:
                model.rename(self.path / str(number))
            except OSError as error:
                # Another process may have written this version in the meantime.
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                break
        flush_entries(self.path)
        if self._keep is not None:
            for version in self.versions()[: -self._keep]:
                self._remove(version)
        return self._path_as_given / str(number)

    def _next_version(self) -> int:
        """Return the number of the new version."""
        existing = self.versions()
        if self._version is None:
            return 1 + max(existing, default=0)
        if self._version in existing:
            raise FileExistsError(f"{self._path_as_given / str(self._version)} exists: a version is never overwritten")
        if self._keep is not None and sum(number > self._version for number in existing) >= self._keep:
            raise ValueError(
                f"`version` must be among the {self._keep} highest, which `keep` keeps: it would be removed at once. "
                f"Received: version={self._version}, keep={self._keep}; {existing[-self._keep :]} are higher"
            )
        return self._version

    def _remove(self, version: int) -> None:
        with self.unfinished() as folder, contextlib.suppress(FileNotFoundError):
            (self.path / str(version)).rename(folder / "removed")
