"""Milliseconds to find the best of many items: the exported `retrieve` against scoring all pairs and against FAISS.

    python -m benchmarks.retrieval [--items 100000,1000000] [--batch-sizes 1,32] [--calls 21]

The model has 200,000 features, of which the 10,000 most frequent have rank 256 and all others rank 64. An item has 3
features and a context 7, drawn log-uniformly. The task is to find the 100 best items. Contenders:

- `retrieve` of `keras_rafm.retrieval.export_retrieval`, from ids to item ids;
- `serving_default` of `keras_rafm.export`, which scores every pair of a context and an item, 4,096 pairs per request. The
  time of all pairs is computed from that of 16,384. It does not include finding the best ones;
- FAISS's `IndexFlatIP` on the same vectors (`item_matrix`, `context_vector`). The time does not include computing the
  vectors of contexts.

The contenders alternate. The table has the median with the shortest time in parentheses, and ratios of medians. FAISS runs
in its own process. Its threads wait for each other actively, so other load on the machine slows it down most.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_rafm as kr
from benchmarks import options
from keras_rafm.checks.optional_packages import imported

NUM_FEATURES, NUM_FREQUENT, RANKS = 200_000, 10_000, (64, 256)
FEATURES_OF_ITEM, FEATURES_OF_CONTEXT = 3, 7
K = 100
PAIRS_AT_ONCE, REQUESTS_OF_PAIRS = 4096, 4
WARM_UP = 3


class Contender(NamedTuple):
    """A way to do the task.

    Attributes:
        seconds: Does a part of the task and returns its seconds.
        num_parts: The number of such parts in the task.
    """

    seconds: Callable[[], float]
    num_parts: float = 1.0


class Times(NamedTuple):
    """The median and the shortest of several times, in seconds."""

    median: float
    shortest: float

    def __str__(self) -> str:
        return f"{1000 * self.median:,.1f} ({1000 * self.shortest:,.1f})"


class FlatIndex:
    """An `IndexFlatIP` in its own process."""

    def __init__(self, matrix: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, other_end = context.Pipe()
        self._process = context.Process(target=search_when_asked, args=(other_end, str(matrix)), daemon=True)
        self._process.start()
        self._connection.recv()

    def seconds(self, vectors: np.ndarray) -> float:
        """Return the seconds of a search."""
        self._connection.send(vectors)
        return self._connection.recv()

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join()


def search_when_asked(connection: Connection, matrix: str) -> None:
    vectors = np.load(matrix)
    index = imported("faiss", "benchmark").IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    connection.send("ready")
    while True:
        try:
            contexts = connection.recv()
        except EOFError:
            return
        connection.send(seconds_of(lambda contexts=contexts: index.search(contexts, K)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=options.integers(), default=[100_000, 1_000_000])
    parser.add_argument("--batch-sizes", type=options.integers(), default=[1, 32])
    parser.add_argument("--calls", type=options.integer(), default=21, help="of each contender (%(default)s)")
    arguments = parser.parse_args()
    imported("faiss", "benchmark")
    model = rafm_model()
    print(f"TensorFlow {tf.__version__}\n")
    print("| items | batch | retrieve | all pairs | over retrieve | IndexFlatIP | over retrieve |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        scorer = tf.saved_model.load(str(kr.export(model, Path(folder) / "scores", signatures=[])))
        for num_items in arguments.items:
            items = draw(num_items, FEATURES_OF_ITEM, seed=1)
            retriever = tf.saved_model.load(
                str(kr.retrieval.export_retrieval(model, Path(folder) / str(num_items), items, k=K))
            )
            np.save(Path(folder) / "matrix.npy", kr.retrieval.item_matrix(model, items))
            index = FlatIndex(Path(folder) / "matrix.npy")
            for batch_size in arguments.batch_sizes:
                contexts = draw(batch_size, FEATURES_OF_CONTEXT, seed=2)
                vectors = kr.retrieval.context_vector(model, contexts)
                contenders = [
                    of_retrieve(retriever, contexts),
                    of_all_pairs(scorer, contexts, items),
                    Contender(lambda index=index, vectors=vectors: index.seconds(vectors)),
                ]
                ours, pairs, flat = times(contenders, arguments.calls)
                ratios = [f"{other.median / ours.median:,.2f}" for other in (pairs, flat)]
                cells = [f"{num_items:,}", str(batch_size), str(ours), str(pairs), ratios[0], str(flat), ratios[1]]
                print(f"| {' | '.join(cells)} |", flush=True)
            index.close()


def rafm_model() -> kr.RaFMModel:
    levels = np.where(np.arange(NUM_FEATURES) < NUM_FREQUENT, 2, 1)
    normal = keras.initializers.RandomNormal(stddev=0.05)
    ids = keras.Input((FEATURES_OF_ITEM + FEATURES_OF_CONTEXT,), dtype="int32", name="ids")
    layer = kr.RaFMLayer(kr.RankPlan(levels, RANKS), factors_initializer=normal, linear_initializer=normal, seed=0)
    return kr.RaFMModel(ids, layer(ids))


def draw(number: int, num_fields: int, seed: int) -> np.ndarray:
    uniform = np.random.default_rng(seed).uniform(0, np.log(NUM_FEATURES), (number, num_fields))
    return np.exp(uniform).astype(np.int32)


def of_retrieve(retriever: Any, contexts: np.ndarray) -> Contender:
    retrieve, ids = retriever.signatures["retrieve"], tf.constant(contexts)
    return Contender(lambda: seconds_of(lambda: retrieve(ids=ids)["item_ids"].numpy()))


def of_all_pairs(scorer: Any, contexts: np.ndarray, items: np.ndarray) -> Contender:
    score, num_pairs = scorer.signatures["serving_default"], PAIRS_AT_ONCE * REQUESTS_OF_PAIRS
    pairs = np.concatenate(
        [np.resize(contexts, (num_pairs, FEATURES_OF_CONTEXT)), np.resize(items, (num_pairs, FEATURES_OF_ITEM))], axis=1
    )
    requests = [tf.constant(part) for part in np.split(pairs, REQUESTS_OF_PAIRS)]
    return Contender(
        lambda: seconds_of(lambda: [score(ids=request)["score"].numpy() for request in requests]),
        len(contexts) * len(items) / num_pairs,
    )


def seconds_of(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def times(contenders: list[Contender], calls: int) -> list[Times]:
    """Return the times of the whole task by contender, after a warm-up that isn't counted."""
    seconds: list[list[float]] = [[] for _ in contenders]
    for _ in range(WARM_UP + calls):
        for seconds_of_contender, contender in zip(seconds, contenders, strict=True):
            seconds_of_contender.append(contender.num_parts * contender.seconds())
    measured = [seconds_of_contender[WARM_UP:] for seconds_of_contender in seconds]
    return [Times(statistics.median(values), min(values)) for values in measured]


if __name__ == "__main__":
    main()
