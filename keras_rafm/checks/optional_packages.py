"""Imports of packages that only some functions need."""

from __future__ import annotations

import importlib
from typing import Any


def imported(module: str, extra: str) -> Any:
    """Import and return a module of an optional package.

    Args:
        module: The name of the module.
        extra: The extra of `keras_rafm` that installs the package.

    Raises:
        ImportError: The package is not installed or fails to load. The message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{package} is needed here: pip install 'keras_rafm[{extra}]' ({error})") from error
