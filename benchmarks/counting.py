"""Counting the values of raw columns in files: `python -m benchmarks.counting`.

The command writes rows of log-uniform integers (2 to 1,000,000 values per column) to a temporary directory, as integers and
as strings, and counts all columns of each file by DuckDB, as `Schema.count_values` does for files. Every count runs in its
own process. Its time does not include imports, and its peak memory is the growth since the imports. Installed peers count
the same Parquet file in alternation. Ratios compare times of the same run.
"""

from __future__ import annotations

import argparse
import gzip
import importlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np

_ROWS, _COLUMNS, _ROWS_AT_ONCE = 5_000_000, 20, 250_000
_KINDS = ("parquet", "csv", "csv.gz")
_PEERS = ("polars", "pyarrow")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=_ROWS)
    parser.add_argument("--columns", type=int, default=_COLUMNS)
    parser.add_argument("--kinds", nargs="+", choices=_KINDS, default=_KINDS, help="kinds of files; default: all")
    parser.add_argument("--memory-limit", default="300MB")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", nargs=3, metavar=("COUNTER", "FILE", "DTYPE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        counter, path, dtype = options.one
        print(json.dumps(_measured(counter, path, dtype, options.columns, options.memory_limit, options.threads)))
        return

    peers = [name for name in _PEERS if util.find_spec(name)]
    print(
        f"{options.rows:,} rows of {options.columns} columns, at most {options.memory_limit}, median of {options.runs} runs"
    )
    print("| file | MB | counted by | seconds | rows/s | peak over imports (MB) | peak (MB) | time over DuckDB's |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="keras_rafm_counting_") as folder:
        for dtype in ("int64", "string"):
            for path in write_files(Path(folder), options.rows, options.columns, dtype, options.kinds):
                counters = ["duckdb", *(peers if path.suffix == ".parquet" else [])]
                _print_rows(path, dtype, counters, options)
                path.unlink()


def write_files(folder: Path, num_rows: int, num_columns: int, dtype: str, kinds: list[str]) -> list[Path]:
    """Write the same rows to a file of each kind. Strings are `v` and a number."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    draw = np.random.default_rng(0)
    sizes = np.geomspace(2, 1_000_000, num_columns)
    names = [f"c{number}" for number in range(num_columns)]
    field_type = pa.string() if dtype == "string" else pa.int64()
    schema = pa.schema([(name, field_type) for name in names])
    paths = {kind: folder / f"{dtype}.{kind}" for kind in kinds}
    plain = folder / f"{dtype}.plain"
    with parquet.ParquetWriter(folder / f"{dtype}.whole", schema) as whole, csv.CSVWriter(plain, schema) as text:
        for start in range(0, num_rows, _ROWS_AT_ONCE):
            number = min(_ROWS_AT_ONCE, num_rows - start)
            columns = [np.exp(draw.random(number) * np.log(size + 1)).astype(np.int64) - 1 for size in sizes]
            if dtype == "string":
                columns = [np.char.add("v", column.astype(str)) for column in columns]
            table = pa.table([pa.array(column, field_type) for column in columns], schema)
            whole.write_table(table)
            if kinds != ["parquet"]:
                text.write(table)
    if "csv.gz" in paths:
        with open(plain, "rb") as source, gzip.open(paths["csv.gz"], "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target, 1 << 20)
    for kind, whole_path in (("parquet", folder / f"{dtype}.whole"), ("csv", plain)):
        if kind in paths:
            whole_path.rename(paths[kind])
        else:
            whole_path.unlink()
    return list(paths.values())


def _print_rows(path: Path, dtype: str, counters: list[str], options: argparse.Namespace) -> None:
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in counters}
    for _ in range(options.runs):
        for name in counters:
            runs[name].append(_in_own_process(name, path, dtype, options))
    if len({run["values"] for runs_of_counter in runs.values() for run in runs_of_counter}) > 1:
        raise RuntimeError(f"{path.name}: the counters disagree on the number of distinct values")
    megabytes = path.stat().st_size / 1e6
    for name, runs_of_counter in runs.items():
        seconds = statistics.median(run["seconds"] for run in runs_of_counter)
        growth, peak = (max(run[key] for run in runs_of_counter) / 1e6 for key in ("growth", "peak"))
        both = zip(runs_of_counter, runs["duckdb"], strict=True)
        ratio = statistics.median(run["seconds"] / ours["seconds"] for run, ours in both)
        cells = [path.name, f"{megabytes:,.0f}", name, f"{seconds:.1f}", f"{options.rows / seconds:,.0f}"]
        print(f"| {' | '.join([*cells, f'{growth:,.0f}', f'{peak:,.0f}', f'{ratio:.2f}'])} |", flush=True)


def _in_own_process(counter: str, path: Path, dtype: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.counting", "--one", counter, str(path), dtype]
    command += ["--columns", str(options.columns), "--memory-limit", options.memory_limit]
    command += [] if options.threads is None else ["--threads", str(options.threads)]
    root = Path(__file__).resolve().parents[1]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    finished = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment)
    if finished.returncode:
        raise RuntimeError(f"{counter} failed: {finished.stderr[-2000:]}")
    return json.loads(finished.stdout.splitlines()[-1])


def _measured(
    counter: str, path: str, dtype: str, num_columns: int, memory_limit: str, threads: int | None
) -> dict[str, Any]:
    count = _counter(counter, path, dtype, [f"c{number}" for number in range(num_columns)], memory_limit, threads)
    before = _peak_bytes()
    start = time.perf_counter()
    values = count()
    seconds = time.perf_counter() - start
    peak = _peak_bytes()
    return {"seconds": seconds, "values": values, "growth": peak - before, "peak": peak}


def _counter(
    counter: str, path: str, dtype: str, names: list[str], memory_limit: str, threads: int | None
) -> Callable[[], int]:
    """Return a function that counts the columns and returns the number of distinct values. Import what it needs."""
    if counter == "duckdb":
        for module in ("duckdb", "pyarrow.parquet"):  # otherwise their import would be timed
            importlib.import_module(module)
        from keras_rafm.data import Schema
        from keras_rafm.data.counting.duckdb import count_files_with_duckdb
        from keras_rafm.data.formats.csv_grammar import CSVDialect

        kind = Schema.string_categorical() if dtype == "string" else Schema.integer_categorical()
        file_format = "parquet" if path.endswith(".parquet") else CSVDialect()

        def by_duckdb() -> int:
            counts = count_files_with_duckdb(
                dict.fromkeys(names, kind), [path], file_format, memory_limit=memory_limit, threads=threads
            )
            return sum(column.counts.size for column in counts.values())

        return by_duckdb
    if counter == "polars":
        import polars

        def by_polars() -> int:
            rows = polars.scan_parquet(path)
            counted = (rows.group_by(name).len().collect(engine="streaming") for name in names)
            return sum(column.height for column in counted)

        return by_polars
    from pyarrow import parquet

    def by_pyarrow() -> int:
        file = parquet.ParquetFile(path)
        return sum(len(file.read([name]).column(0).value_counts()) for name in names)

    return by_pyarrow


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if not status.exists():  # This peak may include that of the parent process.
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    (kilobytes,) = (line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) * 1024


if __name__ == "__main__":
    main()
