"""How a worker talks with the process that started it: JSON values, one a line, over its standard input and output."""

from __future__ import annotations

import json
import os
import sys
from typing import Any


class Channel:
    """A worker's side. Whatever else the worker prints goes nowhere: Keras' progress bar, for one."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)

    def receive(self) -> Any:
        """The next value, or `None` where there will be no more."""
        line = sys.stdin.readline()
        return json.loads(line) if line else None

    def send(self, value: Any) -> None:
        """Answer."""
        self._answers.write(json.dumps(value) + "\n")
        self._answers.flush()
