"""Parsers of command-line options, for `argparse`'s `type=`."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path


def integer(at_least: int = 1) -> Callable[[str], int]:
    """Return a parser of an integer of at least this size."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < at_least:
            raise argparse.ArgumentTypeError(f"must be an integer of at least {at_least}, not {text!r}")
        return int(text)

    return parse


def integers(at_least: int = 1) -> Callable[[str], list[int]]:
    """Return a parser of integers separated by commas, each of at least this size."""

    def parse(text: str) -> list[int]:
        numbers = text.split(",")
        if not all(number.isdecimal() and int(number) >= at_least for number in numbers):
            raise argparse.ArgumentTypeError(f"must be integers of at least {at_least}, separated by commas, not {text!r}")
        return [int(number) for number in numbers]

    return parse


def names(allowed: tuple[str, ...], hidden: tuple[str, ...] = ()) -> Callable[[str], list[str]]:
    """Return a parser of names separated by commas; error messages don't list the hidden ones."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",")
        unknown = [name for name in chosen if name not in allowed and name not in hidden]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown name {unknown[0]!r}: expected one of {', '.join(allowed)}")
        return chosen

    return parse


def positive(text: str) -> float:
    """Parse a positive finite number."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, not {text!r}")
    return number


def program(text: str) -> str:
    """Parse the path or name of a program, and return its absolute path.

    Links are not resolved, because the interpreter of a virtual environment is one.
    """
    path = shutil.which(text)
    if path is None:
        raise argparse.ArgumentTypeError(f"not an executable program: {text!r}")
    return str(Path(path).absolute())
