"""Columns as plain values, and back."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras_rafm.data.columns.categorical import Hashed, Identity, Vocabulary
from keras_rafm.data.columns.column import Column
from keras_rafm.data.columns.numeric import Discretized, Number

KINDS: dict[str, type[Column]] = {kind.kind: kind for kind in (Vocabulary, Hashed, Identity, Number, Discretized)}


def column_config(column: Column) -> dict[str, Any]:
    """Plain values from which `column_from_config` makes the same column."""
    assert dataclasses.is_dataclass(column)  # all kinds are
    options = [field.name for field in dataclasses.fields(column) if field.init]
    return {"kind": column.kind, **{name: getattr(column, name) for name in options}}


def column_from_config(config: dict[str, Any]) -> Column:
    """The reverse of `column_config`.

    Raises:
        ValueError: The kind is unknown or its options are not those of this version.
    """
    options = dict(config)
    kind = KINDS.get(options.pop("kind", ""))
    if kind is None:
        raise ValueError(f"unknown kind of column {config.get('kind')!r}")
    if isinstance(options.get("bin_boundaries"), list):
        options["bin_boundaries"] = tuple(options["bin_boundaries"])
    try:
        return kind(**options)
    except TypeError as error:
        raise ValueError(f"unknown or absent options of a column of kind {kind.kind!r}: {error}") from error
