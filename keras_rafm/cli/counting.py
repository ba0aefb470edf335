"""Counting of training data, with a bar that moves."""

from __future__ import annotations

from keras_rafm.cli.progress import bar
from keras_rafm.cli.source import Source
from keras_rafm.data.raw.errors import OnError


def adapt(source: Source, on_error: OnError | None) -> None:
    """Have the schema learn from the training data.

    Raises:
        ValueError: As of `Schema.adapt`.
    """
    with bar("counting", " rows") as shown:

        def progress(done: int, total: int | None, unit: str) -> None:
            shown.total, shown.unit = total, f" {unit}"
            shown.update(done - shown.n)

        source.schema.adapt(source.files["train"], file_format=source.file_format, on_error=on_error, progress=progress)
