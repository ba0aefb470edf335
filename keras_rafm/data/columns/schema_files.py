"""Saved schemas: directories of files that later versions can read.

schema.json      the declaration; bins, scales and number of features of each column; digests of the other files and of
                 this file's content, which do not depend on its layout
counts.npy       occurrences of each feature in training data, int64
vocabulary/N.txt the values of column N that have a feature of their own, one per line, in the order of their ids;
                 TensorFlow look-up tables read this file as it is
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
    """Return the path of a column's vocabulary within the directory.

    Args:
        number: The number of the column, from 0.
    """
    return f"{_VOCABULARY}/{number}.txt"


def write_schema(path: str | os.PathLike[str], config: Mapping[str, Any], learnt_columns: LearntColumns) -> None:
    """Write a schema atomically.

    Args:
        path: The directory. It is replaced if it holds a schema and nothing else.
        config: The declaration, as plain values.
        learnt_columns: What the columns learnt.

    Raises:
        ValueError: The directory holds something else than a schema.
    """
    directory = Path(os.path.abspath(path))
    if directory.exists() and not _may_be_replaced(directory):
        raise ValueError(
            f"`path` must be a new or empty directory, or one that holds a schema and nothing else. Received: {directory}"
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    with folder_beside(directory) as folder:
        _write_files(folder / "new", config, learnt_columns)
        replace_directory(folder / "new", directory)


def read_schema(
    path: str | os.PathLike[str],
) -> tuple[dict[str, Any], Callable[[Mapping[str, Column]], dict[str, Learnt]]]:
    """Read a saved schema.

    Returns:
        The declaration as plain values, and a function that maps the columns of this declaration to what they learnt. The
        function raises the same errors.

    Raises:
        FileNotFoundError: The directory or one of its files is not found.
        ValueError: A file is damaged, belongs to another schema, or was written in a newer format.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise FileNotFoundError(f"schema directory not found: {directory}")
    try:
        head = json.loads((directory / _JSON).read_text(encoding="utf-8"))
        if head.get("format") != _FORMAT:
            raise ValueError(f"expected the format {_FORMAT!r}, received {head.get('format')!r}")
        version = int(head["format_version"])
    except FileNotFoundError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{directory / _JSON} is not a readable schema: {error}") from error
    if version > _FORMAT_VERSION:
        raise ValueError(f"{directory / _JSON} has schema format {version}; this version reads up to {_FORMAT_VERSION}")
    if head.get("digest") != _head_digest(head):
        raise ValueError(f"{directory / _JSON} is damaged or was edited: its content does not match its digest")

    def read_learnt(columns: Mapping[str, Column]) -> dict[str, Learnt]:
        try:
            return _read_learnt(directory, head["learnt"], columns)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{directory / _JSON} is damaged: {error!r}") from error

    try:
        return dict(head["config"]), read_learnt
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{directory / _JSON} is damaged: {error!r}") from error


def schema_digest(directory: Path) -> str:
    """Return the digest of a saved schema, over its declaration and all that it learnt."""
    return str(json.loads((directory / _JSON).read_text(encoding="utf-8"))["digest"])


def _write_files(directory: Path, config: Mapping[str, Any], learnt_columns: LearntColumns) -> None:
    (directory / _VOCABULARY).mkdir(parents=True)
    entries: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(learnt_columns.columns):
        learnt = learnt_columns.learnt[name]
        entry: dict[str, Any] = {"num_ids": learnt.num_ids, "offset": learnt.offset, "scale": learnt.scale}
        if learnt.boundaries is not None:
            entry["boundaries"] = list(learnt.boundaries)
        if learnt.vocabulary is not None:
            text = b"".join(line + b"\n" for line in _as_lines(learnt.vocabulary))
            (directory / vocabulary_file(number)).write_bytes(text)
            entry["vocabulary"] = {"file": vocabulary_file(number), "digest": _digest(text)}
        entries[name] = entry
    counts = learnt_columns.counts
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
    except Exception as error:  # NumPy raises many kinds of errors for damaged files
        raise ValueError(f"{path} is not readable: {error}") from error
    _check_digest(path, counts.astype("<i8").tobytes(), head["counts"]["digest"])
    learnt, first = {}, 0
    for name in columns:
        entry = head["columns"][name]
        column_counts = counts[first : first + entry["num_ids"]]
        first += entry["num_ids"]
        vocabulary = None
        if "vocabulary" in entry:
            vocabulary = _read_vocabulary(
                directory / entry["vocabulary"]["file"], entry["vocabulary"]["digest"], columns[name]
            )
        boundaries = tuple(entry["boundaries"]) if "boundaries" in entry else None
        learnt[name] = Learnt(
            counts=column_counts,
            vocabulary=vocabulary,
            boundaries=boundaries,
            offset=entry["offset"],
            scale=entry["scale"],
        )
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
    # Keys stay in the order of the file, because the order of columns is the order of their ids.
    return _digest(json.dumps(content).encode())


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _check_digest(path: Path, content: bytes, expected: str) -> None:
    digest = _digest(content)
    if digest != expected:
        raise ValueError(
            f"{path} is damaged or belongs to another schema: expected the digest {expected} of {_JSON}, received {digest}"
        )
