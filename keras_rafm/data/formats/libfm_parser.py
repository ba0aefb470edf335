"""A fast parser of libFM text: blocks of lines to arrays, by NumPy over all bytes of a block at once.

The parser only finds out whether a block has a malformed line; `libfm_grammar.first_error` then finds which one, and why.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from keras_rafm.data.formats.libfm_grammar import COMMENT, LibFMGrammar, first_error, parsed_id
from keras_rafm.data.raw.errors import OnError, refuse_empty
from keras_rafm.data.raw.lines import blocks_of_lines
from keras_rafm.data.samples.rows import Rows
from keras_rafm.data.samples.samples import IdArray

_Bytes = npt.NDArray[np.uint8]
_Positions = npt.NDArray[np.intp]

_LEGAL_BYTES = b"0123456789+-.eE: \t\r\n"
_SAFE_DIGITS = 18  # Every integer of this many digits is below 2**63.


class _MalformedBlockError(Exception):
    """The block has a malformed line."""


def parse_file(path: str, grammar: LibFMGrammar, block_bytes: int, on_error: OnError | None = None) -> Iterator[Rows]:
    """Yield the samples of a file in blocks.

    Classes are 0 and 1. Ids start at 0; they are int64 only in blocks that need it.

    Args:
        path: The name of the file.
        grammar: Which lines are legal.
        block_bytes: The approximate number of bytes to parse at once.
        on_error: Receives the error of each malformed line in order, and of an empty file; these are then skipped. With
            `None`, the first error is raised.

    Raises:
        FileNotFoundError: The file does not exist.
        MalformedRowError: A line is malformed, or the file has no samples, and there is no `on_error`.
        ValueError: The file is damaged gzip.
    """
    negative_label: float | None = None
    line = 1
    is_empty = True
    for text in blocks_of_lines(path, block_bytes):
        parts = [text]
        while parts:
            part = parts.pop()
            try:
                rows, negative_label = _parse(part, grammar, negative_label)
            except _MalformedBlockError:
                middle = _middle(part)
                if on_error is not None and middle:
                    parts += [part[middle:], part[:middle]]
                    continue
                error = first_error(path, line, part, grammar, negative_label)
                if on_error is None:
                    raise error from None
                on_error(error)
                is_empty = False
                line += 1
                continue
            line += part.count(b"\n")
            if len(rows):
                is_empty = False
                yield rows
    if is_empty:
        refuse_empty(path, on_error)


def _middle(text: bytes) -> int:
    """Return where a line near the middle begins, or 0 if there is only one line."""
    end = text.find(b"\n", len(text) // 2) + 1
    return end if end < len(text) else text.rfind(b"\n", 0, len(text) - 1) + 1


def _parse(text: bytes, grammar: LibFMGrammar, negative_label: float | None) -> tuple[Rows, float | None]:
    if b"#" in text:
        text = COMMENT.sub(b"", text)
    _require(not text.translate(None, _LEGAL_BYTES))
    buffer = np.frombuffer(text, np.uint8)
    starts, ends = _tokens(buffer)

    first_of_line = np.searchsorted(starts, np.concatenate([[0], np.flatnonzero(buffer == ord("\n"))]))
    tokens_of_line = np.diff(first_of_line)
    filled = tokens_of_line > 0
    label_tokens = first_of_line[:-1][filled]
    lengths = tokens_of_line[filled] - 1
    if grammar.num_fields is not None:
        _require(lengths.max(initial=0) <= grammar.num_fields)

    labels = _numbers(text, buffer, starts[label_tokens], ends[label_tokens])
    if grammar.task == "classification":
        labels, negative_label = _as_classes(labels, negative_label)

    is_occurrence = np.ones(starts.size, np.bool_)
    is_occurrence[label_tokens] = False
    starts, ends = starts[is_occurrence], ends[is_occurrence]
    colons = np.flatnonzero(buffer == ord(":"))
    # There are as many colons as occurrences, and each is inside its occurrence: so none has two, and no label has any.
    _require(colons.size == starts.size and bool(np.all((starts < colons) & (colons + 1 < ends))))
    ids = _ids(text, buffer, starts, colons, grammar)
    values = _numbers(text, buffer, colons + 1, ends)
    return Rows(labels.astype(np.float32), lengths, ids, values.astype(np.float32)), negative_label


def _require(condition: bool | np.bool_) -> None:
    if not condition:
        raise _MalformedBlockError


def _tokens(buffer: _Bytes) -> tuple[_Positions, _Positions]:
    """Return where the runs between spaces begin and end. The last byte is a newline."""
    is_space = buffer <= ord(" ")
    edges = np.flatnonzero(is_space[1:] != is_space[:-1]) + 1
    if not is_space[0]:
        edges = np.concatenate([[0], edges])
    return edges[0::2], edges[1::2]


def _ids(text: bytes, buffer: _Bytes, starts: _Positions, ends: _Positions, grammar: LibFMGrammar) -> IdArray:
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
        _require(digits.max() <= 9)
        ids += digits
    for token in np.flatnonzero(lengths > _SAFE_DIGITS):
        long_id = parsed_id(text[starts[token] : ends[token]])
        _require(long_id is not None)
        ids[token] = long_id
    if ids.size == 0:
        return ids.astype(np.int32)
    _require(ids.min() >= grammar.first_id and ids.max() <= grammar.last_id)
    ids -= grammar.first_id
    return ids.astype(np.int32) if ids.max() <= np.iinfo(np.int32).max else ids


def _numbers(text: bytes, buffer: _Bytes, starts: _Positions, ends: _Positions) -> npt.NDArray[np.float64]:
    """Return the numbers at these places. Each of them is finite as float32, too."""
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
            _require(bool(np.all(np.isfinite(numbers.astype(np.float32)))))
    return numbers


def _as_classes(
    labels: npt.NDArray[np.float64], negative_label: float | None
) -> tuple[npt.NDArray[np.float64], float | None]:
    """Return labels as 0 and 1, and the file's label of the negative class if it is known by now."""
    positive = labels == 1
    negatives = labels[~positive]
    if negatives.size:
        if negative_label is None:
            negative_label = float(negatives[0])
        _require(negative_label in (-1, 0) and bool(np.all(negatives == negative_label)))
    return positive.astype(np.float64), negative_label
