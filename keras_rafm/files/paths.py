"""Find the files that a path, a folder or a pattern stands for."""

from __future__ import annotations

import glob
import os
from typing import Protocol

_WILDCARDS = "*?["
_HIDDEN = (".", "_")


class FileSystem(Protocol):
    """The functions of `tf.io.gfile` that `find_files` calls."""

    def isdir(self, path: str) -> bool:
        """Return whether a path is a folder."""

    def exists(self, path: str) -> bool:
        """Return whether a path is a file or a folder."""

    def listdir(self, path: str) -> list[str]:
        """Return the names in a folder, in which the name of a folder may end with a slash."""

    def glob(self, pattern: str) -> list[str]:
        """Return the paths that match a pattern. A wildcard also matches a leading dot."""


class LocalFileSystem:
    """The local file system, without TensorFlow. See `FileSystem`."""

    def isdir(self, path: str) -> bool:
        """See `FileSystem.isdir`."""
        return os.path.isdir(path)

    def exists(self, path: str) -> bool:
        """See `FileSystem.exists`."""
        return os.path.exists(path)

    def listdir(self, path: str) -> list[str]:
        """See `FileSystem.listdir`."""
        return os.listdir(path)

    def glob(self, pattern: str) -> list[str]:
        """See `FileSystem.glob`."""
        return glob.glob(pattern, include_hidden=True)


def find_files(path: str, file_system: FileSystem) -> list[str]:
    """Return the files that a path stands for, sorted by name.

    Args:
        path: A file, a folder (for the files in it) or a pattern such as `"train/*.csv"`. Files in a folder are left out if
            their names begin with a dot or an underscore, and so are matches of a pattern's leading `*` or `?`.
        file_system: The file system of the path.

    Raises:
        FileNotFoundError: The file does not exist, or no file matches the pattern.
        ValueError: The folder has no files, or holds a folder that is not empty.
    """
    if file_system.isdir(path):
        return _files_in(path, file_system)
    if file_system.exists(path):
        return [path]
    if not any(wildcard in path for wildcard in _WILDCARDS):
        raise FileNotFoundError(f"file not found: {path}")
    matches = sorted(file_system.glob(path))
    if os.path.basename(path).startswith(("*", "?")):
        matches = [match for match in matches if not os.path.basename(match).startswith(_HIDDEN)]
    files = [match for match in matches if not file_system.isdir(match)]
    if not files:
        raise FileNotFoundError(f"no file matches the pattern {path}")
    return files


def _files_in(folder: str, file_system: FileSystem) -> list[str]:
    names = (name.rstrip("/") for name in file_system.listdir(folder) if not name.startswith(_HIDDEN))
    entries = [os.path.join(folder, name) for name in names]
    folders = [entry for entry in entries if file_system.isdir(entry)]
    for inner in folders:
        if file_system.listdir(inner):  # without an error, its files would be left out silently
            pattern = os.path.join(folder, "*", "*")
            raise ValueError(f"{folder} contains the folder {inner}: specify its files by a pattern such as {pattern}")
    files = sorted(set(entries) - set(folders))
    if not files:
        raise ValueError(f"the folder {folder} contains no files")
    return files
