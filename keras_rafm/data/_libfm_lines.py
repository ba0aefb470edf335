"""Text files, plain or gzip, as blocks of whole lines."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Iterator
from typing import BinaryIO

_GZIP_MAGIC = b"\x1f\x8b"


def blocks_of_lines(path: str, block_bytes: int) -> Iterator[bytes]:
    r"""The lines of a file in blocks of about `block_bytes`, each ending with `\n`.

    A line longer than that makes its block longer.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is gzip, but damaged or truncated.
    """
    unfinished: list[bytes] = []
    for chunk in _chunks(path, block_bytes):
        end = chunk.rfind(b"\n") + 1
        if end:
            yield b"".join((*unfinished, chunk[:end]))
            unfinished.clear()
        unfinished.append(chunk[end:])
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
def _opened(path: str) -> Iterator[BinaryIO | gzip.GzipFile]:
    with open(path, "rb") as file:
        if file.peek(2).startswith(_GZIP_MAGIC):
            with gzip.GzipFile(fileobj=file) as unpacked:
                yield unpacked
        else:
            yield file
