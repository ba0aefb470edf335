"""What a benchmark consists of, as plain values: workloads, contenders, targets and cases."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: `default` leaves TensorFlow's thread settings alone; `one-per-op` runs every operation on one thread and as many
#: operations at once as there are cores (`intra_op=1, inter_op=2` on two cores); `best` tries both and takes the faster.
THREADS = ("default", "one-per-op")
ThreadChoice = Literal["default", "one-per-op", "best"]


@dataclass(frozen=True)
class Workload:
    """The samples of a case.

    Attributes:
        source: `frappe`: the training data of Frappe. `log-uniform`: ids drawn with a seed so that their logarithms are
            evenly distributed, each field from all features, and random labels.
        num_features: Of the model.
        num_fields: Ids per sample.
        num_samples: How many are drawn; of Frappe all are there.
        spread: Ids are drawn below `num_features / spread` and multiplied with it: batches then have as many distinct ids
            as those of a workload with so many features.
        folder: Where the `frappe` folder is.
    """

    source: Literal["frappe", "log-uniform"]
    num_features: int
    num_fields: int
    num_samples: int
    spread: int = 1
    folder: str = ""


@dataclass(frozen=True)
class TensorFlowContender:
    """A Keras model that trains in a worker of its own.

    Attributes:
        name: In the table.
        workload: What it trains on.
        ranks: Of an FM or RaFM of this package; of `embedding` one.
        optimizer: A name in `models.OPTIMIZERS`.
        model: `rafm`: this package; `embedding`: the FM that a Keras user would write with `Embedding`.
        thresholds: A feature's level is 1 + the number of these that its count in the training data exceeds.
        most_frequent: Instead of `thresholds`, where low ids are frequent by construction: the ids below the first number
            are of level 2 or above, those below the second of level 3 or above, and so on.
        batch_size: `B`.
        factors_l2: Of the layer.
        feed: `batches`: cut and cached before, so that a step is all there is to wait for. `arrays`: `fit(ids, labels)` on
            NumPy arrays. `samples`: `fit(Samples.dataset(…, shuffle=True))`.
        in_other_python: Runs in the interpreter named by `--other-python`.
        roofline: Whether to compare its step with the memory bandwidth of the machine.
    """

    name: str
    workload: Workload
    ranks: tuple[int, ...]
    optimizer: str
    model: Literal["rafm", "embedding"] = "rafm"
    thresholds: tuple[int, ...] = ()
    most_frequent: tuple[int, ...] = ()
    batch_size: int = 4096
    factors_l2: float = 0.0
    feed: Literal["batches", "arrays", "samples"] = "batches"
    in_other_python: bool = False
    roofline: bool = False

    def to_json(self) -> dict[str, Any]:
        """Plain values for a worker."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TensorFlowContender:
        """The reverse, after a round trip through JSON."""
        tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **tuples, "workload": Workload(**values["workload"])})


@dataclass(frozen=True)
class ToolContender:
    """A plain FM of a C++ tool, which runs as a process and measures its own epochs.

    `normalised` is xLearn's default: the values of every sample are scaled to norm 1. It changes what is learnt, not how
    fast a step is.
    """

    name: str
    workload: Workload
    rank: int
    tool: Literal["xlearn", "libfm"]
    normalised: bool = False


Contender = TensorFlowContender | ToolContender


@dataclass(frozen=True)
class Target:
    """What a contender should reach against another one.

    Attributes:
        contender: Its name.
        against: The name of the other.
        kind: `speed`: samples per second are at least `limit` times the other's. `time`: time per sample is at most `limit`
            times the other's. `parameters`: likewise their number.
        limit: See `kind`.
    """

    contender: str
    against: str
    kind: Literal["speed", "time", "parameters"]
    limit: float


@dataclass(frozen=True)
class Case:
    """Contenders that do the same work, one of which the others are compared with.

    `array_bytes` is the size of the arrays that a roofline's bandwidth is measured with, if not one far beyond the cache.
    """

    name: str
    title: str
    reference: str
    contenders: tuple[Contender, ...]
    targets: tuple[Target, ...] = ()
    array_bytes: int | None = None


@dataclass(frozen=True)
class Settings:
    """How all cases are run.

    Attributes:
        runs: Measured repetitions of every contender.
        seconds: How long one of them lasts, roughly.
        steps_per_execution: Of every Keras model.
        threads: Of every Keras model.
        python: The interpreter of the workers.
        other_python: An interpreter with another TensorFlow version.
        xlearn: The program `xlearn_train`.
        libfm: The program `libFM`.
    """

    runs: int
    seconds: float
    steps_per_execution: int
    threads: ThreadChoice
    python: str
    other_python: str | None = None
    xlearn: str | None = None
    libfm: str | None = None
