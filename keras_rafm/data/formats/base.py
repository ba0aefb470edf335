"""The interface of all file formats: each opens a file as a dataset of blocks of rows."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from keras_rafm.data.raw.arrays import as_raw_columns, block_signature, blocks_as_arrays
from keras_rafm.data.raw.blocks import Block
from keras_rafm.data.raw.columns import RawColumn
from keras_rafm.data.raw.errors import OnError

#: A file name (a string scalar) -> a dataset of the file's rows as raw columns, block by block.
Opener = Callable[[tf.Tensor], tf.data.Dataset]

#: The number of bytes of text to parse at once. The arrays made from them stay in the processor's cache.
BLOCK_BYTES = 1 << 19


class FileFormat(abc.ABC):
    """How raw columns are stored in files."""

    @abc.abstractmethod
    def opener(self, columns: Sequence[RawColumn], on_error: OnError | None) -> Opener:
        """Return a function that opens a file.

        Args:
            columns: The columns to read.
            on_error: Receives the error of each malformed row, which is then skipped. With `None`, the first error is
                raised.
        """

    def fitted_to(self, paths: Sequence[str], columns: Sequence[RawColumn]) -> FileFormat:
        """Return the format with what `opener` must know about how the columns are stored in these files.

        Args:
            paths: The names of the files.
            columns: The columns to read.
        """
        del paths, columns
        return self  # In most formats, each file describes itself.

    def explain(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None = None) -> None:
        """Raise a precise error if the file is malformed, for formats that give a less precise one when read in a graph.

        Args:
            path: The name of the file.
            columns: The columns to read, such as `schema.raw_columns(training=True)`.
            on_error: Given if malformed rows are skipped. It then receives the error of an empty file; only a damaged file
                raises an error.

        Raises:
            ValueError: The file is malformed; the message names file, row, column and value.
        """
        del path, columns, on_error  # In most formats, reading in a graph gives the same error.


class PythonFormat(FileFormat):
    """A format whose files are read by Python.

    Attributes:
        shares_text: Whether all strings of a block are in one buffer.
    """

    shares_text: ClassVar[bool]

    @abc.abstractmethod
    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """Yield the rows of a file in blocks.

        Args:
            path: The name of the file.
            columns: The columns to read.
            on_error: Receives the error of each row with a value that its column may not have, and of an empty file; these
                are then skipped. With `None`, the first error is raised.

        Yields:
            The number of rows in a block, at least one, and the value of each column in each of them.
        """

    def opener(self, columns: Sequence[RawColumn], on_error: OnError | None) -> Opener:
        """See `FileFormat.opener`."""

        def generate(path: bytes) -> Iterator[Any]:
            blocks = self.blocks(path.decode(), columns, on_error)
            return blocks_as_arrays(blocks, columns, self.shares_text)

        def opened(path: tf.Tensor) -> tf.data.Dataset:
            signature = block_signature(columns, self.shares_text)
            blocks = tf.data.Dataset.from_generator(generate, args=(path,), output_signature=signature)
            return blocks.map(
                lambda texts, arrays: as_raw_columns(texts, arrays, columns), tf.data.AUTOTUNE, deterministic=True
            )

        return opened
