"""Paths, folders and patterns -> files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import tensorflow as tf

PathLike = str | os.PathLike[str]

_WILDCARDS: Final = "*?["


def files_of(path_or_paths: PathLike | Sequence[PathLike]) -> list[str]:
    """The files that are meant, in order: those of a folder or a pattern by name.

    Args:
        path_or_paths: Files, folders (of which all files are meant whose names don't begin with a dot or an underscore) and
            patterns such as `"train/*.parquet"`, one or several. Paths such as `s3://…` go through TensorFlow's file
            systems; `import tensorflow_io` registers more of them.

    Raises:
        FileNotFoundError: There is no such file, or no file fits a pattern.
        ValueError: A folder has no files, or no path is given.
    """
    given = [path_or_paths] if isinstance(path_or_paths, str | os.PathLike) else list(path_or_paths)
    if not given:
        raise ValueError("paths must name at least one file. Received an empty sequence")
    return [file for path in given for file in _files(os.fspath(path))]


def is_remote(path: str) -> bool:
    """Whether a path has to go through TensorFlow's file systems."""
    return "://" in path


def _files(path: str) -> list[str]:
    file_system = tf.io.gfile
    if file_system.isdir(path):
        names = (name.rstrip("/") for name in file_system.listdir(path) if not name.startswith((".", "_")))
        files = [file for file in sorted(os.path.join(path, name) for name in names) if not file_system.isdir(file)]
        if not files:
            raise ValueError(f"there are no files in the folder {path}")
        return files
    if file_system.exists(path):
        return [path]
    if any(wildcard in path for wildcard in _WILDCARDS):
        files = [file for file in sorted(file_system.glob(path)) if not file_system.isdir(file)]
        if not files:
            raise FileNotFoundError(f"no file fits the pattern {path}")
        return files
    raise FileNotFoundError(f"there is no file {path}")
