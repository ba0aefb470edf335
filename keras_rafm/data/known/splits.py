"""Which rows are for training, validation and test, and the files they are written to."""

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
_ROWS_PER_FILE = 2_000_000  # several files are read at once, and in a new order at every epoch
_ROWS_AT_ONCE = 1 << 14
_GZIP_LEVEL = 4


class SplitWriter:
    """Writes the rows of each split as text, to files of at most so many rows.

    Args:
        folder: Where to.
        suffix: What the names of the files end with, such as `".csv"`.
        compressed: Whether by gzip.
        header: The first line of each file.
    """

    def __init__(self, folder: Path, suffix: str, compressed: bool, header: bytes = b"") -> None:
        self._folder, self._suffix, self._header = folder, suffix + ".gz" * compressed, header
        self.files: dict[str, list[str]] = {split: [] for split in SPLITS}
        self.num_rows = dict.fromkeys(SPLITS, 0)

    def write(self, split: str, rows: Iterable[bytes]) -> None:
        """Add rows, each with its line end, to new files of a split."""
        left = iter(rows)
        while (first := next(left, None)) is not None:
            name = f"{split}-{len(self.files[split]):05d}{self._suffix}"
            self.files[split].append(name)
            with self._open(self._folder / name) as file:
                file.write(self._header)
                of_file = itertools.islice(itertools.chain([first], left), _ROWS_PER_FILE)
                while chunk := list(itertools.islice(of_file, _ROWS_AT_ONCE)):
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
    """Write (user, item, label) with what is known of user and item: 80 % for training, 10 % each for validation and test.

    The rows are drawn, and are written in the order in which they are: readers need not hold many to mix them.

    Args:
        writer: Where to.
        examples: In the authors' order.
        users: The further fields of a user, each with a tab before it.
        items: The further fields of an item, likewise.
        seed: Of the drawing.
    """
    user_codes, item_codes, label_codes = Codes(), Codes(), Codes()
    of_users, of_items, of_labels = array("i"), array("i"), array("i")
    for user, item, label in examples:
        of_users.append(user_codes[user])
        of_items.append(item_codes[item])
        of_labels.append(label_codes[label])
    user_texts = [user + users[user] for user in user_codes]
    item_texts = [item + items[item] for item in item_codes]
    label_texts = list(label_codes)
    columns = [
        np.frombuffer(codes, np.int32) if codes else np.zeros(0, np.int32) for codes in (of_users, of_items, of_labels)
    ]

    def rows(positions: npt.NDArray[np.int64]) -> Iterator[bytes]:
        for start in range(0, positions.size, _ROWS_AT_ONCE):
            some = positions[start : start + _ROWS_AT_ONCE]
            for user, item, label in zip(*(column[some].tolist() for column in columns), strict=True):
                yield f"{user_texts[user]}\t{item_texts[item]}\t{label_texts[label]}\n".encode()

    order = np.random.default_rng(seed).permutation(len(of_labels))
    ends = [int(_TRAIN_SHARE * len(order)), int((_TRAIN_SHARE + _VALIDATION_SHARE) * len(order))]
    for split, positions in zip(SPLITS, np.split(order, ends), strict=True):
        writer.write(split, rows(positions))


def write_in_time_order(writer: SplitWriter, rows: Iterable[bytes], num_rows: int, parts: tuple[int, int, int]) -> None:
    """Write the first rows for training, the next for validation and the last for test, without ever holding many.

    Args:
        writer: Where to.
        rows: In the order of time.
        num_rows: How many there are.
        parts: How many of the equal parts of all rows each split gets.
    """
    left = iter(rows)
    ends = [num_rows * through // sum(parts) for through in itertools.accumulate(parts)]
    for split, start, end in zip(SPLITS, [0, *ends], ends, strict=False):
        writer.write(split, itertools.islice(left, end - start))


def filled_lines(source: Source) -> Iterator[bytes]:
    """Lines of a file that are not blank, each with its line end."""
    with source.opened() as file:
        for line in filter(bytes.strip, file):
            yield line if line.endswith(b"\n") else line + b"\n"


def num_filled_lines(source: Source) -> int:
    """How many lines of a file are not blank."""
    with source.opened() as file:
        return sum(1 for _ in filter(bytes.strip, file))
