"""Packages that only some jobs need."""

from __future__ import annotations

import importlib
from typing import Any


def imported(module: str, extra: str) -> Any:
    """A module of an optional package.

    Args:
        module: Its name.
        extra: The extra of this package that installs it.

    Raises:
        ImportError: It is not installed, or fails to load; the message says how to get it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{package} is needed here: pip install 'keras_rafm[{extra}]' ({error})") from error
