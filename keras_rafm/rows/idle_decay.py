"""Decay of the rows of a table, done when a row is next read, so that a step costs what the batch reads.

Decoupled weight decay multiplies every weight by `1 − learning_rate · decay` in every step (Loshchilov and Hutter,
ICLR 2019). For a row that no batch has read since, these factors pile up to `exp(S − S_row)`, where `S` is the running
sum of `log(1 − learning_rate · decay)` and `S_row` the value that it had when the row was last brought up to date. So a
table needs `S` and one mark `S_row` per row, and a row is brought up to date when it is read or updated. The sum counts
what was really done, so learning-rate schedules are followed exactly. It is kept in float64: float32 drifts.

An optimizer attaches the decay to the variable. Whoever reads rows while training asks `idle_decay_of` for it;
whoever reads or writes whole tables calls `settle` before. Small tables that a `RaFMLayer` reads whole in training decay in
every step instead: nothing waits on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from keras_rafm.rows.access import read_rows, write_rows

_ATTRIBUTE = "_keras_rafm_idle_decay"
_BYTES_AT_ONCE = 2**24


class IdleDecay:
    """The decay of one table.

    Args:
        table: A variable `[n, …]`, from now on read through `idle_decay_of` and `settle`.
        running_sum: `S`: a float64 variable of shape `()`.
        marks: `S_row`: a float64 variable `[n]`.
        settled_at: What `S` was when all rows were last brought up to date: a float64 variable of shape `()`.
    """

    def __init__(
        self, table: keras.Variable, running_sum: keras.Variable, marks: keras.Variable, settled_at: keras.Variable
    ) -> None:
        self._sum, self._marks, self._settled_at = running_sum, marks, settled_at
        self._strategy = tf.distribute.get_strategy()
        self.attach(table)

    def attach(self, table: keras.Variable) -> None:
        """Be what the table is decayed by, after what has decayed it before."""
        if idle_decay_of(table) is not self:
            settle([table])
            setattr(table, _ATTRIBUTE, self)

    def pending(self, rows: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """What rows (int `[r]`) have to be multiplied with to be up to date: `[r]`."""
        return self._factors(self._sum.value, rows, dtype)

    def advance(self, rows: tf.Tensor, log: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Decay the table by `exp(log)`, some rows at once.

        Args:
            rows: Rows that the caller brings up to date now, each once: int `[r]`.
            log: From `log_of_decay`.
            dtype: Float dtype of the result.

        Returns:
            What the caller has to multiply these rows with: `[r]`.
        """
        total = self._sum.value + log
        factors = self._factors(total, rows, dtype)
        with tf.control_dependencies([factors]):
            self._sum.value.assign(total)
            write_rows(self._marks.value, rows, tf.fill(tf.shape(rows), total))
        return factors

    def settle(self, table: keras.Variable) -> None:
        """Bring every row of the table up to date. It costs a pass over the table, or nothing if nothing has waited."""
        total = float(self._sum.numpy())
        if total == float(self._settled_at.numpy()):
            return
        local = self._strategy.experimental_local_results
        for part, marks in zip(local(table.value), local(self._marks.value), strict=True):
            _settle(part, marks, tf.constant(total, tf.float64))
        self._settled_at.assign(total)

    def _factors(self, total: tf.Tensor, rows: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        return tf.exp(tf.cast(total - read_rows(self._marks.value, rows), dtype))


def log_of_decay(rate: tf.Tensor) -> tf.Tensor:
    """`log(1 − rate)`, a float64 scalar, of a step's learning rate times decay.

    Raises:
        tf.errors.InvalidArgumentError: `rate` is 1 or more, at run time.
    """
    log = tf.math.log1p(-tf.cast(rate, tf.float64))
    return tf.debugging.check_numerics(log, "`idle_decay` times the learning rate must be less than 1: log(1 - it) is")


def idle_decay_of(table: keras.Variable) -> IdleDecay | None:
    """The decay that waits on rows of a table, if an optimizer has put one there."""
    return getattr(table, _ATTRIBUTE, None)


def settle(variables: Iterable[keras.Variable]) -> None:
    """Bring every row of these variables up to date: before anybody reads or writes them as a whole."""
    waiting = [(variable, idle_decay_of(variable)) for variable in variables]
    with tf.init_scope():
        for variable, decay in waiting:
            if decay is not None:
                decay.settle(variable)


@tf.custom_gradient
def decayed(rows: tf.Tensor, factors: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None]]]:
    """Rows `[r, …]` brought up to date. The gradient is that of the rows as they are then."""
    factors = tf.reshape(factors, [-1] + [1] * (rows.shape.rank - 1))
    return rows * factors, lambda upstream: (upstream, None)


def _settle(table: tf.Variable, marks: tf.Variable, total: tf.Tensor) -> None:
    """In blocks, so that no copy of the table is ever made."""
    width = max(1, table.shape[1:].num_elements())
    block = max(1, _BYTES_AT_ONCE // (width * table.dtype.size))
    for start in range(0, table.shape[0], block):
        rows = tf.range(start, min(start + block, table.shape[0]))
        factors = tf.exp(tf.cast(total - read_rows(marks, rows), table.dtype))
        factors = tf.reshape(factors, [-1] + [1] * (table.shape.rank - 1))
        write_rows(table, rows, read_rows(table, rows) * factors)
        write_rows(marks, rows, tf.fill(tf.shape(rows), total))
