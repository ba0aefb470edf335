"""Weight decay of all rows of a table, at a cost that depends on the rows in the batch alone.

Decoupled weight decay multiplies every weight by `1 − learning_rate · decay` in every step (Loshchilov and Hutter,
ICLR 2019). For an idle row, which no batch reads, these factors accumulate to `exp(S − S_row)`, where `S` is the running
sum of `log(1 − learning_rate · decay)` over the steps, and `S_row` is the value of that sum when the row was last settled.
So it is enough to keep `S` and one mark `S_row` per row, and to apply the pending decay of a row when the row is next read
or updated. `S` sums what each step really did, so learning-rate schedules are followed exactly. It is kept in float64,
because float32 would drift.

An optimizer attaches an `IdleDecay` to a variable. Code that reads rows in training asks `idle_decay_of` for it; code that
reads or writes whole tables calls `settle` first. Small tables that a `RaFMLayer` reads whole in training decay in every
step instead, so that no decay is ever pending on them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import keras
import tensorflow as tf

from keras_rafm.rows.access import read_rows, write_rows
from keras_rafm.rows.attached_record import record_of, update_record

_BYTES_PER_BLOCK = 2**24


class IdleDecay:
    """The idle decay of one table.

    Args:
        table: A variable `[n, …]`. From now on its rows are current only after `pending` or `settle`.
        running_sum: `S`: a float64 variable of shape `()`.
        marks: `S_row`: a float64 variable `[n]`.
        settled_at: The value of `S` when all rows were last settled: a float64 variable of shape `()`.
    """

    def __init__(
        self, table: keras.Variable, running_sum: keras.Variable, marks: keras.Variable, settled_at: keras.Variable
    ) -> None:
        self._sum, self._marks, self._settled_at = running_sum, marks, settled_at
        self._strategy = tf.distribute.get_strategy()
        self.attach(table)

    def attach(self, table: keras.Variable) -> None:
        """Attach this decay to the table, settling any previous one first."""
        if idle_decay_of(table) is not self:
            settle([table])
            update_record(table, idle_decay=self)

    def pending(self, rows: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Return the pending decay of some rows (int `[r]`): the factors `[r]` that bring them up to date."""
        return self._factors(self._sum.value, rows, dtype)

    def advance(self, rows: tf.Tensor, log: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """Decay the whole table by `exp(log)`: some rows now, all others when they are next read.

        Args:
            rows: Rows that the caller brings up to date now, without repetition: int `[r]`.
            log: The result of `log_of_decay` for this step.
            dtype: Float dtype of the result.

        Returns:
            The factors that the caller has to multiply these rows by: `[r]`.
        """
        total = self._sum.value + log
        factors = self._factors(total, rows, dtype)
        with tf.control_dependencies([factors]):
            self._sum.value.assign(total)
            write_rows(self._marks.value, rows, tf.fill(tf.shape(rows), total))
        return factors

    def settle(self, table: keras.Variable) -> None:
        """Apply the pending decay to every row. It costs a pass over the table, unless nothing is pending."""
        total = float(self._sum.numpy())
        if total == float(self._settled_at.numpy()):
            return
        copies_of = self._strategy.experimental_local_results
        for table_copy, marks_copy in zip(copies_of(table.value), copies_of(self._marks.value), strict=True):
            _settle_in_blocks(table_copy, marks_copy, tf.constant(total, tf.float64))
        self._settled_at.assign(total)

    def _factors(self, total: tf.Tensor, rows: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        return tf.exp(tf.cast(total - read_rows(self._marks.value, rows), dtype))


def log_of_decay(rate: tf.Tensor) -> tf.Tensor:
    """Return `log(1 − rate)`: a float64 scalar.

    Args:
        rate: The learning rate of the step times the decay.

    Raises:
        tf.errors.InvalidArgumentError: `rate` is 1 or more. Raised when the step runs.
    """
    log = tf.math.log1p(-tf.cast(rate, tf.float64))
    # TensorFlow appends ": Tensor had Inf values" or "NaN values".
    return tf.debugging.check_numerics(
        log,
        "`idle_decay` times the learning rate must be less than 1. The logarithm of 1 minus their product is not finite",
    )


def idle_decay_of(table: keras.Variable) -> IdleDecay | None:
    """Return the idle decay of a table, or `None` if no optimizer has attached one."""
    decay: IdleDecay | None = record_of(table).idle_decay
    return decay


def settle(variables: Iterable[keras.Variable]) -> None:
    """Apply the pending decay to every row of these variables. Call it before reading or writing them as a whole."""
    decays = [(variable, idle_decay_of(variable)) for variable in variables]
    with tf.init_scope():
        for variable, decay in decays:
            if decay is not None:
                decay.settle(variable)


@tf.custom_gradient
def decayed(rows: tf.Tensor, factors: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tuple[tf.Tensor, None]]]:
    """Return rows `[r, …]` with their pending decay applied.

    The gradient passes unchanged: it is the gradient with respect to the decayed rows, to which the optimizer applies it.
    """
    factors = tf.reshape(factors, [-1] + [1] * (rows.shape.rank - 1))
    return rows * factors, lambda upstream: (upstream, None)


def _settle_in_blocks(table: tf.Variable, marks: tf.Variable, total: tf.Tensor) -> None:
    """Bring every row up to the sum `total`. Rows are taken in blocks, so that the table is never copied as a whole."""
    width = max(1, table.shape[1:].num_elements())
    rows_per_block = max(1, _BYTES_PER_BLOCK // (width * table.dtype.size))
    for start in range(0, table.shape[0], rows_per_block):
        rows = tf.range(start, min(start + rows_per_block, table.shape[0]))
        factors = tf.exp(tf.cast(total - read_rows(marks, rows), table.dtype))
        factors = tf.reshape(factors, [-1] + [1] * (table.shape.rank - 1))
        write_rows(table, rows, read_rows(table, rows) * factors)
        write_rows(marks, rows, tf.fill(tf.shape(rows), total))
