"""Sparse gradients without repeated rows: no optimizer's nonlinear step is right on repeated ones.

`RaFMLayer` looks every row up once and says so; other layers, an `Embedding` for one, don't, and there the gradients of one
row have to be summed up first. To find that nothing is repeated costs a pass over the indices, which is saved where it is
known.
"""

from __future__ import annotations

import keras
import tensorflow as tf

_ATTRIBUTE = "_keras_rafm_distinct"
_READ = "_keras_rafm_read"
_BY_ROWS, _WITH_OTHERS, _WHOLE, _ALWAYS_WHOLE = "by rows", "by rows, with others", "whole", "always whole"
# Operations that hand a tensor on, perhaps in another shape or integer type: those between a lookup and its gradient.
_PASSING = {"Identity", "Reshape", "ExpandDims", "Squeeze", "Cast", "StopGradient"}


def declare_distinct(rows: tf.Tensor) -> tf.Tensor:
    """Say that no row is there twice, for the graph being made. Returns the rows."""
    if not tf.executing_eagerly():
        names = getattr(rows.graph, _ATTRIBUTE, None)
        if names is None:
            names = set()
            setattr(rows.graph, _ATTRIBUTE, names)
        names.add(rows.name)
    return rows


def declare_read_by_rows(table: keras.Variable, with_others: bool = False) -> None:
    """Say that a variable is only ever read row by row, also where its gradient is dense, as on several replicas.

    Args:
        table: The variable.
        with_others: Whether its sparse gradients may hold rows that nobody has read, of zeros.
    """
    setattr(table, _READ, _WITH_OTHERS if with_others else _BY_ROWS)


def declare_read_whole(table: keras.Variable, always: bool) -> None:
    """Say that a variable is a small table of rows, which training reads as a whole: its gradient is dense.

    Args:
        table: The variable.
        always: Whether another graph can't read it by rows.
    """
    setattr(table, _READ, _ALWAYS_WHOLE if always else _WHOLE)


def is_read_by_rows(table: keras.Variable) -> bool:
    """Whether it was declared so."""
    return getattr(table, _READ, None) in (_BY_ROWS, _WITH_OTHERS)


def is_read_with_others(table: keras.Variable) -> bool:
    """Whether its sparse gradients may hold rows that nobody has read."""
    return getattr(table, _READ, None) == _WITH_OTHERS


def is_read_whole(table: keras.Variable) -> bool:
    """Whether it was declared so."""
    return getattr(table, _READ, None) in (_WHOLE, _ALWAYS_WHOLE)


def is_always_read_whole(table: keras.Variable) -> bool:
    """Whether it was declared so."""
    return getattr(table, _READ, None) == _ALWAYS_WHOLE


def without_zeros(gradient: tf.Tensor | tf.IndexedSlices) -> tf.IndexedSlices:
    """The rows of a gradient that are not zero; of a sparse one each has to be there once."""
    is_sparse = isinstance(gradient, tf.IndexedSlices)
    values = gradient.values if is_sparse else gradient
    kept = tf.where(tf.reduce_any(values != 0, axis=list(range(1, values.shape.rank))))[:, 0]
    rows = declare_distinct(tf.gather(gradient.indices, kept) if is_sparse else kept)
    shape = gradient.dense_shape if is_sparse else tf.shape(gradient)
    return tf.IndexedSlices(tf.gather(values, kept), rows, shape)


def merged(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """The same gradient with every row once."""
    if _declared_distinct(gradient.indices):
        return gradient
    rows, positions = tf.unique(gradient.indices)
    values = tf.cond(
        tf.size(rows) == tf.size(positions),
        lambda: gradient.values,
        lambda: tf.math.unsorted_segment_sum(gradient.values, positions, tf.size(rows)),
    )
    return tf.IndexedSlices(tf.ensure_shape(values, [None, *gradient.values.shape[1:]]), rows, gradient.dense_shape)


def _declared_distinct(rows: tf.Tensor) -> bool:
    if tf.executing_eagerly() or not hasattr(rows, "graph"):  # a constant made outside of the graph has none
        return False
    declared = getattr(rows.graph, _ATTRIBUTE, ())
    while rows.name not in declared:
        if rows.op.type not in _PASSING:
            return False
        rows = rows.op.inputs[0]
    return True
