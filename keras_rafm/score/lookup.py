"""Occurrences -> what a batch reads from every table, and who reads it.

Slots are ordered by level, highest level first, so what a table holds is a contiguous range of slots.

In training the *head*, the features of the highest levels up to a few thousand of them, is read whole: a batch reads
many of its rows anyway, they need not be searched for and copied, and optimizers update a whole table in a fraction of
the time that as many rows take. Of all other tables the distinct rows that the batch reads are looked up, each once, so
that gradients are `tf.IndexedSlices` without repeated indices: Keras optimizers are wrong on repeated ones.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import tensorflow as tf

from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.checks.tensors import require
from keras_rafm.rows.access import read_rows
from keras_rafm.score.call_context import is_serving
from keras_rafm.score.occurrences import Occurrences


class RangeReads(NamedTuple):
    """What a batch reads from tables that hold one range of slots.

    Attributes:
        rows: Rows of the tables, each once: int32 `[r]`; `None` where the tables are read whole.
        num_rows: `r`, or the number of rows of the tables: int64 scalar.
        places: Sample of each occurrence that reads these tables, ascending, and where in `rows` its row stands:
            int64 `[o, 2]`.
        values: `x_i` of each of these occurrences: float `[o]`; `None` where all are 1.
    """

    rows: tf.Tensor | None
    num_rows: tf.Tensor
    places: tf.Tensor
    values: tf.Tensor | None


class BatchReads(NamedTuple):
    """What a batch reads, found once for all tables.

    Attributes:
        slots: The slots that are read, each once, grouped by level, highest level first: int32 `[n]`; `None` where all are.
        ranges: What is read from each of the `ranges_of_slots`.
        num_samples: `B`: int64 scalar.
    """

    slots: tf.Tensor | None
    ranges: tuple[RangeReads, ...]
    num_samples: tf.Tensor


def ranges_of_slots(level_sizes: tuple[int, ...]) -> list[tuple[int, int]]:
    """The ranges of slots that tables hold: `free_k` has `|F_{k+1}| … |F_k| − 1`, `dependent_k` has `0 … |F_{k+1}| − 1`."""
    above = (*level_sizes[1:], 0)
    return list(dict.fromkeys([*zip(above, level_sizes, strict=True), *((0, size) for size in level_sizes[1:])]))


def head_size(level_sizes: tuple[int, ...], at_most: int) -> int:
    """Slots of the head: the features of as many of the highest levels as have no more than `at_most` together."""
    return max((size for size in level_sizes if size <= at_most), default=0)


def find_reads(
    found: Occurrences, slot_of_feature: tf.Tensor, level_sizes: tuple[int, ...], head: int, where: str
) -> BatchReads:
    """The rows of every table that a batch reads, and who reads them.

    Rows are numbered in the order of their slots: those of the head first, read or not, then the distinct ones of each
    level. Padding, and in an exported model unknown ids, come last, and are read from no table.

    Args:
        found: The occurrences of the batch.
        slot_of_feature: int32 `[num_features]`.
        level_sizes: `(|F_1|, …, |F_m|)`.
        head: How many slots are read whole: 0 or one of the `level_sizes`.
        where: Who asks, for error messages.

    Raises:
        tf.errors.InvalidArgumentError: An id is outside `[0, num_features)` and not padding, at run time.
    """
    num_slots = level_sizes[0]
    if head == 0:
        ids, positions = tf.unique(found.ids)
        slots, nothing_dropped = _slots(ids, slot_of_feature, num_slots, where)
        tail = _Tail.of(slots, positions, head, level_sizes, nothing_dropped)
        in_tail = _Readers.of(found.samples, tail.numbers, found.values)
    else:
        slots, nothing_dropped = _slots(found.ids, slot_of_feature, num_slots, where, are_many=True)
        everyone = _Readers.of(found.samples, slots, found.values)
        if head < num_slots:
            with tf.control_dependencies([everyone.places]):  # the head has more to do from here on: it goes first
                chosen = tf.reshape(tf.where(slots >= head), [-1])
            distinct, positions = tf.unique(tf.gather(slots, chosen))
            tail = _Tail.of(distinct, positions, head, level_sizes, nothing_dropped)
            values = None if found.values is None else tf.gather(found.values, chosen)
            in_tail = _Readers.of(tf.gather(found.samples, chosen), tail.numbers, values)

    def reads(low: int, high: int) -> RangeReads:
        if head > 0 and high <= head:
            is_all = (low, high) == (0, num_slots)
            places, values = everyone.of_rows(low, high, nothing_dropped if is_all else None)
            return RangeReads(None, tf.constant(high - low, tf.int64), places, values)
        end = tail.ends[high]
        if low >= head:
            start = tail.ends[low]
            is_all = (low, high) == (head, num_slots)
            places, values = in_tail.of_rows(start, end, nothing_dropped if is_all else None)
            rows = tail.slots[start:end] - low
        else:  # dependent factors of a level below the head's
            numbers = tf.tensor_scatter_nd_update(slots, tf.expand_dims(chosen, 1), head + tail.numbers)
            places, values = _Readers.of(found.samples, numbers, found.values).of_rows(0, head + end, None)
            rows = tf.concat([tf.range(head), tail.slots[:end]], axis=0)
        return RangeReads(rows, tf.size(rows, tf.int64), places, values)

    ranges = tuple(reads(low, high) for low, high in ranges_of_slots(level_sizes))
    if head == num_slots:
        return BatchReads(None, ranges, found.num_samples)
    read_slots = tf.concat([tf.range(head), tail.slots[: tail.ends[num_slots]]], axis=0)
    return BatchReads(read_slots, ranges, found.num_samples)


class _Tail(NamedTuple):
    """The distinct rows behind the head.

    Attributes:
        slots: Their slots, grouped by level, highest level first; behind them what is dropped: int32 `[n]`.
        numbers: For each occurrence where in them its slot stands: int32 `[o]`.
        ends: For each bound of levels, how many of them are below it.
    """

    slots: tf.Tensor
    numbers: tf.Tensor
    ends: dict[int, int | tf.Tensor]

    @classmethod
    def of(
        cls, slots: tf.Tensor, positions: tf.Tensor, head: int, level_sizes: tuple[int, ...], nothing_dropped: tf.Tensor
    ) -> _Tail:
        """From distinct slots in any order, and for each occurrence where in them its slot stands."""
        num_slots = level_sizes[0]
        bounds = sorted({head, *(size for size in level_sizes if size > head)})
        groups = [_positions_between(slots, low, high, low > head) for low, high in itertools.pairwise(bounds)]
        counts = tf.unstack(tf.cumsum([tf.size(group) for group in groups]))
        ends: dict[int, int | tf.Tensor] = {head: 0, **dict(zip(bounds[1:], counts, strict=True))}

        def grouped() -> tuple[tf.Tensor, tf.Tensor]:
            dropped = tf.cast(tf.where(slots >= num_slots)[:, 0], tf.int32)
            order = tf.concat([*groups, dropped], axis=0)
            return tf.gather(slots, order), tf.gather(tf.math.invert_permutation(order), positions)

        if len(groups) == 1:  # a single level is in order as it is, unless something has to be dropped
            slots, positions = tf.cond(nothing_dropped, lambda: (slots, positions), grouped)
        else:
            slots, positions = grouped()
        return cls(slots, positions, ends)


class _Readers(NamedTuple):
    """Occurrences and the rows that they read.

    Attributes:
        numbers: Number of each one's row: int32 `[o]`.
        places: Sample and number: int64 `[o, 2]`.
        values: `x_i`: float `[o]`; `None` where all are 1.
    """

    numbers: tf.Tensor
    places: tf.Tensor
    values: tf.Tensor | None

    @classmethod
    def of(cls, samples: tf.Tensor, numbers: tf.Tensor, values: tf.Tensor | None) -> _Readers:
        """Occurrences in the order of their samples (int64 `[o]`)."""
        return cls(numbers, _pairs(samples, tf.cast(numbers, tf.int64)), values)

    def of_rows(self, start: Any, end: Any, are_all: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Places and values of those that read rows `start … end − 1`, numbered from `start`.

        Args:
            start: An int or an int32 scalar.
            end: An int or an int32 scalar.
            are_all: Whether these are all of them, if that may be.
        """
        from_0 = isinstance(start, int) and start == 0

        def chosen() -> list[tf.Tensor]:
            here = self.numbers < end if from_0 else (self.numbers >= start) & (self.numbers < end)
            indices = tf.reshape(tf.where(here), [-1])
            return [tf.gather(tensor, indices) for tensor in (self.places, self.values) if tensor is not None]

        everything = [tensor for tensor in (self.places, self.values) if tensor is not None]
        kept = chosen() if are_all is None else tf.cond(are_all, lambda: everything, chosen)
        if not from_0:
            kept[0] -= tf.stack([tf.constant(0, tf.int64), tf.cast(start, tf.int64)])
        return kept[0], kept[1] if len(kept) > 1 else None


