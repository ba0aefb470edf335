"""Splits of rows for training, validation and test, and the files to which they are written."""

from __future__ import annotations

import gzip
import itertools
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, cast

import numpy as np
import numpy.typing as npt

from keras_rafm.data.known.sources import Source
from keras_rafm.data.known.tables import Codes

SPLITS: Final = ("train", "validation", "test")
DEFAULT_SEED: Final = 20190512

_TRAIN_SHARE, _VALIDATION_SHARE = 0.8, 0.1
_ROWS_PER_FILE = 2_000_000  # so that readers can read several files in parallel, in a new order in every epoch
_ROWS_AT_ONCE = 1 << 14
_GZIP_LEVEL = 4


class SplitWriter:
    """Writes the rows of each split to text files of at most 2,000,000 rows.

    Args:
        folder: The folder of the files.
        suffix: The end of the file names, such as `".csv"`.
        compressed: Whether to compress the files with gzip.
        header: The first line of each file.

    Attributes:
        files: The names of the files of each split.
        num_rows: The number of rows of each split.
    """

    def __init__(self, folder: Path, suffix: str, compressed: bool, header: bytes = b"") -> None:
        self._folder, self._suffix, self._header = folder, suffix + ".gz" * compressed, header
        self.files: dict[str, list[str]] = {split: [] for split in SPLITS}
        self.num_rows = dict.fromkeys(SPLITS, 0)

    def write(self, split: str, rows: Iterable[bytes]) -> None:
        """Write rows, each with its line end, to new files of a split."""
        remaining = iter(rows)
        while (first := next(remaining, None)) is not None:
            name = f"{split}-{len(self.files[split]):05d}{self._suffix}"
            self.files[split].append(name)
            with self._open(self._folder / name) as file:
                file.write(self._header)
                rows_of_file = itertools.islice(itertools.chain([first], remaining), _ROWS_PER_FILE)
                while chunk := list(itertools.islice(rows_of_file, _ROWS_AT_ONCE)):
                    file.writelines(chunk)
                    self.num_rows[split] += len(chunk)

    def _open(self, path: Path) -> BinaryIO:
        if self._suffix.endswith(".gz"):
            return cast(BinaryIO, gzip.open(path, "wb", compresslevel=_GZIP_LEVEL))
        return path.open("wb")


def write_drawn(
    writer: SplitWriter,
    examples: Iterable[Sequence[str]],
    users: Mapping[str, str],
    items: Mapping[str, str],
    seed: int,
) -> None:
    """Write rows in random order: 80 % for training, 10 % each for validation and test.

    A row has user, fields of the user, item, fields of the item, and label. Because the order is random, readers mix the
    rows well even if they hold only a few of them at a time.

    Args:
        writer: Writes the files.
        examples: User, item and label of each row, in the authors' order.
        users: The further fields of each user, each preceded by a tab.
        items: The further fields of each item, each preceded by a tab.
        seed: The seed of the random order.
    """
    user_codes, item_codes, label_codes = Codes(), Codes(), Codes()
    # Rows are held as numbers: three arrays take far less memory than the texts of all rows.
    user_column, item_column, label_column = array("i"), array("i"), array("i")
    for user, item, label in examples:
        user_column.append(user_codes[user])
        item_column.append(item_codes[item])
        label_column.append(label_codes[label])
    user_texts = [user + users[user] for user in user_codes]
    item_texts = [item + items[item] for item in item_codes]
    label_texts = list(label_codes)
    columns = [
        np.frombuffer(codes, np.int32) if codes else np.zeros(0, np.int32)
        for codes in (user_column, item_column, label_column)
    ]

    def rows(positions: npt.NDArray[np.int64]) -> Iterator[bytes]:
        for start in range(0, positions.size, _ROWS_AT_ONCE):
            chunk = positions[start : start + _ROWS_AT_ONCE]
            for user, item, label in zip(*(column[chunk].tolist() for column in columns), strict=True):
                yield f"{user_texts[user]}\t{item_texts[item]}\t{label_texts[label]}\n".encode()

    order = np.random.default_rng(seed).permutation(len(label_column))
    ends = [int(_TRAIN_SHARE * len(order)), int((_TRAIN_SHARE + _VALIDATION_SHARE) * len(order))]
    for split, positions in zip(SPLITS, np.split(order, ends), strict=True):
        writer.write(split, rows(positions))


def write_in_time_order(writer: SplitWriter, rows: Iterable[bytes], num_rows: int, parts: tuple[int, int, int]) -> None:
    """Write the first rows for training, the next for validation and the last for test, holding only a few in memory.

    Args:
        writer: Writes the files.
        rows: The rows in the order of time.
        num_rows: The number of rows.
        parts: The relative sizes of the splits, such as 8, 1, 1.
    """
    remaining = iter(rows)
    ends = [num_rows * cumulative // sum(parts) for cumulative in itertools.accumulate(parts)]
    for split, start, end in zip(SPLITS, [0, *ends], ends, strict=False):
        writer.write(split, itertools.islice(remaining, end - start))


def filled_lines(source: Source) -> Iterator[bytes]:
    """Yield the lines of a file that are not blank, each with its line end."""
    with source.opened() as file:
        for line in filter(bytes.strip, file):
            yield line if line.endswith(b"\n") else line + b"\n"


def num_filled_lines(source: Source) -> int:
    """Return the number of lines of a file that are not blank."""
    with source.opened() as file:
        return sum(1 for _ in filter(bytes.strip, file))
