"""The files of a dataset as its authors distribute them: plain or gzip, in a folder or in an archive."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import posixpath
import tarfile
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

_GZIP_MAGIC = b"\x1f\x8b"
_DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, tarfile.TarError)
_NAMES_SHOWN = 8


@dataclass(frozen=True)
class Layout:
    """How the authors distribute a dataset.

    Attributes:
        dataset: The name of the dataset.
        files: For each file that is needed, the names that it may have, the authors' name first.
        folders: The names of folders in which the authors put these files.
        archive: The name of the archive that they publish, if there is one.
    """

    dataset: str
    files: tuple[tuple[str, ...], ...]
    folders: tuple[str, ...] = ()
    archive: str | None = None

    @property
    def expected(self) -> str:
        """The files that are needed, in words for messages."""
        names = ", ".join(" or ".join(names) for names in self.files)
        files = f"{names} ({'each ' if len(self.files) > 1 else ''}plain, or gzip with .gz appended to the name)"
        return files if self.archive is None else f"{files}, or {self.archive}"


@dataclass(frozen=True)
class Source:
    """A file of the authors.

    Attributes:
        name: The name for messages.
        opened: Opens the file, decompressed, as a context manager.
    """

    name: str
    opened: Callable[[], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True)
class SourceFiles:
    """All files of a dataset.

    Attributes:
        sources: The files by the authors' names.
        paths: The files or the archive on disk.
        are_compressed: Whether any of them is compressed.
    """

    sources: Mapping[str, Source]
    paths: tuple[Path, ...]
    are_compressed: bool


def find_sources(path: Path, layout: Layout) -> SourceFiles:
    """Find the files of a dataset.

    Args:
        path: A folder or an archive with the files; or the file itself, if the dataset needs just one.
        layout: How the authors distribute the dataset.

    Raises:
        FileNotFoundError: `path` or a file in it is not found.
        ValueError: `path` is one of several files, or several folders in it have all files.
    """
    if path.is_dir():
        return _in_folder(path, layout)
    if not path.is_file():
        raise FileNotFoundError(f"file or folder not found: {path}. {layout.dataset} needs {layout.expected}")
    members = _archive_members(path)
    if members is not None:
        chosen = _choose(members, layout, f"the archive {path}")
        sources = {name: _of_archive(path, member) for name, member in chosen.items()}
        return SourceFiles(sources, (path,), are_compressed=True)
    if len(layout.files) > 1:
        raise ValueError(
            f"{path} is neither a folder nor an archive: {layout.dataset} needs {layout.expected}; pass the folder with "
            f"these files, such as path={os.fspath(path.parent)!r}"
        )
    return _of_files({layout.files[0][0]: path})


def _in_folder(folder: Path, layout: Layout) -> SourceFiles:
    members = []
    for inner in ("", *layout.folders):
        if (folder / inner).is_dir():
            members += [posixpath.join(inner, file.name) for file in (folder / inner).iterdir() if file.is_file()]
    archive = folder / layout.archive if layout.archive is not None else None
    try:
        chosen = _choose(members, layout, f"the folder {folder}")
    except FileNotFoundError:
        if archive is None or not archive.is_file():
            raise
        return find_sources(archive, layout)
    return _of_files({name: folder / member for name, member in chosen.items()})


def _choose(members: Sequence[str], layout: Layout, place: str) -> dict[str, str]:
    """Return the member of a folder or an archive for each file of the layout, by the authors' name.

    All files are taken from one inner folder.

    Args:
        members: Paths of all files, relative to the folder or archive.
        layout: The files that are needed.
        place: The folder or archive, for messages.
    """
    by_folder: dict[str, dict[str, str]] = defaultdict(dict)
    for member in members:
        by_folder[posixpath.dirname(member)][posixpath.basename(member)] = member
    complete: dict[str, dict[str, str]] = {}
    missing = [names[0] for names in layout.files]
    for folder, member_of_name in by_folder.items():
        chosen = {}
        for names in layout.files:
            accepted = [name for plain in names for name in (plain, plain + ".gz") if name in member_of_name]
            if accepted:
                chosen[names[0]] = member_of_name[accepted[0]]
        if len(chosen) == len(layout.files):
            complete[folder] = chosen
        else:
            missing_here = [names[0] for names in layout.files if names[0] not in chosen]
            missing = min(missing, missing_here, key=len)
    if not complete:
        shown = [posixpath.basename(member) for member in sorted(members)[:_NAMES_SHOWN]]
        more = len(members) - len(shown)
        raise FileNotFoundError(
            f"{place} lacks {', '.join(missing)} of {layout.dataset}, which needs {layout.expected}. "
            f"It has: {', '.join(shown) or 'no files'}{f' and {more} more' if more > 0 else ''}"
        )
    # The outermost folder is preferred to inner folders, and folders that the authors name to other folders.
    named_folders = [folder for folder in complete if posixpath.basename(folder) in layout.folders]
    preferred = [""] if "" in complete else named_folders or list(complete)
    if len(preferred) > 1:
        raise ValueError(
            f"{place} has {layout.dataset} in several folders: {', '.join(sorted(preferred))}; name one of them"
        )
    return complete[preferred[0]]


def _archive_members(path: Path) -> list[str] | None:
    """Return the names of the files in an archive, or `None` if the file is not an archive."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return [member.filename for member in archive.infolist() if not member.is_dir()]
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            return [member.name.removeprefix("./") for member in archive if member.isfile()]
    return None


def _of_files(paths: Mapping[str, Path]) -> SourceFiles:
    sources = {name: Source(os.fspath(path), _opener(os.fspath(path), path.open)) for name, path in paths.items()}
    return SourceFiles(sources, tuple(paths.values()), any(_is_gzip(path) for path in paths.values()))


def _of_archive(path: Path, member: str) -> Source:
    name = f"{path}, {member}"

    @contextlib.contextmanager
    def opened(mode: str) -> Iterator[IO[bytes]]:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped, zipped.open(member) as file:
                yield file
        else:
            with tarfile.open(path) as packed:
                for entry in packed:
                    if entry.isfile() and entry.name.removeprefix("./") == member:
                        unpacked = packed.extractfile(entry)
                        assert unpacked is not None
                        yield unpacked
                        return
                raise FileNotFoundError(f"{name} was removed while it was in use")

    return Source(name, _opener(name, opened))


def _opener(
    name: str, opened: Callable[[str], AbstractContextManager[Any]]
) -> Callable[[], AbstractContextManager[BinaryIO]]:
    """Return a function that opens a file, decompresses gzip, and raises errors that name the file.

    Args:
        name: The name of the file for errors.
        opened: Opens the file as it is.
    """

    @contextlib.contextmanager
    def unpacked() -> Iterator[BinaryIO]:
        try:
            with opened("rb") as raw:
                file = io.BufferedReader(raw, 1 << 20)
                if file.peek(2)[:2] == _GZIP_MAGIC:
                    with gzip.GzipFile(fileobj=file) as packed:
                        yield io.BufferedReader(packed, 1 << 20)
                else:
                    yield file
        except _DAMAGED as error:
            raise ValueError(f"{name} is damaged or truncated ({error})") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not in the encoding {error.encoding} ({error})") from error

    return unpacked


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC
