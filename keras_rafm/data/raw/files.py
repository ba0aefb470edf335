"""Paths, folders and patterns -> files; local and remote files opened for reading."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any, Final

import tensorflow as tf

from keras_rafm.data.raw.tensorflow_io import tensorflow_io
from keras_rafm.files.paths import find_files

PathLike = str | os.PathLike[str]

#: The schemes that tensorflow-io registers.
_SCHEMES_OF_TENSORFLOW_IO: Final = frozenset({"s3", "az", "http", "https", "hdfs", "viewfs", "har", "oss", "gs"})


def files_of(path_or_paths: PathLike | Sequence[PathLike]) -> list[str]:
    """Return the files that paths stand for, in order; the files of a folder or a pattern are sorted by name.

    Args:
        path_or_paths: One or several files, folders, or patterns such as `"train/*.parquet"`. A folder stands for all of
            its files whose names do not begin with a dot or an underscore; a `*` or `?` at the start of a pattern's last
            part does not match such names either. `~` is the home directory. Paths such as `gs://…` go through
            TensorFlow's file systems; for `s3://`, `az://`, `http://`, `https://` and `hdfs://`, tensorflow-io (the extra
            `io`) is imported. HTTP servers have neither folders nor patterns.

    Raises:
        FileNotFoundError: A file does not exist, or no file matches a pattern.
        ImportError: The file system needs tensorflow-io, which is not installed.
        OSError: A server can't be reached or refuses the request.
        ValueError: A folder is empty or contains non-empty folders, no path is given, or the file system is unknown.
    """
    paths = [path_or_paths] if isinstance(path_or_paths, str | os.PathLike) else list(path_or_paths)
    if not paths:
        raise ValueError("paths must name at least one file. Received an empty sequence")
    files: list[str] = []
    for path in [os.fspath(path) for path in paths]:
        register_file_system(path)
        try:
            files += find_files(path if is_remote(path) else os.path.expanduser(path), tf.io.gfile)
        except tf.errors.OpError as error:
            raise OSError(f"{path}: {error.message}") from error
    return files


def is_remote(path: str) -> bool:
    """Return whether a path has to go through TensorFlow's file systems."""
    return "://" in path


def is_gzip(path: str) -> bool:
    """Return whether a file's name ends with `.gz`, in any case."""
    return path.lower().endswith(".gz")


def register_file_system(path: str) -> None:
    """Import tensorflow-io if a path is in a file system that TensorFlow itself does not have.

    Raises:
        ImportError: tensorflow-io is needed and not installed, or was built for another version of TensorFlow.
        ValueError: The file system is unknown.
    """
    if not is_remote(path):
        return
    scheme = path.partition("://")[0]
    if scheme in tf.io.gfile.get_registered_schemes():
        return
    if scheme not in _SCHEMES_OF_TENSORFLOW_IO:
        known = sorted(_SCHEMES_OF_TENSORFLOW_IO | set(filter(None, tf.io.gfile.get_registered_schemes())))
        raise ValueError(f"{path}: the file system must be one of {known}. Received: '{scheme}://'")
    try:
        tensorflow_io()
    except ImportError as error:
        raise ImportError(f"{path}: cannot open '{scheme}://' paths: {error}") from error


def opened(path: str) -> io.BufferedReader:
    """Open a local or remote file to read bytes from it.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: See `register_file_system`.
        OSError: The file can't be opened or read.
    """
    register_file_system(path)
    return io.BufferedReader(_RemoteFile(path)) if is_remote(path) else open(path, "rb")


class _RemoteFile(io.RawIOBase):
    """A file in one of TensorFlow's file systems, with the interface and the errors of Python's files."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._file = tf.io.gfile.GFile(path, "rb")
            self._file.size()  # raises an error if the file does not exist
        except tf.errors.OpError as error:
            raise self._os_error(error) from error

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            content: bytes = self._file.read(len(view))
        except tf.errors.OpError as error:
            raise self._os_error(error) from error
        view[: len(content)] = content
        return len(content)

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
            return FileNotFoundError(f"file not found: {self._path}")
        return OSError(f"{self._path}: {error.message}")
