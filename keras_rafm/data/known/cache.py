"""The cache of prepared datasets: files that are written once and used again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_rafm.data.known.splits import SPLITS, SplitWriter
from keras_rafm.files.atomic import folder_beside, replace_directory

_CONTENTS = "contents.json"
_HASHED_WHOLE = 1 << 26
_HASHED_ENDS = 1 << 20
_ABANDONED_SECONDS = 24 * 60 * 60


@dataclass(frozen=True)
class Contents:
    """The content of one folder of the cache.

    Attributes:
        files: The paths of the files of each split.
        num_rows: The number of rows of each split.
    """

    files: Mapping[str, tuple[str, ...]]
    num_rows: Mapping[str, int]


def cache_root(cache_dir: str | os.PathLike[str] | None) -> Path:
    """Return `cache_dir`, or by default the folder `keras_rafm` in Keras's own folder (`KERAS_HOME`, or `~/.keras`)."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser() / "keras_rafm"


def fingerprint(paths: Iterable[Path]) -> list[Any]:
    """Return names, sizes and digests that identify files.

    A digest covers the whole file. For a large file it covers the beginning, the end and the time of the last change.
    """
    return [[path.name, path.stat().st_size, _digest(path)] for path in paths]


def prepared(root: Path, name: str, key: Any, make: Callable[[Path], SplitWriter]) -> Contents:
    """Return the files of a folder in the cache, after writing them if there are none yet.

    The folder appears in the cache atomically. If several processes write it at the same time, the first one wins.

    Args:
        root: The folder of the cache.
        name: The beginning of the folder's name.
        key: Everything that the files depend on, as plain values for JSON.
        make: Writes the files to the folder that it receives.

    Raises:
        OSError: The cache can't be written.
        ValueError: A split has no rows, or `make` raises the error.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    folder = root / f"{name}-{digest}"
    contents = _read(folder)
    if contents is not None:
        return contents
    with contextlib.ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(root)
            temporary = stack.enter_context(folder_beside(folder, _temporary_prefix(name)))
        except OSError as error:
            raise OSError(
                f"the files of {name} can't be written to {root} ({error}); name another folder by `cache_dir`"
            ) from error
        files = temporary / "files"  # other users may read it, unlike the temporary folder
        files.mkdir()
        written = make(files)
        empty = [split for split in SPLITS if not written.num_rows[split]]
        if empty:
            num_rows = sum(written.num_rows.values())
            raise ValueError(f"{name} has too few rows: none are left for {', '.join(empty)}. Received: {num_rows} rows")
        _write_contents(files, written)
        _publish(files, folder)
    contents = _read(folder)
    if contents is None:
        raise OSError(f"{folder} was changed by another process while this process wrote it")
    return contents


def _temporary_prefix(name: str) -> str:
    return f".making-{name}-"


def _remove_abandoned(root: Path) -> None:
    """Remove the temporary folders of killed processes: those in which nothing has changed for a day."""
    for folder in root.glob(_temporary_prefix("*") + "*"):
        with contextlib.suppress(OSError):
            newest = max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
            if time.time() - newest > _ABANDONED_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)


def _write_contents(folder: Path, written: SplitWriter) -> None:
    sizes = {split: {name: (folder / name).stat().st_size for name in names} for split, names in written.files.items()}
    (folder / _CONTENTS).write_text(json.dumps({"files": sizes, "num_rows": written.num_rows}, indent=1), "utf-8")


def _read(folder: Path) -> Contents | None:
    """Return the content of a folder, or `None` if a file is missing or has another size than when it was written."""
    try:
        contents = json.loads((folder / _CONTENTS).read_text("utf-8"))
        is_complete = all(
            (folder / name).stat().st_size == size for sizes in contents["files"].values() for name, size in sizes.items()
        )
        if not is_complete:
            return None
        files = {split: tuple(os.fspath(folder / name) for name in contents["files"][split]) for split in SPLITS}
        return Contents(files, {split: int(contents["num_rows"][split]) for split in SPLITS})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _publish(files: Path, folder: Path) -> None:
    """Move a folder of files to its place in the cache, unless another process has done so already."""
    try:
        files.rename(folder)
    except OSError:
        if _read(folder) is not None:
            return
        replace_directory(files, folder)  # the folder in the cache is incomplete


def _digest(path: Path) -> str:
    status = path.stat()
    hashed = hashlib.sha256()
    with path.open("rb") as file:
        if status.st_size <= _HASHED_WHOLE:
            while chunk := file.read(_HASHED_ENDS):
                hashed.update(chunk)
        else:
            hashed.update(file.read(_HASHED_ENDS))
            file.seek(-_HASHED_ENDS, os.SEEK_END)
            hashed.update(file.read(_HASHED_ENDS))
            hashed.update(str(status.st_mtime_ns).encode())
    return hashed.hexdigest()
