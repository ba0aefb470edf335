"""The parser behind every libFM reader: blocks of lines to arrays, with NumPy over all bytes of a block at once.

It only tells whether a block has a malformed line; `_libfm_format.first_error` then finds which and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from keras_rafm.data.formats.libfm_grammar import COMMENT, LibfmFormat, first_error, parsed_id
from keras_rafm.data.raw.errors import MalformedRowError, refuse_empty
from keras_rafm.data.raw.lines import blocks_of_lines
from keras_rafm.data.samples.rows import Rows
from keras_rafm.data.samples.samples import IdArray

_Bytes = npt.NDArray[np.uint8]
_Positions = npt.NDArray[np.intp]

_LEGAL_BYTES = b"0123456789+-.eE: \t\r\n"
_SAFE_DIGITS = 18  # every number of so many digits is below 2**63


class _MalformedBlockError(Exception):
    """Some line of the block is not legal."""


def parse_file(
    path: str,
    file_format: LibfmFormat,
    block_bytes: int,
    on_error: Callable[[MalformedRowError], None] | None = None,
) -> Iterator[Rows]:
    """The samples of one file in blocks, classes as 0 and 1, ids 0-based and int64 only in blocks that need it.

    Args:
        path: Name of the file.
        file_format: Which lines are legal.
        block_bytes: About how many bytes are parsed at once.
        on_error: Called with the error of each malformed line in order, and of an empty file; these are left out. With
            `None`, the first one is raised.

    Raises:
        FileNotFoundError: There is no such file.
        MalformedRowError: A line is malformed, or there is none, and there is no `on_error`.
        ValueError: The file is damaged gzip.
    """
    negative_label: float | None = None
    line = 1
    empty = True
    for text in blocks_of_lines(path, block_bytes):
        parts = [text]
        while parts:
            part = parts.pop()
            try:
                rows, negative_label = _parse(part, file_format, negative_label)
            except _MalformedBlockError:
                middle = _middle(part)
                if on_error is not None and middle:
                    parts += [part[middle:], part[:middle]]
                    continue
                error = first_error(path, line, part, file_format, negative_label)
                if on_error is None:
                    raise error from None
                on_error(error)
                empty = False
                line += 1
                continue
            line += part.count(b"\n")
            if len(rows):
                empty = False
                yield rows
    if empty:
        refuse_empty(path, on_error)


def _middle(text: bytes) -> int:
    """Where a line near the middle begins; 0 where there is one line."""
    end = text.find(b"\n", len(text) // 2) + 1
    return end if end < len(text) else text.rfind(b"\n", 0, len(text) - 1) + 1


def _parse(text: bytes, file_format: LibfmFormat, negative_label: float | None) -> tuple[Rows, float | None]:
    if b"#" in text:
        text = COMMENT.sub(b"", text)
    _demand(not text.translate(None, _LEGAL_BYTES))
    buffer = np.frombuffer(text, np.uint8)
    starts, ends = _tokens(buffer)

    first_of_line = np.searchsorted(starts, np.concatenate([[0], np.flatnonzero(buffer == ord("\n"))]))
    tokens_of_line = np.diff(first_of_line)
    filled = tokens_of_line > 0
    label_tokens = first_of_line[:-1][filled]
    lengths = tokens_of_line[filled] - 1
    if file_format.num_fields is not None:
        _demand(lengths.max(initial=0) <= file_format.num_fields)

    labels = _numbers(text, buffer, starts[label_tokens], ends[label_tokens])
    if file_format.task == "classification":
        labels, negative_label = _as_classes(labels, negative_label)

    is_occurrence = np.ones(starts.size, np.bool_)
    is_occurrence[label_tokens] = False
    starts, ends = starts[is_occurrence], ends[is_occurrence]
    colons = np.flatnonzero(buffer == ord(":"))
    # As many colons as occurrences and each inside its own: so each has exactly one, and no label has any.
    _demand(colons.size == starts.size and bool(np.all((starts < colons) & (colons + 1 < ends))))
    ids = _ids(text, buffer, starts, colons, file_format)
    values = _numbers(text, buffer, colons + 1, ends)
    return Rows(labels.astype(np.float32), lengths, ids, values.astype(np.float32)), negative_label


def _demand(condition: bool | np.bool_) -> None:
    if not condition:
        raise _MalformedBlockError


def _tokens(buffer: _Bytes) -> tuple[_Positions, _Positions]:
    """Where the runs between spaces begin and end; the last byte is a newline."""
    is_space = buffer <= ord(" ")
    edges = np.flatnonzero(is_space[1:] != is_space[:-1]) + 1
    if not is_space[0]:
        edges = np.concatenate([[0], edges])
    return edges[0::2], edges[1::2]


def _ids(text: bytes, buffer: _Bytes, starts: _Positions, ends: _Positions, file_format: LibfmFormat) -> IdArray:
    lengths = ends - starts
    shortest, longest = int(lengths.min(initial=_SAFE_DIGITS)), int(lengths.max(initial=0))
    ids = np.zeros(starts.size, np.int64)
    for place in range(min(longest, _SAFE_DIGITS)):
        digits = buffer.take(starts + place, mode="clip") - np.uint8(ord("0"))
        if place < shortest:
            ids *= 10
        else:
            inside = lengths > place
            digits *= inside
            ids *= np.where(inside, 10, 1)
        _demand(digits.max() <= 9)
        ids += digits
    for token in np.flatnonzero(lengths > _SAFE_DIGITS):
        long_id = parsed_id(text[starts[token] : ends[token]])
        _demand(long_id is not None)
        ids[token] = long_id
    if ids.size == 0:
        return ids.astype(np.int32)
    _demand(ids.min() >= file_format.first_id and ids.max() <= file_format.last_id)
    ids -= file_format.first_id
    return ids.astype(np.int32) if ids.max() <= np.iinfo(np.int32).max else ids


def _numbers(text: bytes, buffer: _Bytes, starts: _Positions, ends: _Positions) -> npt.NDArray[np.float64]:
    """The numbers in these places, each of them finite as float32 too."""
    digits = buffer[starts] - np.uint8(ord("0"))
    numbers = digits.astype(np.float64)
    others = np.flatnonzero((ends - starts > 1) | (digits > 9))
    if others.size:
        tokens = zip(starts[others].tolist(), ends[others].tolist(), strict=True)
        try:
            numbers[others] = [float(text[start:end]) for start, end in tokens]
        except ValueError:
            raise _MalformedBlockError from None
        with np.errstate(over="ignore"):
            _demand(bool(np.all(np.isfinite(numbers.astype(np.float32)))))
    return numbers


def _as_classes(
    labels: npt.NDArray[np.float64], negative_label: float | None
) -> tuple[npt.NDArray[np.float64], float | None]:
    """Labels as 0 and 1, and the file's label of the negative class if known by now."""
    positive = labels == 1
    negatives = labels[~positive]
    if negatives.size:
        if negative_label is None:
            negative_label = float(negatives[0])
        _demand(negative_label in (-1, 0) and bool(np.all(negatives == negative_label)))
    return positive.astype(np.float64), negative_label
