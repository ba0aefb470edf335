"""Start a worker process, send it requests, receive its answers and end it."""

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
    """A worker ended before it answered."""


class Worker:
    """A separate process with its own TensorFlow. It waits idle between requests. Use it as a context manager.

    Args:
        python: An interpreter that can import TensorFlow.
        task: A dictionary with `name`, `threads` and the arguments of the task with this name.
        checkout: Another checkout of the project, from which the worker imports `keras_rafm`. `None`: it imports it from
            the current checkout. The benchmark code always comes from the current checkout.
    """

    def __init__(self, python: str, task: dict[str, Any], checkout: Path | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._errors = Path(self._folder.name, "stderr")
        self._label = f"{task['name']} of {task.get('contender', {}).get('name', '?')}"
        search_path = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        if checkout is not None:
            task = {**task, "checkout": str(checkout.resolve())}
            # The checkout has a folder `benchmarks` as well, which must not hide this one.
            packages = Path(self._folder.name, "packages")
            packages.mkdir()
            (packages / "keras_rafm").symlink_to(checkout.resolve() / "keras_rafm", target_is_directory=True)
            search_path.insert(0, str(packages))
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [python, "-P", "-m", "benchmarks.speed.worker"],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(search_path), "PYTHONUNBUFFERED": "1"},
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
        """Send a request.

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
        """Wait for the next answer.

        Raises:
            WorkerError: The worker has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._error()
        return json.loads(line)

    def ask(self, value: Any) -> Any:
        """Send a request and wait for the answer."""
        self.send(value)
        return self.receive()

    def close(self) -> None:
        """End the worker and wait for it. Further calls do nothing."""
        if not self._errors.exists():
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.terminate()  # The rest of its run is not needed.
        self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def _error(self) -> WorkerError:
        code = self._process.wait()
        last = "\n".join(self._errors.read_text(encoding="utf-8", errors="replace").splitlines()[-_LINES_OF_ERRORS:])
        return WorkerError(f"The worker for {self._label} ended with exit code {code}:\n{last}")
