"""Where predictions are written to."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from keras_rafm.cli.errors import UsageError
from keras_rafm.files.atomic import new_file

_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


def check_output(path: str | None, inputs: Sequence[str]) -> None:
    """Raise a `UsageError` unless `path` is a new or existing file in an existing directory, a pipe or a device.

    Args:
        path: The value of --output.
        inputs: The files of --data, which must not be overwritten.
    """
    if path is None or path in _STDOUT:
        return
    for file in inputs:
        if os.path.exists(path) and os.path.exists(file) and os.path.samefile(path, file):
            raise UsageError(f"--output must not be one of the files of --data. Received: {path}, which is {file}")
    if _is_stream(path):
        return
    target = Path(os.path.realpath(path))
    if target.is_dir() or not target.parent.is_dir():
        raise UsageError(f"--output must be a file in an existing directory. Received: {path}")


@contextlib.contextmanager
def output(path: str | None, inputs: Sequence[str]) -> Iterator[TextIO]:
    """Open the output. A file is written atomically; a pipe or a device is written to as rows are scored.

    Args:
        path: The value of --output. A symbolic link is followed.
        inputs: The files of --data.

    Raises:
        UsageError: See `check_output`.
    """
    check_output(path, inputs)
    if path is None or path in _STDOUT:
        yield sys.stdout
    elif _is_stream(path):
        with open(path, "w", encoding="utf-8") as stream:
            yield stream
    else:
        with new_file(Path(os.path.realpath(path))) as unfinished, unfinished.open("w", encoding="utf-8") as stream:
            yield stream


def _is_stream(path: str) -> bool:
    """Return whether a path is a pipe or a device."""
    return os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path)
