"""Paths, folders and patterns -> files."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any, Final

import tensorflow as tf

from keras_rafm.data.raw.tensorflow_io import tensorflow_io

PathLike = str | os.PathLike[str]

_WILDCARDS: Final = "*?["
_HIDDEN: Final = (".", "_")
#: What tensorflow-io registers.
_SCHEMES_OF_TENSORFLOW_IO: Final = frozenset({"s3", "az", "http", "https", "hdfs", "viewfs", "har", "oss", "gs"})


def files_of(path_or_paths: PathLike | Sequence[PathLike]) -> list[str]:
    """The files that are meant, in order: those of a folder or a pattern by name.

    Args:
        path_or_paths: Files, folders (of which all files are meant whose names don't begin with a dot or an underscore) and
            patterns such as `"train/*.parquet"`, one or several. A `*` or `?` at the start of a pattern's last part means
            no such name either. `~` is the home directory. Paths such as `gs://…` go through TensorFlow's file systems;
            for `s3://`, `az://`, `http://`, `https://` and `hdfs://`, tensorflow-io (the extra `io`) is imported. HTTP
            servers have neither folders nor patterns.

    Raises:
        FileNotFoundError: There is no such file, or no file fits a pattern.
        ImportError: The file system needs tensorflow-io, and that is not installed.
        OSError: A server can't be reached or refuses.
        ValueError: A folder has no files, or has folders that are not empty, no path is given, or there is no such file
            system.
    """
    given = [path_or_paths] if isinstance(path_or_paths, str | os.PathLike) else list(path_or_paths)
    if not given:
        raise ValueError("paths must name at least one file. Received an empty sequence")
    found: list[str] = []
    for path in [os.fspath(path) for path in given]:
        _know_file_system(path)
        try:
            found += _files(path if is_remote(path) else os.path.expanduser(path))
        except tf.errors.OpError as error:
            raise OSError(f"{path}: {error.message}") from error
    return found


def is_remote(path: str) -> bool:
    """Whether a path has to go through TensorFlow's file systems."""
    return "://" in path


def is_gzip(path: str) -> bool:
    """Whether a file's name says that it is compressed."""
    return path.lower().endswith(".gz")


def _know_file_system(path: str) -> None:
    """Have tensorflow-io register the file system of a path that TensorFlow itself can't open."""
    if not is_remote(path):
        return
    scheme = path.partition("://")[0]
    if scheme in tf.io.gfile.get_registered_schemes():
        return
    if scheme not in _SCHEMES_OF_TENSORFLOW_IO:
        known = sorted(_SCHEMES_OF_TENSORFLOW_IO | set(filter(None, tf.io.gfile.get_registered_schemes())))
        raise ValueError(f"{path}: there is no file system '{scheme}://' among {known}")
    try:
        tensorflow_io()
    except ImportError as error:
        raise ImportError(f"{path}: for '{scheme}://', {error}") from error


def opened(path: str) -> io.BufferedReader:
    """A file to read bytes from, wherever it is.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: As in `files_of`.
        OSError: It can't be opened or read.
    """
    _know_file_system(path)
    return io.BufferedReader(_RemoteFile(path)) if is_remote(path) else open(path, "rb")


class _RemoteFile(io.RawIOBase):
    """A file of TensorFlow's file systems as Python and pyarrow know files, with Python's errors."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._file = tf.io.gfile.GFile(path, "rb")
            self._file.size()  # that it is there
        except tf.errors.OpError as error:
            raise self._os_error(error) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            found: bytes = self._file.read(len(view))
        except tf.errors.OpError as error:
            raise self._os_error(error) from error
        view[: len(found)] = found
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()

    def _os_error(self, error: tf.errors.OpError) -> OSError:
        if isinstance(error, tf.errors.NotFoundError):
            return FileNotFoundError(f"there is no file {self._path}")
        return OSError(f"{self._path}: {error.message}")


def _files(path: str) -> list[str]:
    file_system = tf.io.gfile
    if file_system.isdir(path):
        names = (name.rstrip("/") for name in file_system.listdir(path) if not name.startswith(_HIDDEN))
        entries = [os.path.join(path, name) for name in names]
        folders = [entry for entry in entries if file_system.isdir(entry)]
        files = sorted(set(entries) - set(folders))
        inner = [folder for folder in folders if file_system.listdir(folder)]
        if inner:  # whose files would be left out without a word
            pattern = os.path.join(path, "*", "*")
            raise ValueError(f"{path} has the folder {inner[0]}: name the files by patterns such as {pattern}")
        if not files:
            raise ValueError(f"there are no files in the folder {path}")
        return files
    if file_system.exists(path):
        return [path]
    if any(wildcard in path for wildcard in _WILDCARDS):
        found = sorted(file_system.glob(path))
        if os.path.basename(path).startswith(("*", "?")):
            found = [file for file in found if not os.path.basename(file).startswith(_HIDDEN)]
        files = [file for file in found if not file_system.isdir(file)]
        if not files:
            raise FileNotFoundError(f"no file fits the pattern {path}")
        return files
    raise FileNotFoundError(f"there is no file {path}")
