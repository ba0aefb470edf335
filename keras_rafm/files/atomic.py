"""Write files and directories atomically: a reader finds either a complete file or directory, or none.

New content is written to a hidden folder beside its target, which is therefore on the same file system, and then renamed.
The target stays complete even if the process is killed; at worst, the hidden folder is left behind.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_rafm.files.locks import LockState, lock

_LOCK = "lock"


@contextlib.contextmanager
def folder_beside(target: Path, prefix: str | None = None) -> Iterator[Path]:
    """Create a temporary folder beside a file or directory, and remove it at the end of the block.

    Args:
        target: The file or directory, which need not exist.
        prefix: The beginning of the folder's name, by default a dot and the name of the target.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix or f".{target.name}.", dir=target.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Replace a file by the one written in the block, if the block raises no exception.

    Args:
        target: The file, which need not exist.

    Yields:
        The path to write to. It has the same name in another folder.
    """
    with folder_beside(target) as folder:
        yield folder / target.name
        (folder / target.name).replace(target)


def write_text(target: Path, text: str) -> None:
    """Replace a file by one with the given text, in UTF-8."""
    with new_file(target) as path:
        path.write_text(text, encoding="utf-8")


def replace_directory(new: Path, target: Path) -> None:
    """Move a directory to `target`. If that fails, a previous `target` stays.

    Args:
        new: The directory, in a folder made by `folder_beside`. A previous `target` is moved to the same folder.
        target: The new path.
    """
    old = new.with_name(f"{new.name}.old")
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        if old.exists():
            old.rename(target)
        raise


@contextlib.contextmanager
def locked_folder_beside(target: Path) -> Iterator[Path]:
    """As `folder_beside`, and remove the folders that killed processes left.

    The folder holds a file that is locked while the process uses the folder. Any folder whose lock is free is a leftover.
    """
    _remove_leftovers(target)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    # The file is locked before it has the name that other processes look for, and until the folder is removed.
    (folder / "new_lock").touch()
    with lock(folder / "new_lock"):
        try:
            (folder / "new_lock").rename(folder / _LOCK)
            yield folder
        finally:
            _remove_lock_last(folder)


def flush(path: Path) -> None:
    """Write a directory and its files to the disk. Otherwise, a power cut may lose the files but keep a later rename."""
    for folder, _, names in os.walk(path):
        for name in names:
            descriptor = os.open(Path(folder) / name, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        flush_entries(Path(folder))


def flush_entries(directory: Path) -> None:
    """Write the names in a directory to the disk, where the system supports it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_leftovers(target: Path) -> None:
    for folder in target.parent.glob(f".{_escaped(target.name)}.*"):
        # A folder may vanish, have no lock yet, or belong to another user.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError), lock(folder / _LOCK) as state:
            if state is LockState.HELD:
                _remove_lock_last(folder)


def _remove_lock_last(folder: Path) -> None:
    """Remove a folder such that a process killed meanwhile leaves one with a lock, which others recognize as a leftover."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != _LOCK:
            entry.unlink()
    shutil.rmtree(folder)


def _escaped(name: str) -> str:
    """Return a pattern that matches a name literally."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
