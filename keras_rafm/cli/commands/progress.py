"""Progress bars with rates and remaining time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras

from keras_rafm.checks.optional_packages import imported


def bar(description: str, unit: str, total: int | None = None) -> Any:
    """Return a tqdm bar on stderr. If stderr is not a terminal, the bar is printed once a minute and at its end."""
    tqdm = imported("tqdm", "cli").tqdm
    intervals = {} if sys.stderr.isatty() else {"mininterval": 60, "maxinterval": 60}
    return tqdm(desc=description, unit=unit, total=total, unit_scale=True, file=sys.stderr, dynamic_ncols=True, **intervals)


def counted(
    batches: Iterable[Any], description: str, size_of: Callable[[Any], int], total: int | None = None
) -> Iterator[Any]:
    """Yield the given batches and show a bar of the rows processed so far.

    Args:
        batches: The batches.
        description: The text before the bar.
        size_of: Returns the number of rows of a batch.
        total: The number of rows of all batches, if known.
    """
    with bar(description, " rows", total) as progress:
        for batch in batches:
            yield batch
            progress.update(size_of(batch))


class EpochBars(keras.callbacks.Callback):
    """Shows a bar of rows for each epoch of training, and the losses at its end.

    Args:
        batch_size: Rows per step.
        num_rows: Rows per epoch, if known.
        epochs: Maximum number of epochs.
    """

    def __init__(self, batch_size: int, num_rows: int | None, epochs: int) -> None:
        super().__init__()
        self._batch_size, self._num_rows, self._epochs = batch_size, num_rows, epochs
        self._bar: Any = None
        self._num_seen = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Start a bar."""
        self._num_seen = 0
        self._bar = bar(f"epoch {epoch + 1}/{self._epochs}", " rows", self._num_rows)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Move the bar."""
        num_seen = (batch + 1) * self._batch_size
        if self._num_rows is not None:
            num_seen = min(num_seen, self._num_rows)
        self._bar.update(num_seen - self._num_seen)
        self._num_seen = num_seen
        if logs:
            self._bar.set_postfix_str(f"loss {float(logs['loss']):.4f}", refresh=False)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Show the losses and end the bar."""
        shown = {name: value for name, value in (logs or {}).items() if "dependent" not in name}
        self._bar.set_postfix_str(", ".join(f"{name} {float(value):.4f}" for name, value in shown.items()), refresh=False)
        self._bar.close()
        self._num_rows = self._num_seen if self._num_rows is None else self._num_rows

    def close(self) -> None:
        """End the bar of an interrupted epoch."""
        if self._bar is not None:
            self._bar.close()
