"""A worker's side of the exchange with the process that started it: JSON values, one per line, over standard streams."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class Channel:
    """Receives from standard input and sends to standard output.

    Everything else that the worker prints is discarded, such as Keras' progress bar.
    """

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)

    def receive(self) -> Any:
        """Return the next value, or `None` at the end of the input."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def send(self, value: Any) -> None:
        """Send a value to the process that started the worker."""
        self._answers.write(json.dumps(value) + "\n")
        self._answers.flush()
