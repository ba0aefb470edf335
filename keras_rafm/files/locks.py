"""A lock on a file, which the operating system releases however the process ends.

The package `filelock` can't replace it: `filelock` creates any file that it locks, whereas a leftover folder must only be
locked if its lock file exists, and it raises an error on a file system without locks, where this package works unlocked.
"""

from __future__ import annotations

import contextlib
import enum
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class LockState(enum.Enum):
    """The outcome of an attempt to lock a file."""

    HELD = enum.auto()
    HELD_ELSEWHERE = enum.auto()
    UNAVAILABLE = enum.auto()  # on Windows, and on file systems without locks


@contextlib.contextmanager
def lock(path: Path, temporary: bool = False) -> Iterator[LockState]:
    """Try to lock a file without waiting, and release it at the end of the block.

    Args:
        path: The file.
        temporary: Whether to create the file, and to remove it when the lock is released.

    Yields:
        Whether this process holds the lock.

    Raises:
        FileNotFoundError: The file does not exist and is not `temporary`.
    """
    try:
        fcntl: Any = importlib.import_module("fcntl")
    except ImportError:  # on Windows, where an open file can't be removed either
        yield LockState.UNAVAILABLE
        return
    descriptor, state = _open_and_lock(path, temporary, fcntl)
    try:
        yield state
    finally:
        if temporary and state is not LockState.HELD_ELSEWHERE:
            with contextlib.suppress(OSError):
                path.unlink()
        os.close(descriptor)


def _open_and_lock(path: Path, create: bool, fcntl: Any) -> tuple[int, LockState]:
    while True:
        descriptor = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return descriptor, LockState.HELD_ELSEWHERE
        except OSError:
            return descriptor, LockState.UNAVAILABLE
        if not create or (path.exists() and os.path.samestat(os.fstat(descriptor), path.stat())):
            return descriptor, LockState.HELD
        os.close(descriptor)  # the process that held the lock has removed the file in between
