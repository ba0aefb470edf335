"""Files that one process at a time holds."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_rafm.cli.settings import UsageError


@contextlib.contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Hold a file, which is there meanwhile. Whatever ends the process, it is held no longer.

    Args:
        path: Of the file.
        refusal: What is said if another process holds it.

    Raises:
        UsageError: One does.
    """
    try:
        fcntl: Any = importlib.import_module("fcntl")
    except ImportError:  # on Windows
        yield
        return
    file = _held(fcntl, path, refusal)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(file)


def _held(fcntl: Any, path: Path, refusal: str) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(file)
            raise UsageError(refusal) from error
        except OSError:  # a file system without locks
            return file
        if path.exists() and os.path.samestat(os.fstat(file), path.stat()):
            return file
        os.close(file)  # who held it before removed it in between
