"""What all file formats have in common: each opens a file as a dataset of blocks of rows."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import tensorflow as tf

from keras_rafm.data.raw.arrays import as_raw_columns, block_signature, blocks_as_arrays
from keras_rafm.data.raw.columns import Block, RawColumn
from keras_rafm.data.raw.errors import OnError

#: A file name (a string scalar) -> the rows of the file as raw columns, block by block.
Opener = Callable[[tf.Tensor], tf.data.Dataset]

#: Bytes of text parsed at once: the arrays made of so much stay in the processor's cache.
BLOCK_BYTES = 1 << 19


class FileFormat(abc.ABC):
    """How raw columns are in files."""

    @abc.abstractmethod
    def opener(self, columns: Sequence[RawColumn], on_error: OnError | None) -> Opener:
        """What opens a file.

        Args:
            columns: Those to read.
            on_error: Told of each malformed row, which is then left out. `None`: the first one raises.
        """

    def fitted_to(self, paths: Sequence[str], columns: Sequence[RawColumn]) -> FileFormat:
        """The format with what files tell of how their columns are stored, which `opener` needs.

        Args:
            paths: Names of the files.
            columns: Those to read.
        """
        del paths, columns
        return self  # by default each file tells itself

    def explain(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None = None) -> None:
        """Look for what is wrong with a file where reading it in a graph tells less.

        Args:
            path: Name of the file.
            columns: Those to read, such as `schema.raw_columns(training=True)`.
            on_error: If malformed rows were left out: told if the file is empty. Only a damaged file then raises.

        Raises:
            ValueError: Something is; the message names file, row, column and value.
        """
        del path, columns, on_error  # by default reading tells all


class PythonFormat(FileFormat):
    """A format that is read by Python.

    Attributes:
        shares_text: Whether all strings of a block are in one buffer.
    """

    shares_text: ClassVar[bool]

    @abc.abstractmethod
    def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
        """The rows of a file, in blocks."""

    def opener(self, columns: Sequence[RawColumn], on_error: OnError | None) -> Opener:
        """As in `FileFormat`."""

        def generate(path: bytes) -> Iterator[Any]:
            blocks = self.blocks(path.decode(), columns, on_error)
            return blocks_as_arrays(blocks, columns, self.shares_text)

        def opened(path: tf.Tensor) -> tf.data.Dataset:
            signature = block_signature(columns, self.shares_text)
            arrays = tf.data.Dataset.from_generator(generate, args=(path,), output_signature=signature)
            return arrays.map(lambda texts, own: as_raw_columns(texts, own, columns), tf.data.AUTOTUNE, deterministic=True)

        return opened
