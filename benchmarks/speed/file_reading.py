"""The task `file_reading`: the time to read files of raw rows into batches of ids by `Schema.dataset`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks import raw_rows
from benchmarks.speed.channel import Channel

_BATCH_SIZE = 4096


def serve(task: dict[str, Any], channel: Channel) -> None:
    """Send the microseconds per row by kind of file: the shortest of several passes, after one that isn't counted."""
    times = {}
    for kind, path in task["files"].items():
        schema = raw_rows.schema(kind)
        schema.adapt(path)
        dataset = schema.dataset(Path(path), _BATCH_SIZE, num_rows=task["num_rows"])
        seconds = []
        for _ in range(1 + task["repetitions"]):
            started = time.perf_counter()
            for _ in dataset:
                pass
            seconds.append(time.perf_counter() - started)
        times[f"{kind}, µs per row"] = 1e6 * min(seconds[1:]) / task["num_rows"]
    channel.send(times)
