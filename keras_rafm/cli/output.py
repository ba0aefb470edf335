"""Where predictions go."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from keras_rafm.cli.settings import UsageError
from keras_rafm.files.atomic import new_file

_STDOUT = ("-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1")


@contextlib.contextmanager
def output(path: str | None, inputs: Sequence[str]) -> Iterator[TextIO]:
    """What to write to. A file is written beside its place and put there at the end; a pipe or a device is written to.

    Args:
        path: As it was given. A link is followed.
        inputs: The files that will be read.

    Raises:
        UsageError: It is a folder, in no folder, or a file that will be read.
    """
    if path is None or path in _STDOUT:
        yield sys.stdout
        return
    given = Path(path)
    for file in inputs:
        if given.exists() and os.path.exists(file) and given.samefile(file):
            raise UsageError(f"--output must be another file than those of --data. Received: {path}, which is {file}")
    if given.exists() and not given.is_file() and not given.is_dir():
        with given.open("w", encoding="utf-8") as file_like:
            yield file_like
        return
    place = Path(os.path.realpath(given))
    if place.is_dir() or not place.parent.is_dir():
        raise UsageError(f"--output must be a file in a directory that is there. Received: {path}")
    with new_file(place) as unfinished, unfinished.open("w", encoding="utf-8") as file_like:
        yield file_like
