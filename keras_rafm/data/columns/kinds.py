"""Kinds of columns by name, and columns as plain values.

A kind has two names: that of the function of `Schema` that declares it (`string_categorical`), which code, configuration
and command line use; and `Column.kind` (`vocabulary`), which saved schemas use.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Final

from keras_rafm.data.columns.categorical import Hashed, Identity, Vocabulary
from keras_rafm.data.columns.column import Column
from keras_rafm.data.columns.declarations import ColumnDeclarations
from keras_rafm.data.columns.numeric import Discretized, Number

#: The functions of `Schema` that declare a column, by name.
DECLARING_FUNCTIONS: Final[Mapping[str, Callable[..., Column]]] = {
    "string_categorical": ColumnDeclarations.string_categorical,
    "integer_categorical": ColumnDeclarations.integer_categorical,
    "string_hashed": ColumnDeclarations.string_hashed,
    "integer_hashed": ColumnDeclarations.integer_hashed,
    "integer_identity": ColumnDeclarations.integer_identity,
    "float": ColumnDeclarations.float,
    "float_discretized": ColumnDeclarations.float_discretized,
}

_NEED_NO_OPTIONS = ("string_categorical", "integer_categorical", "float")
_CLASSES: Final[Mapping[str, type[Column]]] = {
    kind.kind: kind for kind in (Vocabulary, Hashed, Identity, Number, Discretized)
}


def declared_column(name: object, column: Column | str) -> Column:
    """Return a column as declared in `Schema(features)`: itself, or made by the function of that name.

    Args:
        name: The name of the column.
        column: A column, or the name of a function of `Schema` that needs no options.

    Raises:
        TypeError: The name is not a string, or `column` is a function that was not called.
        ValueError: No function has this name, or it needs options.
    """
    if not isinstance(name, str) or not name:
        raise TypeError(f"names of columns must be non-empty strings. Received: {name!r}")
    if isinstance(column, Column):
        return column
    if callable(column):
        raise TypeError(f"column '{name}' must be what a function of Schema returns: call it. Received: {column!r}")
    if column not in _NEED_NO_OPTIONS:
        raise ValueError(
            f"column '{name}' must be made by a function of Schema, such as Schema.string_categorical(), or be one of "
            f"{', '.join(map(repr, _NEED_NO_OPTIONS))}. Received: {column!r}"
        )
    return DECLARING_FUNCTIONS[column]()


def column_config(column: Column) -> dict[str, Any]:
    """Return plain values from which `column_from_config` makes an equal column."""
    assert dataclasses.is_dataclass(column)  # all kinds are
    options = [field.name for field in dataclasses.fields(column) if field.init]
    return {"kind": column.kind, **{name: getattr(column, name) for name in options}}


def column_from_config(config: Mapping[str, Any]) -> Column:
    """Recreate a column from the result of `column_config`.

    Raises:
        ValueError: The kind is unknown, or this version of keras_rafm expects other options for it.
    """
    options = dict(config)
    kind = _CLASSES.get(options.pop("kind", ""))
    if kind is None:
        raise ValueError(f"the kind of a column must be one of {', '.join(_CLASSES)}. Received: {config.get('kind')!r}")
    if isinstance(options.get("bin_boundaries"), list):
        options["bin_boundaries"] = tuple(options["bin_boundaries"])
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(f"unknown or missing options of a column of kind {kind.kind!r}: {error}") from error
