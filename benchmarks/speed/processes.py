"""A worker, from the outside."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_LINES_OF_ERRORS = 15


class WorkerError(RuntimeError):
    """A worker ended before it had answered."""


class Worker:
    """A process with a TensorFlow of its own, which waits between requests. Use it as a context manager.

    Args:
        python: Its interpreter, one that this package and TensorFlow can be imported in.
        task: `name`, `threads` and what the task of this name needs.
    """

    def __init__(self, python: str, task: dict[str, Any]) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name, "stderr")
        self._label = f"{task['name']} of {task.get('contender', {}).get('name', '?')}"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [python, "-m", "benchmarks.speed.worker"],
                cwd=_ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.send(task)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def send(self, value: Any) -> None:
        """Ask for something.

        Raises:
            WorkerError: The worker has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._error() from None

    def receive(self) -> Any:
        """The next answer.

        Raises:
            WorkerError: The worker has ended instead.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._error()
        return json.loads(line)

    def ask(self, value: Any) -> Any:
        """Send, and wait for the answer."""
        self.send(value)
        return self.receive()

    def close(self) -> None:
        """End the worker and wait for it. Calling it again does nothing."""
        if not self._errors.exists():
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.terminate()  # what is left of its run is of no interest
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def _error(self) -> WorkerError:
        code = self._process.wait()
        last = "\n".join(self._errors.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES_OF_ERRORS:])
        return WorkerError(f"The worker for {self._label} ended with exit code {code}:\n{last}")
