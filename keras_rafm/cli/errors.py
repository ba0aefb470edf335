"""Exceptions of the command line."""

from __future__ import annotations


class UsageError(ValueError):
    """The command can't be carried out as requested. The message says why."""


class SettingError(UsageError):
    """A setting is out of range.

    Args:
        name: The setting.
        expected: The values that it may have.
        received: The value that it has.
        depends_on: Another setting that `expected` depends on, if any.

    Attributes:
        names: The setting, and the one that it depends on.
    """

    def __init__(self, name: str, expected: str, received: object, depends_on: str | None = None) -> None:
        super().__init__(f"{flag(name)} must be {expected}. Received: {received}")
        self.names = (name,) if depends_on is None else (name, depends_on)


class DivergedError(ArithmeticError):
    """The loss or a weight is no longer finite."""


def flag(name: str) -> str:
    """Return the flag that sets a setting."""
    return "--column" if name == "columns" else "--" + name.replace("_", "-")