def _slots(
    ids: tf.Tensor, slot_of_feature: tf.Tensor, num_features: int, where: str, are_many: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """The slot of each id, and `num_features` for what is to be dropped; and whether nothing is.

    `are_many`: these are the ids of all occurrences, not the distinct ones alone.
    """
    nothing_dropped = (tf.reduce_min(ids) >= 0) & (tf.reduce_max(ids) < num_features)

    def looked_up(known_ids: tf.Tensor) -> tf.Tensor:
        if not are_many:
            return read_rows(slot_of_feature, known_ids)
        # Everything else waits for the slots: two cores get them sooner.
        middle = tf.size(known_ids) // 2
        halves = (known_ids[:middle], known_ids[middle:])
        return tf.concat([read_rows(slot_of_feature, half) for half in halves], axis=0)

    def with_dropped() -> tf.Tensor:
        known = (ids >= 0) & (ids < num_features)
        checked = []
        if not is_serving():  # an exported model meets features that training never saw
            legal = known | (ids == PADDING_ID)
            checked = require(
                tf.reduce_all(legal),
                f"{where}: ids must be in [0, {num_features}), or {PADDING_ID} for padding. Received the id",
                lambda: tf.boolean_mask(ids, ~legal)[0],
            )
        with tf.control_dependencies(checked):
            return tf.where(known, looked_up(tf.where(known, ids, 0)), num_features)

    return tf.cond(nothing_dropped, lambda: looked_up(ids), with_dropped), nothing_dropped


def _positions_between(slots: tf.Tensor, low: int, high: int, has_lower: bool) -> tf.Tensor:
    inside = (slots >= low) & (slots < high) if has_lower else slots < high
    return tf.cast(tf.where(inside)[:, 0], tf.int32)


def _pairs(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """`[o, 2]` of two int64 `[o]`: `tf.stack(…, axis=1)` in a sixth of the time, by complex numbers of the same bits."""
    bits = tf.complex(tf.bitcast(first, tf.float64), tf.bitcast(second, tf.float64))
    return tf.bitcast(bits, tf.int64)
