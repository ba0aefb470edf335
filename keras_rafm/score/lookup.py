"""Which rows of every table a batch reads, and which occurrence reads which row.

Slots are ordered by level, highest level first, so a table holds a contiguous range of slots.

In training the *head*, the slots of the highest levels up to a few thousand, is read whole. A batch reads many of these
rows anyway, they need not be searched for and copied, and optimizers update a whole table in a fraction of the time that as
many single rows take. From all other tables the distinct rows of the batch are looked up, each once. Their gradients are
then `tf.IndexedSlices` without repeated indices, which Keras optimizers require: they are wrong on repeated ones.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from keras_rafm.checks.constants import PADDING_ID
from keras_rafm.checks.tensors import require
from keras_rafm.rows.access import read_rows
from keras_rafm.score.call_context import current_context
from keras_rafm.score.occurrences import Occurrences

#: The first slot of a range, and the slot behind it.
SlotRange = tuple[int, int]


class RangeReads(NamedTuple):
    """What a batch reads from the tables that hold one range of slots.

    Attributes:
        rows: The distinct rows that are read: int32 `[r]`; `None` where the tables are read whole.
        num_rows: `r`, or the number of rows of the tables if they are read whole: int64 scalar.
        places: For each occurrence that reads these tables, in the order of samples: the index of its sample, and the index
            of its row in `rows`: int64 `[o, 2]`.
        values: The value `x_i` of each of these occurrences: float `[o]`; `None` if all values are 1.
    """

    rows: tf.Tensor | None
    num_rows: tf.Tensor
    places: tf.Tensor
    values: tf.Tensor | None


class BatchReads(NamedTuple):
    """What a batch reads, computed once for all tables.

    Attributes:
        slots: The distinct slots that are read, grouped by level, highest level first: int32 `[n]`; `None` if all slots
        are.
        ranges: What is read from each range of slots.
        num_samples: `B`: int64 scalar.
    """

    slots: tf.Tensor | None
    ranges: dict[SlotRange, RangeReads]
    num_samples: tf.Tensor


def head_size(level_sizes: tuple[int, ...], at_most: int) -> int:
    """Return the number of slots in the head: as many of the highest levels as have at most `at_most` features together."""
    return max((size for size in level_sizes if size <= at_most), default=0)


def find_reads(
    batch: Occurrences,
    slot_of_feature: tf.Tensor,
    level_sizes: tuple[int, ...],
    ranges: Sequence[SlotRange],
    head: int,
    where: str,
) -> BatchReads:
    """Find the distinct rows that a batch reads from every table, and the occurrences that read them.

    Rows are numbered by their slots: first all slots of the head, then the distinct slots of each level that are read.
    Padding, and in an exported model unknown ids, get the last numbers and read no table.

    Args:
        batch: The occurrences of the batch.
        slot_of_feature: int32 `[num_features]`.
        level_sizes: `(|F_1|, …, |F_m|)`.
        ranges: The ranges of slots that tables hold. Their bounds are 0 or among the `level_sizes`.
        head: The number of slots that are read whole: 0 or one of the `level_sizes`.
        where: The name of the layer, for error messages.

    Raises:
        tf.errors.InvalidArgumentError: An id is outside `[0, num_features)` and not padding, at run time.
    """
    num_slots = level_sizes[0]
    if head == 0:
        ids, positions = tf.unique(batch.ids)
        slots, nothing_dropped = _slots_of_ids(ids, slot_of_feature, num_slots, where)
        tail = _Tail.of(slots, positions, head, level_sizes, nothing_dropped)
        tail_readers = _Readers.of(batch.samples, tail.numbers, batch.values)
    else:
        slots, nothing_dropped = _slots_of_ids(batch.ids, slot_of_feature, num_slots, where, are_occurrences=True)
        all_readers = _Readers.of(batch.samples, slots, batch.values)
        if head < num_slots:
            with tf.control_dependencies([all_readers.places]):  # the sums over the head take longest: they start first
                in_tail = tf.reshape(tf.where(slots >= head), [-1])
            distinct, positions = tf.unique(tf.gather(slots, in_tail))
            tail = _Tail.of(distinct, positions, head, level_sizes, nothing_dropped)
            values = None if batch.values is None else tf.gather(batch.values, in_tail)
            tail_readers = _Readers.of(tf.gather(batch.samples, in_tail), tail.numbers, values)

    def reads_of_range(low: int, high: int) -> RangeReads:
        if head > 0 and high <= head:
            is_everything = (low, high) == (0, num_slots)
            places, values = all_readers.of_rows(low, high, nothing_dropped if is_everything else None)
            return RangeReads(None, tf.constant(high - low, tf.int64), places, values)
        end = tail.ends[high]
        if low >= head:
            start = tail.ends[low]
            is_everything = (low, high) == (head, num_slots)
            places, values = tail_readers.of_rows(start, end, nothing_dropped if is_everything else None)
            rows = tail.slots[start:end] - low
        else:  # the range begins in the head and ends in the tail
            numbers = tf.tensor_scatter_nd_update(slots, tf.expand_dims(in_tail, 1), head + tail.numbers)
            places, values = _Readers.of(batch.samples, numbers, batch.values).of_rows(0, head + end, None)
            rows = tf.concat([tf.range(head), tail.slots[:end]], axis=0)
        return RangeReads(rows, tf.size(rows, tf.int64), places, values)

    reads = {range_: reads_of_range(*range_) for range_ in ranges}
    if head == num_slots:
        return BatchReads(None, reads, batch.num_samples)
    read_slots = tf.concat([tf.range(head), tail.slots[: tail.ends[num_slots]]], axis=0)
    return BatchReads(read_slots, reads, batch.num_samples)


class _Tail(NamedTuple):
    """The distinct slots behind the head that a batch reads.

    Attributes:
        slots: The slots, grouped by level, highest level first, followed by those that read no table: int32 `[n]`.
        numbers: For each occurrence the index of its slot in `slots`: int32 `[o]`.
        ends: For each bound of a level, the number of `slots` below it.
    """

    slots: tf.Tensor
    numbers: tf.Tensor
    ends: dict[int, int | tf.Tensor]

    @classmethod
    def of(
        cls, slots: tf.Tensor, positions: tf.Tensor, head: int, level_sizes: tuple[int, ...], nothing_dropped: tf.Tensor
    ) -> _Tail:
        """Group distinct slots by level.

        Args:
            slots: Distinct slots in any order. Slots `>= num_features` read no table.
            positions: For each occurrence the index of its slot in `slots`.
            head: See `find_reads`.
            level_sizes: See `find_reads`.
            nothing_dropped: Whether all slots read a table: bool scalar.
        """
        num_slots = level_sizes[0]
        bounds = sorted({head, *(size for size in level_sizes if size > head)})
        groups = [_positions_between(slots, low, high, low > head) for low, high in itertools.pairwise(bounds)]
        counts = tf.unstack(tf.cumsum([tf.size(group) for group in groups]))
        ends: dict[int, int | tf.Tensor] = {head: 0, **dict(zip(bounds[1:], counts, strict=True))}

        def grouped() -> tuple[tf.Tensor, tf.Tensor]:
            dropped = tf.cast(tf.where(slots >= num_slots)[:, 0], tf.int32)
            order = tf.concat([*groups, dropped], axis=0)
            return tf.gather(slots, order), tf.gather(tf.math.invert_permutation(order), positions)

        if len(groups) == 1:  # the slots of a single level need no grouping unless some read no table
            slots, positions = tf.cond(nothing_dropped, lambda: (slots, positions), grouped)
        else:
            slots, positions = grouped()
        return cls(slots, positions, ends)


class _Readers(NamedTuple):
    """Occurrences, and the row that each one reads.

    Attributes:
        numbers: The number of each occurrence's row: int32 `[o]`.
        places: The index of its sample, and that number: int64 `[o, 2]`.
        values: `x_i`: float `[o]`; `None` if all values are 1.
    """

    numbers: tf.Tensor
    places: tf.Tensor
    values: tf.Tensor | None

    @classmethod
    def of(cls, samples: tf.Tensor, numbers: tf.Tensor, values: tf.Tensor | None) -> _Readers:
        """Pair occurrences, in the order of their samples (int64 `[o]`), with row numbers (int32 `[o]`)."""
        return cls(numbers, _pairs(samples, tf.cast(numbers, tf.int64)), values)

    def of_rows(self, start: Any, end: Any, is_everything: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """Return places and values of the occurrences that read the rows `start … end − 1`, numbered from `start`.

        Args:
            start: An int or an int32 scalar.
            end: An int or an int32 scalar.
            is_everything: Whether all occurrences read these rows: bool scalar; `None` if that cannot be.
        """
        from_0 = isinstance(start, int) and start == 0

        def selected() -> list[tf.Tensor]:
            inside = self.numbers < end if from_0 else (self.numbers >= start) & (self.numbers < end)
            indices = tf.reshape(tf.where(inside), [-1])
            return [tf.gather(tensor, indices) for tensor in (self.places, self.values) if tensor is not None]

        everything = [tensor for tensor in (self.places, self.values) if tensor is not None]
        kept = selected() if is_everything is None else tf.cond(is_everything, lambda: everything, selected)
        if not from_0:
            kept[0] -= tf.stack([tf.constant(0, tf.int64), tf.cast(start, tf.int64)])
        return kept[0], kept[1] if len(kept) > 1 else None


def _slots_of_ids(
    ids: tf.Tensor, slot_of_feature: tf.Tensor, num_features: int, where: str, are_occurrences: bool = False
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the slot of each id, and whether every id has one.

    Padding, and in an exported model unknown ids, get the slot `num_features`.

    Args:
        ids: int32 or int64 `[n]`.
        slot_of_feature: int32 `[num_features]`.
        num_features: Ids are in `[0, num_features)`.
        where: The name of the layer, for error messages.
        are_occurrences: Whether these are the ids of all occurrences, not the distinct ids alone.
    """
    nothing_dropped = (tf.reduce_min(ids) >= 0) & (tf.reduce_max(ids) < num_features)

    def looked_up(known_ids: tf.Tensor) -> tf.Tensor:
        if not are_occurrences:
            return read_rows(slot_of_feature, known_ids)
        # Everything else waits for the slots. Two look-ups of one half each run on two cores.
        middle = tf.size(known_ids) // 2
        halves = (known_ids[:middle], known_ids[middle:])
        return tf.concat([read_rows(slot_of_feature, half) for half in halves], axis=0)

    def with_dropped() -> tf.Tensor:
        known = (ids >= 0) & (ids < num_features)
        checked = []
        if not current_context().is_serving:  # an exported model meets features that training never saw
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
    """Return the int64 `[o, 2]` that `tf.stack([first, second], axis=1)` makes of two int64 `[o]`, in a sixth of its time.

    A complex number of two float64 has the same bits as two int64 side by side.
    """
    bits = tf.complex(tf.bitcast(first, tf.float64), tf.bitcast(second, tf.float64))
    return tf.bitcast(bits, tf.int64)
