"""Labels and sample weights: their columns, their legal values, and what training gets of them."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from keras_rafm.checks.arguments import Task, check_task
from keras_rafm.checks.tensors import after_checks, require
from keras_rafm.data.raw.blocks import is_legal
from keras_rafm.data.raw.columns import EXPECTED, RawColumn, RawDType, Role


@dataclass(frozen=True)
class Targets:
    """The columns of labels and sample weights of a `Schema`. See its arguments of these names.

    Raises:
        TypeError: A column's name is not a string, or `positive_label` is neither a string nor a number.
        ValueError: `task` is unknown, or `positive_label` is given for regression.
    """

    label: str | None
    task: Task
    positive_label: str | float | None
    sample_weight: str | None

    def __post_init__(self) -> None:
        check_task(self.task)
        if self.positive_label is not None:
            if self.task != "classification":
                raise ValueError(f"`positive_label` is for classification. Received: task={self.task!r}")
            object.__setattr__(self, "positive_label", _as_plain_label(self.positive_label))
        for option, name in (("label", self.label), ("sample_weight", self.sample_weight)):
            if name is not None and (not isinstance(name, str) or not name):
                raise TypeError(f"`{option}` must be the name of a column. Received: {option}={name!r}")

    def raw_columns(self) -> list[RawColumn]:
        """Return the column of labels, then that of sample weights, as far as they are declared."""
        columns = []
        if self.label is not None:
            dtype: RawDType = "string" if isinstance(self.positive_label, str) else "float32"
            role: Role = "numeric_label" if self.task == "regression" else "binary_label"
            columns.append(RawColumn(self.label, dtype, role=role if self.positive_label is None else "label"))
        if self.sample_weight is not None:
            columns.append(RawColumn(self.sample_weight, "float32", role="sample_weight"))
        return columns

    def check_has_label(self) -> None:
        """Raise a `ValueError` if no column of labels is declared."""
        if self.label is None:
            raise ValueError("the schema declares no column of labels; declare it with Schema(…, label='name')")

    def read(self, raw: Mapping[str, tf.Tensor]) -> list[tf.Tensor]:
        """Return labels and, if declared, sample weights of a raw batch.

        Args:
            raw: The columns of `raw_columns` by name, `[B]`.

        Returns:
            One or two float32 tensors `[B, 1]`. Labels of a classification are 0 and 1.

        Raises:
            ValueError: No column of labels is declared.
            tf.errors.InvalidArgumentError: A label or a sample weight is missing or illegal.
        """
        self.check_has_label()
        labels, *weights = [_legal(raw[column.name], column) for column in self.raw_columns()]
        if self.positive_label is not None:
            labels = tf.cast(tf.equal(labels, tf.constant(self.positive_label, labels.dtype)), tf.float32)
        elif self.task == "classification":
            labels = tf.maximum(labels, 0.0)
        return [tensor[:, tf.newaxis] for tensor in (labels, *weights)]


def _legal(values: tf.Tensor, column: RawColumn) -> tf.Tensor:
    """Return the values of a column after checking that its role allows them."""
    are_legal = is_legal(values, column.role)
    checks = require(
        tf.reduce_all(are_legal),
        f"column '{column.name}': expected {EXPECTED[column.role]}. Received",
        lambda: tf.boolean_mask(values, ~are_legal)[0],
    )
    return after_checks(checks, values)


def _as_plain_label(label: Any) -> str | float:
    """Return a label as a string or float, which JSON can hold."""
    if isinstance(label, str) and label:
        return str(label)
    if isinstance(label, numbers.Real) and not isinstance(label, bool) and math.isfinite(label):
        return float(label)
    raise TypeError(f"`positive_label` must be a non-empty string or a finite number. Received: positive_label={label!r}")
