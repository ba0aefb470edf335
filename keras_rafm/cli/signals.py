"""Signals that ask a command to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


class Ended(KeyboardInterrupt):
    """A signal asked the command to end: it does what it does at Ctrl-C.

    Attributes:
        number: Of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def signals_raised() -> Iterator[None]:
    """Have signals that would kill the process raise `Ended`. Those that are ignored, as under nohup, stay so."""
    kept: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        there = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
        kept = [own for own in there if signal.getsignal(own) is signal.SIG_DFL]
    try:
        for own in kept:
            signal.signal(own, _raise)
        yield
    finally:
        for own in kept:
            signal.signal(own, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    raise Ended(number)
