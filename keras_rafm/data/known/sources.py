"""Files as their authors distribute them: plain or gzip, in a folder or in the archive they publish."""

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
    """How a dataset is distributed.

    Attributes:
        dataset: Its name.
        files: Those it is made from: for each one the names that it may have, the authors' own first.
        folders: What folders are called that the authors put these files in.
        archive: What the archive with these files is called, if they publish one.
    """

    dataset: str
    files: tuple[tuple[str, ...], ...]
    folders: tuple[str, ...] = ()
    archive: str | None = None

    @property
    def expected(self) -> str:
        """What has to be there, in words."""
        files = ", ".join(" or ".join(names) for names in self.files)
        plain = f"{files} ({'each ' if len(self.files) > 1 else ''}plain, or gzip with .gz behind the name)"
        return plain if self.archive is None else f"{plain}, or {self.archive}"


@dataclass(frozen=True)
class Source:
    """A file that a dataset is made from.

    Attributes:
        name: What it is called in messages.
        opened: Opens it, unpacked.
    """

    name: str
    opened: Callable[[], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True)
class Found:
    """The files of a dataset.

    Attributes:
        sources: By the authors' names.
        paths: The files on disk that hold them.
        are_compressed: Whether some of them are.
    """

    sources: Mapping[str, Source]
    paths: tuple[Path, ...]
    are_compressed: bool


def find_sources(path: Path, layout: Layout) -> Found:
    """The files of a dataset in a folder or an archive; or a file itself, if the dataset is made from just one.

    Raises:
        FileNotFoundError: There is nothing at `path`, or some file is not there.
        ValueError: `path` is one file of several, or several folders in it fit.
    """
    if path.is_dir():
        return _in_folder(path, layout)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file or folder {path}. {layout.dataset} is made from {layout.expected}")
    members = _archive_members(path)
    if members is not None:
        chosen = _choose(members, layout, f"the archive {path}")
        sources = {name: _of_archive(path, member) for name, member in chosen.items()}
        return Found(sources, (path,), are_compressed=True)
    if len(layout.files) > 1:
        raise ValueError(
            f"{path} is neither a folder nor an archive: {layout.dataset} is made from {layout.expected}; give the folder "
            f"that has them, such as path={os.fspath(path.parent)!r}"
        )
    return _of_files({layout.files[0][0]: path})


def _in_folder(folder: Path, layout: Layout) -> Found:
    there = []
    for inner in ("", *layout.folders):
        if (folder / inner).is_dir():
            there += [posixpath.join(inner, file.name) for file in (folder / inner).iterdir() if file.is_file()]
    archive = folder / layout.archive if layout.archive is not None else None
    try:
        chosen = _choose(there, layout, f"the folder {folder}")
    except FileNotFoundError:
        if archive is None or not archive.is_file():
            raise
        return find_sources(archive, layout)
    return _of_files({name: folder / member for name, member in chosen.items()})


def _choose(members: Sequence[str], layout: Layout, place: str) -> dict[str, str]:
    """Which member each file is: all of them from one folder."""
    by_folder: dict[str, dict[str, str]] = defaultdict(dict)
    for member in members:
        by_folder[posixpath.dirname(member)][posixpath.basename(member)] = member
    fitting: dict[str, dict[str, str]] = {}
    missing = [names[0] for names in layout.files]
    for folder, own in by_folder.items():
        chosen = {}
        for names in layout.files:
            accepted = [name for plain in names for name in (plain, plain + ".gz") if name in own]
            if accepted:
                chosen[names[0]] = own[accepted[0]]
        if len(chosen) == len(layout.files):
            fitting[folder] = chosen
        else:
            lacks = [names[0] for names in layout.files if names[0] not in chosen]
            missing = min(missing, lacks, key=len)
    if not fitting:
        shown = [posixpath.basename(member) for member in sorted(members)[:_NAMES_SHOWN]]
        more = len(members) - len(shown)
        raise FileNotFoundError(
            f"{place} lacks {', '.join(missing)} of {layout.dataset}, which is made from {layout.expected}. "
            f"It has: {', '.join(shown) or 'no files'}{f' and {more} more' if more > 0 else ''}"
        )
    # A folder itself comes before those in it, and those that the authors name before others.
    own_folders = [folder for folder in fitting if posixpath.basename(folder) in layout.folders]
    preferred = [""] if "" in fitting else own_folders or list(fitting)
    if len(preferred) > 1:
        raise ValueError(
            f"{place} has {layout.dataset} in several folders: {', '.join(sorted(preferred))}; name one of them"
        )
    return fitting[preferred[0]]


def _archive_members(path: Path) -> list[str] | None:
    """Names of the files in an archive; `None` for what is none."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return [member.filename for member in archive.infolist() if not member.is_dir()]
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            return [member.name.removeprefix("./") for member in archive if member.isfile()]
    return None


def _of_files(paths: Mapping[str, Path]) -> Found:
    sources = {name: Source(os.fspath(path), _opener(os.fspath(path), path.open)) for name, path in paths.items()}
    return Found(sources, tuple(paths.values()), any(_is_gzip(path) for path in paths.values()))


def _of_archive(path: Path, member: str) -> Source:
    name = f"{path}, {member}"

    @contextlib.contextmanager
    def opened(mode: str) -> Iterator[IO[bytes]]:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as zipped, zipped.open(member) as file:
                yield file
        else:
            with tarfile.open(path) as packed:
                for own in packed:
                    if own.isfile() and own.name.removeprefix("./") == member:
                        unpacked = packed.extractfile(own)
                        assert unpacked is not None
                        yield unpacked
                        return
                raise FileNotFoundError(f"{name} is not there any more")

    return Source(name, _opener(name, opened))


def _opener(
    name: str, opened: Callable[[str], AbstractContextManager[Any]]
) -> Callable[[], AbstractContextManager[BinaryIO]]:
    """Unpacks gzip; what is wrong in a file is told with its name."""

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
            raise ValueError(f"{name} is damaged or cut short ({error})") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not in the encoding {error.encoding} ({error})") from error

    return unpacked


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == _GZIP_MAGIC
