"""Parse the values of flags. An `argparse.ArgumentTypeError` says what is wrong with a value."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from os.path import expanduser
from typing import Any

from keras_rafm.cli.choices import STRING_COLUMN_OPTIONS


def path(text: str) -> str:
    """Return a path with the home directory in place of a leading `~`."""
    return expanduser(text)


def list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """Return a parser of values that are separated by commas.

    Args:
        kind: The parser of one value, such as `int`.
    """

    def parse(text: str) -> list[Any]:
        return [kind(part) for part in text.split(",") if part]

    parse.__name__ = f"list of {kind.__name__}"  # argparse names it in errors
    return parse


def at_least(minimum: int) -> Callable[[str], int]:
    """Return a parser of integers that are not less than `minimum`."""

    def parse(text: str) -> int:
        number = int(text)
        if number < minimum:
            raise argparse.ArgumentTypeError(f"must be at least {minimum}. Received: {number}")
        return number

    parse.__name__ = "int"
    return parse


def column(text: str) -> tuple[str, dict[str, Any]]:
    r"""Parse a column declaration: `NAME=KIND[,OPTION=VALUE…]`.

    `\,` is a comma in a value, and `\t` is a tab in an option that is a string.

    Returns:
        The name, and the kind and options as in a config file.
    """
    name, equals, rest = text.partition("=")
    kind, *options = (part.replace("\\,", ",") for part in re.split(r"(?<!\\),", rest))
    declaration: dict[str, Any] = {"kind": kind}
    for option in options:
        key, sign, value = option.partition("=")
        if not sign:
            hint = r" (write a comma in a value as '\,')" if not option else ""
            raise argparse.ArgumentTypeError(f"expected OPTION=VALUE, received {option!r} in {text!r}{hint}")
        if key in declaration:
            raise argparse.ArgumentTypeError(f"'{key}' is repeated in {text!r}")
        declaration[key] = _bin_boundaries(value) if key == "bin_boundaries" else _option_value(key, value)
    if not (name and equals and kind):
        raise argparse.ArgumentTypeError(f"expected NAME=KIND[,OPTION=VALUE…], received {text!r}")
    return name, declaration


def _bin_boundaries(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(";")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"expected bin_boundaries=NUMBER[;NUMBER…], received 'bin_boundaries={text}'"
        ) from error


def _option_value(key: str, text: str) -> Any:
    """Return the value of an option as a boolean, a number or a string."""
    if key in STRING_COLUMN_OPTIONS:
        return text.replace("\\t", "\t")
    booleans = {"true": True, "false": False}
    if text.lower() in booleans:
        return booleans[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
