"""Bars with rates and remaining time."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import keras

from keras_rafm.checks.optional_packages import imported


def bar(description: str, unit: str, total: int | None = None) -> Any:
    """A bar on stderr; on what is no terminal it is shown once a minute and when it ends."""
    tqdm = imported("tqdm", "cli").tqdm
    quiet = {} if sys.stderr.isatty() else {"mininterval": 60, "maxinterval": 60}
    return tqdm(desc=description, unit=unit, total=total, unit_scale=True, file=sys.stderr, dynamic_ncols=True, **quiet)


def counted(batches: Iterable[Any], description: str, size: Any, total: int | None = None) -> Iterator[Any]:
    """The same batches, with a bar of the rows that went by."""
    with bar(description, " rows", total) as shown:
        for batch in batches:
            yield batch
            shown.update(size(batch))


class EpochBars(keras.callbacks.Callback):
    """A bar of rows for each epoch of training, with the losses at its end.

    Args:
        batch_size: Rows per step.
        num_rows: Rows per epoch, if known.
        epochs: At most.
    """

    def __init__(self, batch_size: int, num_rows: int | None, epochs: int) -> None:
        super().__init__()
        self._batch_size, self._num_rows, self._epochs = batch_size, num_rows, epochs
        self._bar: Any = None
        self._seen = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Begin a bar."""
        self._seen = 0
        self._bar = bar(f"epoch {epoch + 1}/{self._epochs}", " rows", self._num_rows)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move it."""
        seen = (batch + 1) * self._batch_size
        if self._num_rows is not None:
            seen = min(seen, self._num_rows)
        self._bar.update(seen - self._seen)
        self._seen = seen
        if logs:
            self._bar.set_postfix_str(f"loss {float(logs['loss']):.4f}", refresh=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """End it."""
        shown = {name: value for name, value in (logs or {}).items() if "dependent" not in name}
        self._bar.set_postfix_str(", ".join(f"{name} {float(value):.4f}" for name, value in shown.items()), refresh=False)
        self._bar.close()
        self._num_rows = self._seen if self._num_rows is None else self._num_rows

    def close(self) -> None:
        """End a bar that an interrupted epoch left."""
        if self._bar is not None:
            self._bar.close()
