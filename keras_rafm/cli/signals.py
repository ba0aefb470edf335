"""Signals that ask a command to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Ended(KeyboardInterrupt):
    """A signal asked the command to end. The command cleans up as after Ctrl-C.

    Attributes:
        number: The number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """Raise `Ended` for signals that would otherwise kill the process. Ignored signals, as under nohup, stay ignored."""
    handled: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():  # other threads may not set handlers
        available = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        handled = [number for number in available if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in handled:
            signal.signal(number, _raise)
        yield
    finally:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    raise Ended(number)
