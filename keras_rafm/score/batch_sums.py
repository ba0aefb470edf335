"""Sums over the rows that a batch reads from all tables of a layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

from keras_rafm.score.factor_tables import FactorTable, tables_by_range
from keras_rafm.score.interactions import total
from keras_rafm.score.lookup import find_reads
from keras_rafm.score.occurrences import Occurrences
from keras_rafm.score.row_sums import TableSums, sum_tables

#: The name that a `LookUp` knows the linear weights by.
LINEAR = "linear"

#: A table's name and row numbers (distinct, int32 `[r]`; `None`: all rows) -> these rows.
LookUp = Callable[[str, tf.Tensor | None], tf.Tensor]


class BatchSums(NamedTuple):
    """What a batch sums up, per sample.

    Attributes:
        linear: `Σ w_i x_i`: `[B]`; `None` without linear weights.
        tables: The sums over each factor table, by its name.
    """

    linear: tf.Tensor | None
    tables: dict[str, TableSums]


def sum_batch(
    batch: Occurrences,
    slot_of_feature: tf.Tensor,
    level_sizes: tuple[int, ...],
    tables: Sequence[FactorTable],
    look_up: LookUp,
    *,
    has_linear: bool,
    head: int,
    where: str,
    num_levels: int | None = None,
) -> BatchSums:
    """Look up the rows that a batch reads, each once, and sum them per sample.

    Args:
        batch: The occurrences of the batch.
        slot_of_feature: int32 `[num_features]`.
        level_sizes: `(|F_1|, …, |F_m|)`.
        tables: All factor tables of the layer.
        look_up: Looks up rows of a factor table or of the linear weights.
        has_linear: Whether there are linear weights.
        head: The number of slots whose tables are read whole: 0 or one of the `level_sizes`.
        where: The name of the layer, for error messages.
        num_levels: Leave out the tables of higher levels. Default: none.

    Raises:
        tf.errors.InvalidArgumentError: An id is outside `[0, num_features)` and not padding, at run time.
    """
    grouped = tables_by_range(tables)
    reads = find_reads(batch, slot_of_feature, level_sizes, list(grouped), head, where)
    weights: dict[tuple[int, int], tf.Tensor] = {}
    if has_linear:
        # The slots that are read are grouped by range, the first slots first.
        ranges = sorted((table.start, table.end) for table in tables if table.reads_linear)
        all_weights = look_up(LINEAR, reads.slots)
        sizes = [reads.ranges[range_].num_rows for range_ in ranges]
        weights = dict(zip(ranges, [all_weights] if len(ranges) == 1 else tf.split(all_weights, sizes), strict=True))

    linear = []
    sums: dict[str, TableSums] = {}
    for range_, tables_of_range in grouped.items():
        part = reads.ranges[range_]
        summed = [table for table in tables_of_range if num_levels is None or table.level <= num_levels]
        if not summed and range_ not in weights:
            continue
        rows = [look_up(table.name, part.rows) for table in summed]
        table_sums, linear_sum = sum_tables(part, reads.num_samples, rows, weights.get(range_))
        sums.update(zip((table.name for table in summed), table_sums, strict=True))
        if linear_sum is not None:
            linear.append(linear_sum)
    return BatchSums(total(linear) if linear else None, sums)
