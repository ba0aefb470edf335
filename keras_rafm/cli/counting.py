"""Counting of training data, with a bar that moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from keras_rafm.cli.progress import bar
from keras_rafm.cli.source import Source
from keras_rafm.data import CSVFormat, ParquetFormat
from keras_rafm.data._duckdb_counts import DuckDBCountError, count_files_with_duckdb
from keras_rafm.data._files import is_remote
from keras_rafm.data._raw import Block, RawColumn
from keras_rafm.data.formats import OnError, PythonFormat
from keras_rafm.data.value_counts import ValueCounts

_MEMORY_LIMIT = "500MB"


def adapt(source: Source, on_error: OnError | None) -> None:
    """Have the schema learn from the training data.

    Raises:
        ValueError: As of `Schema.adapt`.
    """
    files = source.files["train"]
    counts = _counted_by_duckdb(source) if on_error is None else None
    if counts is not None:
        source.schema.adapt(counts)
    elif isinstance(source.file_format, PythonFormat):
        with bar("counting", " rows") as shown:
            source.schema.adapt(files, file_format=_watched(source.file_format, shown), on_error=on_error)
    else:
        with bar("counting", " files", len(files)) as shown:
            source.schema.adapt(files, file_format=source.file_format, on_error=on_error)
            shown.update(len(files))


def _counted_by_duckdb(source: Source) -> dict[str, ValueCounts] | None:
    """`None` where DuckDB is not installed or can't read the files: the package's readers then say what is wrong where."""
    reader, files = source.file_format, source.files["train"]
    if not isinstance(reader, CSVFormat | ParquetFormat) or any(map(is_remote, files)):
        return None
    if any(find_spec(module) is None for module in ("duckdb", "pyarrow")):
        return None
    grammar: Any = reader.grammar if isinstance(reader, CSVFormat) else "parquet"
    with bar("counting", " steps") as shown:

        def progress(done: int, total: int) -> None:
            shown.total = total
            shown.update(done - shown.n)

        try:
            return count_files_with_duckdb(
                source.schema.columns, files, grammar, memory_limit=_MEMORY_LIMIT, progress=progress
            )
        except DuckDBCountError:
            return None


def _watched(reader: PythonFormat, shown: Any) -> PythonFormat:
    """The same format, which moves a bar by the rows that are read."""

    class Watched(PythonFormat):
        """Reads as another one."""

        shares_text = reader.shares_text

        def blocks(self, path: str, columns: Sequence[RawColumn], on_error: OnError | None) -> Iterator[tuple[int, Block]]:
            """As in `PythonFormat`."""
            for num_rows, block in reader.blocks(path, columns, on_error):
                yield num_rows, block
                shown.update(num_rows)

    return Watched()
