"""Milliseconds of TensorFlow's ways to sum rows over occurrences: why `score.row_sums` uses CSR products.

    python -m benchmarks.kernels

A batch has 4,096 samples with 39 log-uniform ids of a million features, in two parts: the 5,000 most frequent features at
ranks from 512 to 2 (the number of columns beside the factors), and all others at rank 32. The command measures the sum over
the occurrences together with its gradient with respect to the rows, then ways to find the distinct rows, and ways to look
them up in a table of all features (`keras_rafm.rows.access`). Times are medians of 40 calls. The first line has the time of
a call that does nothing, which is not subtracted.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

NUM_FEATURES, NUM_FREQUENT, NUM_FIELDS, BATCH_SIZE = 1_000_000, 5000, 39, 4096
CALLS, LOOKUPS_AT_ONCE = 40, 20


class Part(NamedTuple):
    """The occurrences of some features.

    Attributes:
        samples: The sample of each occurrence, int64 `[o]`.
        positions: The row of each occurrence, int64 `[o]`.
        rows: The rows of the features, `[r, D]`.
        upstream: A gradient of the sums, `[B, D]`.
    """

    samples: tf.Tensor
    positions: tf.Tensor
    rows: tf.Tensor
    upstream: tf.Tensor


def main() -> None:
    ids = np.exp(np.random.default_rng(0).uniform(0, np.log(NUM_FEATURES + 1), (BATCH_SIZE, NUM_FIELDS))).astype(int) - 1
    frequent = ids < NUM_FREQUENT
    print(f"TensorFlow {tf.__version__}\n\n| | ms |\n|---|---|")
    report("nothing", lambda: tf.constant(0))
    for rank, chosen in ((512, frequent), (256, frequent), (64, frequent), (2, frequent), (32, ~frequent)):
        part = part_of(ids, chosen, rank)
        size = f"{part.samples.shape[0]:,} occurrences of {part.rows.shape[0]:,} rows of rank {rank}"
        for name, way in WAYS.items():
            report(f"{size}: {name}", way, part)
    for width in (32, 64, 128, 256):
        part = part_of(ids, ids < width, 512)
        report(f"forward, {width} most frequent features at rank 512: dense multi-hot", multi_hot, part)
        report(
            f"forward, {width} most frequent features at rank 512: CSR", lambda part: product(csr(part), part.rows), part
        )
    flat = tf.constant(np.minimum(ids, NUM_FEATURES - 1).ravel().astype(np.int32))
    report(f"distinct among {flat.shape[0]:,} ids: tf.unique, then by level", unique, flat)
    report(f"distinct among {flat.shape[0]:,} ids: marked in a vector of all features", marked, flat)
    rows, _ = tf.unique(flat)
    for shape in ([NUM_FEATURES], [NUM_FEATURES, 8], [NUM_FEATURES, 32]):
        table = tf.Variable(tf.random.stateless_normal(shape, [0, 2]))
        for name, lookup in LOOKUPS.items():
            report(f"{LOOKUPS_AT_ONCE} x {rows.shape[0]:,} rows of a table {shape}: {name}", repeated(lookup), table, rows)


def part_of(ids: np.ndarray, chosen: np.ndarray, rank: int) -> Part:
    samples, fields = np.nonzero(chosen)
    distinct, positions = np.unique(ids[samples, fields], return_inverse=True)
    return Part(
        tf.constant(samples, tf.int64),
        tf.constant(positions, tf.int64),
        tf.random.stateless_normal([distinct.size, rank], [0, 0]),
        tf.random.stateless_normal([BATCH_SIZE, rank], [0, 1]),
    )


def report(name: str, function: Callable[..., tf.Tensor], *arguments: Any) -> None:
    """Print the median time of several calls. The graph returns one number of the result, so that none of it is pruned."""
    graph = tf.function(lambda *arguments: tf.reshape(function(*arguments), [-1])[0])
    seconds = []
    for _ in range(CALLS + 3):
        started = time.perf_counter()
        graph(*arguments)
        seconds.append(time.perf_counter() - started)
    print(f"| {name} | {1e3 * statistics.median(seconds[3:]):.2f} |", flush=True)


def csr(part: Part) -> tf.Tensor:
    shape = tf.stack([tf.constant(BATCH_SIZE, tf.int64), tf.shape(part.rows, tf.int64)[0]])
    indices = tf.stack([part.samples, part.positions], axis=1)
    return tf.raw_ops.SparseTensorToCSRSparseMatrix(
        indices=indices, values=tf.ones_like(indices[:, 0], tf.float32), dense_shape=shape
    )


def product(matrix: tf.Tensor, dense: tf.Tensor, **options: Any) -> tf.Tensor:
    return tf.raw_ops.SparseMatrixMatMul(a=matrix, b=dense, **options)


def both(forward: tf.Tensor, backward: Callable[[], tf.Tensor]) -> tf.Tensor:
    """Run the backward product after the forward product, as a step does."""
    with tf.control_dependencies([forward]):
        return forward[0, 0] + backward()[0, 0]


def csr_forward(part: Part) -> tf.Tensor:
    return product(csr(part), part.rows)


def csr_transposed(part: Part) -> tf.Tensor:
    matrix = csr(part)
    return both(
        product(matrix, part.rows),
        lambda: product(tf.raw_ops.SparseMatrixTranspose(input=matrix, type=tf.float32), part.upstream),
    )


def csr_adjoint(part: Part) -> tf.Tensor:
    matrix = csr(part)
    return both(product(matrix, part.rows), lambda: product(matrix, part.upstream, adjoint_a=True))


def segment_sums(part: Part) -> tf.Tensor:
    forward = tf.raw_ops.SparseSegmentSumWithNumSegments(
        data=part.rows, indices=part.positions, segment_ids=part.samples, num_segments=BATCH_SIZE
    )
    return both(
        forward,
        lambda: tf.raw_ops.SparseSegmentSumGrad(
            grad=part.upstream, indices=part.positions, segment_ids=part.samples, output_dim0=tf.shape(part.rows)[0]
        ),
    )


def sparse_dense_matmul(part: Part) -> tf.Tensor:
    indices = tf.stack([part.samples, part.positions], axis=1)
    sparse = tf.SparseTensor(indices, tf.ones_like(part.samples, tf.float32), [BATCH_SIZE, part.rows.shape[0]])
    return both(
        tf.sparse.sparse_dense_matmul(sparse, part.rows),
        lambda: tf.sparse.sparse_dense_matmul(sparse, part.upstream, adjoint_a=True),
    )


def gather_and_reduce(part: Part) -> tf.Tensor:
    """Gather and sum rows as an `Embedding` layer does."""
    forward = tf.math.unsorted_segment_sum(tf.gather(part.rows, part.positions), part.samples, BATCH_SIZE)
    return both(
        forward,
        lambda: tf.math.unsorted_segment_sum(
            tf.gather(part.upstream, part.samples), part.positions, tf.shape(part.rows)[0]
        ),
    )


def multi_hot(part: Part) -> tf.Tensor:
    entries = tf.stack([part.samples, part.positions], axis=1)
    return tf.matmul(
        tf.scatter_nd(entries, tf.ones_like(part.samples, tf.float32), [BATCH_SIZE, part.rows.shape[0]]), part.rows
    )


def unique(ids: tf.Tensor) -> tf.Tensor:
    distinct, positions = tf.unique(ids)
    groups = [tf.where(distinct < NUM_FREQUENT)[:, 0], tf.where(distinct >= NUM_FREQUENT)[:, 0]]
    order = tf.concat(groups, axis=0)
    return tf.gather(distinct, order)[0] + tf.cast(tf.gather(tf.math.invert_permutation(order), positions)[0], tf.int32)


def marked(ids: tf.Tensor) -> tf.Tensor:
    marks = tf.tensor_scatter_nd_update(tf.zeros([NUM_FEATURES], tf.bool), ids[:, None], tf.ones_like(ids, tf.bool))
    distinct = tf.where(marks)
    empty = tf.raw_ops.Empty(shape=[NUM_FEATURES], dtype=tf.int32)
    positions = tf.tensor_scatter_nd_update(empty, distinct, tf.range(tf.size(distinct)))
    return tf.cast(distinct[0, 0], tf.int32) + tf.gather(positions, ids)[0]


def repeated(lookup: Callable[[tf.Variable, tf.Tensor], tf.Tensor]) -> Callable[[tf.Variable, tf.Tensor], tf.Tensor]:
    """Return several lookups in sequence, because a single one takes less time than the call of the graph."""

    def run(table: tf.Variable, rows: tf.Tensor) -> tf.Tensor:
        def body(step: tf.Tensor, last: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            with tf.control_dependencies([last]):
                return step + 1, tf.reshape(lookup(table, rows), [-1])[0]

        start = (tf.constant(0), tf.constant(0.0))
        return tf.while_loop(lambda step, _: step < LOOKUPS_AT_ONCE, body, start, parallel_iterations=1)[1]

    return run


LOOKUPS: dict[str, Callable[[tf.Variable, tf.Tensor], tf.Tensor]] = {
    "tf.gather": tf.gather,
    "tf.gather_nd": lambda table, rows: tf.gather_nd(table, rows[:, None]),
}
WAYS: dict[str, Callable[[Part], tf.Tensor]] = {
    "CSR, made once, transposed": csr_transposed,
    "CSR, made once, adjoint_a": csr_adjoint,
    "SparseSegmentSum and its gradient": segment_sums,
    "sparse_dense_matmul and its adjoint": sparse_dense_matmul,
    "gather and reduce": gather_and_reduce,
}


if __name__ == "__main__":
    main()
