"""A schema as a directory of files that later versions can read.

schema.json      what was declared; bins and scales; how many features each column has; digests of the other files and of
                 all of this, whatever its layout
counts.npy       occurrences of each feature in training data, int64
vocabulary/N.txt the values of column N that have a feature of their own, one a line, in the order of their ids: what a
                 TensorFlow look-up table reads as it is
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_rafm.data.columns.column import Column, Learnt
from keras_rafm.data.columns.learnt_columns import LearntColumns
from keras_rafm.files.atomic import folder_beside, replace_directory

_FORMAT, _FORMAT_VERSION = "keras_rafm.data.Schema", 1
_JSON, _COUNTS, _VOCABULARY = "schema.json", "counts.npy", "vocabulary"


def vocabulary_file(number: int) -> str:
    """Where the vocabulary of a column is, seen from the directory."""
    return f"{_VOCABULARY}/{number}.txt"


def write_schema(path: str | os.PathLike[str], config: Mapping[str, Any], of_columns: LearntColumns) -> None:
    """Write beside the directory, then put it in its place.

    Raises:
        ValueError: The directory is there and holds something else than a schema.
    """
    directory = Path(os.path.abspath(path))
    if directory.exists() and not _may_be_replaced(directory):
        raise ValueError(
            f"`path` must be a new or empty directory, or one that holds a schema and nothing else. Received: {directory}"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(directory) as folder:
        _write_files(folder / "new", config, of_columns)
        replace_directory(folder / "new", directory)


def read_schema(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], Callable[[Mapping[str, Column]], dict[str, Learnt]]]:
    """What was declared, and what gives what was learnt of the columns declared so.

    Raises:
        FileNotFoundError: There is no such directory, or a file of it is not there.
        ValueError: A file is damaged, belongs to another schema, or was written in a newer format.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise FileNotFoundError(f"there is no schema directory {directory}")
    try:
        head = json.loads((directory / _JSON).read_text(encoding="utf-8"))
        if head.get("format") != _FORMAT:
            raise ValueError(f"it has the format {head.get('format')!r}")
        version = int(head["format_version"])
    except FileNotFoundError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{directory / _JSON} is not a readable schema: {error}") from error
    if version > _FORMAT_VERSION:
        raise ValueError(f"{directory / _JSON} has schema format {version}; this version reads up to {_FORMAT_VERSION}")
    if head.get("digest") != _head_digest(head):
        raise ValueError(f"{directory / _JSON} is damaged or was edited: its contents don't have the digest that it says")

    def learnt(columns: Mapping[str, Column]) -> dict[str, Learnt]:
        try:
            return _read_learnt(directory, head["learnt"], columns)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{directory / _JSON} is damaged: {error!r}") from error

    try:
        return dict(head["config"]), learnt
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{directory / _JSON} is damaged: {error!r}") from error


def schema_digest(directory: Path) -> str:
    """The digest of a schema that was written there: of what was declared and of what was learnt."""
    return str(json.loads((directory / _JSON).read_text(encoding="utf-8"))["digest"])


def _write_files(directory: Path, config: Mapping[str, Any], of_columns: LearntColumns) -> None:
    (directory / _VOCABULARY).mkdir(parents=True)
    entries: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(of_columns.columns):
        own = of_columns.learnt[name]
        entry: dict[str, Any] = {"num_ids": own.num_ids, "offset": own.offset, "scale": own.scale}
        if own.boundaries is not None:
            entry["boundaries"] = list(own.boundaries)
        if own.vocabulary is not None:
            text = b"".join(line + b"\n" for line in _as_lines(own.vocabulary))
            (directory / vocabulary_file(number)).write_bytes(text)
            entry["vocabulary"] = {"file": vocabulary_file(number), "digest": _digest(text)}
        entries[name] = entry
    counts = np.concatenate([own.counts for own in of_columns.learnt.values()])
    np.save(directory / _COUNTS, counts)
    head: dict[str, Any] = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "config": config,
        "learnt": {"columns": entries, "counts": {"file": _COUNTS, "digest": _digest(counts.astype("<i8").tobytes())}},
    }
    head["digest"] = _head_digest(head)
    (directory / _JSON).write_text(json.dumps(head, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_learnt(directory: Path, head: Mapping[str, Any], columns: Mapping[str, Column]) -> dict[str, Learnt]:
    path = directory / _COUNTS
    try:
        counts = np.load(path, allow_pickle=False).astype(np.int64, casting="safe")
    except FileNotFoundError:
        raise
    except Exception as error:  # NumPy raises many kinds on damaged files
        raise ValueError(f"{path} is not readable: {error}") from error
    _check_digest(path, counts.astype("<i8").tobytes(), head["counts"]["digest"])
    learnt, first = {}, 0
    for name in columns:
        entry = head["columns"][name]
        own = counts[first : first + entry["num_ids"]]
        first += entry["num_ids"]
        vocabulary = None
        if "vocabulary" in entry:
            vocabulary = _read_vocabulary(
                directory / entry["vocabulary"]["file"], entry["vocabulary"]["digest"], columns[name]
            )
        boundaries = tuple(entry["boundaries"]) if "boundaries" in entry else None
        learnt[name] = Learnt(own, vocabulary, boundaries, entry["offset"], entry["scale"])
    return learnt


def _read_vocabulary(path: Path, digest: str, column: Column) -> npt.NDArray[Any]:
    text = path.read_bytes()
    _check_digest(path, text, digest)
    lines = text.split(b"\n")[:-1]
    if column.dtype == "int64":
        return np.array([int(line) for line in lines], np.int64)
    vocabulary = np.empty(len(lines), object)
    vocabulary[:] = lines
    return vocabulary


def _as_lines(vocabulary: npt.NDArray[Any]) -> list[bytes]:
    if vocabulary.dtype == object:
        return list(vocabulary)
    return [str(value).encode() for value in vocabulary.tolist()]


def _may_be_replaced(directory: Path) -> bool:
    if not directory.is_dir():
        return False
    names = {entry.name for entry in directory.iterdir()}
    if not names or not names <= {_JSON, _COUNTS, _VOCABULARY}:
        return not names
    try:
        return f'"{_FORMAT}"' in (directory / _JSON).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False


def _head_digest(head: Mapping[str, Any]) -> str:
    content = {name: value for name, value in head.items() if name != "digest"}
    return _digest(json.dumps(content).encode())  # in the order of the file: the order of columns is that of their ids


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _check_digest(path: Path, content: bytes, expected: str) -> None:
    found = _digest(content)
    if found != expected:
        raise ValueError(f"{path} is damaged or belongs to another schema: its digest is {found}, {_JSON} says {expected}")
