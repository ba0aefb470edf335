"""The bytes that a training step must touch, the memory bandwidth of the machine, and the time that follows from both.

A step can't be faster than `step_bytes(…).memory / bandwidth`. Let `row` be the bytes of a row of `D_k` float32 numbers
(`4 · D_k`), `rows` the number of distinct rows of a table that the batch reads, and `occurrences` the number of its reads:

- `memory` comes from main memory where tables are larger than the cache:
  - `rows · row · (1 + 1 + 2 + 2 · slots)` for every table, and for the linear weights as a table of width 1. The forward
    pass reads the row, the backward pass writes its gradient, and the update reads and writes the row and each of its
    optimizer slots (Adagrad 1, Adam 2).
  - `rows · 16` for every table with idle decay: a float64 mark is read and written.
  - 4 bytes per occurrence for its id, and 8 bytes (column and value) for each CSR matrix that has it as an entry. The entry
    is written once and read by both products. There is one matrix per range of slots, which all tables of this range share.
- `cache` is `occurrences · row · 2` for every table: the data that the two sparse products read. For every occurrence, the
  forward product reads a row of the table, and the backward product a row of the gradient of the batch's sums. Both rows
  were touched shortly before.

Indices, temporary tensors and the search for distinct ids are left out, because an implementation might not need them.

The bandwidth is the best of several runs that copy (`b = a`) or add (`c = a + b`) float32 arrays on all cores. As in the
STREAM benchmark (McCalpin), every byte that is read or written counts once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from benchmarks.speed.specs import TensorFlowContender

if TYPE_CHECKING:
    import keras_rafm as kr

#: The slots per weight of each optimizer, and whether it keeps marks for idle decay.
_SLOTS_AND_MARKS = {
    "LazyAdam": (2, True),
    "LazyAdam, idle_decay=0": (2, False),
    "SparseAdagrad": (1, False),
    "SparseFtrl": (2, False),
}
_ID_BYTES, _CSR_BYTES, _MARK_BYTES = 4, 4 + 4, 8
_TIMES_BEYOND_CACHE = 4
_SHARE_OF_FREE_MEMORY = 1 / 3
_RUNS = 5


@dataclass(frozen=True)
class StepBytes:
    """Bytes of a step that come from main memory and from the cache."""

    memory: int
    cache: int


def step_bytes(ids: npt.NDArray[Any], plan: kr.RankPlan, slots: int, marks: bool) -> StepBytes:
    """Return the bytes of a step on a batch of ids `[B, F]`, as described above.

    Args:
        ids: Feature ids without padding.
        plan: The rank plan of the layer, which has linear weights.
        slots: Optimizer slots per weight.
        marks: Whether the factor tables have idle decay.
    """
    distinct, occurrences = np.unique(ids, return_counts=True)
    level = plan.levels[distinct]
    per_row = 2 + 2 + 2 * slots
    memory = int(occurrences.sum()) * _ID_BYTES + distinct.size * 4 * per_row
    cache = int(occurrences.sum()) * 4 * 2
    ranges: set[tuple[int, int]] = set()
    for k, (rank, size, above) in enumerate(plan.levels_with_next(), start=1):
        tables = [(above, size, level == k)] + ([(0, above, level > k)] if k < plan.num_levels else [])
        for low, high, inside in tables:
            rows, times_read = int(inside.sum()), int(occurrences[inside].sum())
            memory += rows * 4 * rank * per_row + (rows * 2 * _MARK_BYTES if marks else 0)
            cache += times_read * 4 * rank * 2
            if (low, high) not in ranges:
                memory += times_read * _CSR_BYTES * 3
            ranges.add((low, high))
    return StepBytes(memory, cache)


def measured(
    contender: TensorFlowContender, plan: kr.RankPlan, batches: npt.NDArray[Any], array_bytes: int | None = None
) -> dict[str, Any]:
    """Return the mean bytes of a step over the batches `[n, B, F]`, and the bandwidth in bytes per second."""
    if contender.optimizer not in _SLOTS_AND_MARKS:
        raise ValueError(
            f"`optimizer` must be one of {', '.join(_SLOTS_AND_MARKS)} for a roofline; others pass over whole tables. "
            f"Received: optimizer={contender.optimizer!r}"
        )
    slots, marks = _SLOTS_AND_MARKS[contender.optimizer]
    steps = [step_bytes(batch, plan, slots, marks) for batch in batches]
    mean = StepBytes(*(int(np.mean([getattr(step, part) for step in steps])) for part in ("memory", "cache")))
    size = array_bytes or _array_bytes()
    return {**asdict(mean), "bandwidth": bandwidth(size), "array_bytes": size}


def bandwidth(array_bytes: int, threads: int | None = None) -> float:
    """Return the bytes per second between the cores and arrays of this size."""
    threads = threads or os.cpu_count() or 1
    length = array_bytes // 4 // threads
    parts = [tuple(np.ones(length, np.float32) for _ in range(3)) for _ in range(threads)]

    def copy(arrays: tuple[npt.NDArray[Any], ...]) -> None:
        np.copyto(arrays[1], arrays[0])

    def add(arrays: tuple[npt.NDArray[Any], ...]) -> None:
        np.add(arrays[0], arrays[1], out=arrays[2])

    with ThreadPoolExecutor(threads) as pool:  # NumPy releases the interpreter's lock in both
        kernels: Sequence[tuple[Callable[[tuple[npt.NDArray[Any], ...]], None], int]] = ((copy, 2), (add, 3))
        best = 0.0
        for kernel, arrays_touched in kernels:
            for _ in range(_RUNS):
                started = time.perf_counter()
                list(pool.map(kernel, parts))
                best = max(best, arrays_touched * 4 * length * threads / (time.perf_counter() - started))
    return best


def _array_bytes() -> int:
    """Return a size far beyond the cache, at most what the free memory allows for three arrays."""
    cache = _last_level_cache_bytes()
    return int(min(_TIMES_BEYOND_CACHE * cache, _SHARE_OF_FREE_MEMORY * _free_bytes() / 3))


def _last_level_cache_bytes() -> int:
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    sizes = [path.read_text().strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((int(size[:-1]) * units[size[-1]] for size in sizes if size[-1:] in units), default=2**26)


def _free_bytes() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return 2**32
