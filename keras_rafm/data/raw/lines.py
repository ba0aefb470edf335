"""Text files, plain or gzip, as blocks of whole lines."""

from __future__ import annotations

import contextlib
import gzip
import io
import zlib
from collections.abc import Iterator

from keras_rafm.data.raw.files import opened

_GZIP_MAGIC = b"\x1f\x8b"
#: The largest length of a line in bytes, its end included. A whole line is held in memory.
_MAX_LINE_BYTES = 2**30


def starts_gzip(head: bytes) -> bool:
    """Return whether a file that begins with these two or more bytes is compressed with gzip."""
    return head.startswith(_GZIP_MAGIC)


def blocks_of_lines(path: str, block_bytes: int) -> Iterator[bytes]:
    r"""Yield the lines of a file in blocks of about `block_bytes`, each of which ends with `\n`.

    A block is larger if one of its lines is longer than `block_bytes`.

    Args:
        path: The name of a local file, or of one in TensorFlow's file systems such as `s3://…`.
        block_bytes: The number of bytes to read at once.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged or truncated gzip, or a line is longer than 1 GiB.
    """
    unfinished: list[bytes] = []
    num_unfinished = num_lines = 0
    for chunk in _chunks(path, block_bytes):
        end = chunk.rfind(b"\n") + 1
        first_end = chunk.find(b"\n") + 1 if end else len(chunk)
        if num_unfinished + first_end > _MAX_LINE_BYTES:
            raise ValueError(
                f"{path}, line {num_lines + 1}: expected a line of at most {_MAX_LINE_BYTES:,} bytes, received a longer one"
            )
        if end:
            num_lines += chunk.count(b"\n")
            yield b"".join((*unfinished, chunk[:end]))
            unfinished.clear()
            num_unfinished = 0
        unfinished.append(chunk[end:])
        num_unfinished += len(chunk) - end
    last = b"".join(unfinished)
    if last:
        yield last + b"\n"


def _chunks(path: str, size: int) -> Iterator[bytes]:
    with _opened(path) as file:
        while True:
            try:
                chunk = file.read(size)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise ValueError(f"{path}: damaged or truncated gzip file ({error})") from error
            if not chunk:
                return
            yield chunk


@contextlib.contextmanager
def _opened(path: str) -> Iterator[io.BufferedReader | gzip.GzipFile]:
    with opened(path) as file:
        if starts_gzip(file.peek(2)):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        else:
            yield file
