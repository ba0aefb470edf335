"""The parts of a benchmark as plain values: workloads, contenders, targets and cases."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

#: `default` keeps TensorFlow's thread settings. `one-per-op` runs every operation on one thread, and as many operations at
#: once as there are cores (`intra_op=1, inter_op=2` on two cores). `best` tries both and takes the faster one.
THREADS = ("default", "one-per-op")
ThreadChoice = Literal["default", "one-per-op", "best"]


@dataclass(frozen=True)
class Workload:
    """The samples of a case.

    Attributes:
        source: `frappe` is the training data of Frappe. `log-uniform` has ids whose logarithms are evenly distributed, each
            field with ids of all features, and random labels, all drawn with a fixed seed.
        num_features: Number of features of the model.
        num_fields: Ids per sample.
        num_samples: Number of samples. For Frappe, it is the number of all samples.
        spread: Ids are drawn below `num_features / spread` and then multiplied by `spread`. Batches have as many distinct
            ids as those of a workload with `num_features / spread` features.
        folder: The folder that holds the folder `frappe`.
    """

    source: Literal["frappe", "log-uniform"]
    num_features: int
    num_fields: int
    num_samples: int
    spread: int = 1
    folder: str = ""


@dataclass(frozen=True)
class TensorFlowContender:
    """A Keras model that trains in its own worker.

    Attributes:
        name: Its name in the table.
        workload: The samples that it trains on.
        ranks: Ranks of an FM or RaFM of this package, or the one rank of an `embedding` model.
        optimizer: A name in `models.OPTIMIZERS`.
        model: `rafm` is a model of this package, `embedding` the FM that a Keras user would write with `Embedding`.
        thresholds: A feature's level is 1 + the number of thresholds that its count in the training data exceeds.
        most_frequent: An alternative to `thresholds` for workloads where low ids are frequent by construction. Ids below
            the first number have level 2 or above, ids below the second level 3 or above, and so on.
        batch_size: `B`.
        factors_l2: See `RaFMLayer`.
        feed: `batches` are cut and cached before training, so that a step never waits for data. `arrays` is
            `fit(ids, labels)` on NumPy arrays, `samples` is `fit(Samples.dataset(…, shuffle=True))`.
        in_other_python: Whether it runs in the interpreter of `--other-python`.
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
        """Return JSON values for a worker."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TensorFlowContender:
        """Return the contender that `to_json` was called on."""
        tuples = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**{**values, **tuples, "workload": Workload(**values["workload"])})


@dataclass(frozen=True)
class ToolContender:
    """A plain FM of a C++ tool, which runs as a process and measures its own epochs.

    With `normalised`, xLearn's default, the values of every sample are scaled to norm 1. This changes the result of
    training, but not the time of a step.
    """

    name: str
    workload: Workload
    rank: int
    tool: Literal["xlearn", "libfm"]
    normalised: bool = False


Contender = TensorFlowContender | ToolContender


@dataclass(frozen=True)
class Target:
    """The speed or size that a contender should reach, relative to another one.

    Attributes:
        contender: The name of the contender.
        against: The name of the other one.
        kind: `speed`: samples per second are at least `limit` times those of the other. `time`: time per sample is at most
            `limit` times that of the other. `parameters`: the number of parameters is at most `limit` times that of the
            other.
        limit: See `kind`.
    """

    contender: str
    against: str
    kind: Literal["speed", "time", "parameters"]
    limit: float


@dataclass(frozen=True)
class Case:
    """Contenders that do the same work, and the one that the others are compared with.

    Attributes:
        name: The name for `--cases`.
        title: The heading in the report.
        reference: The name of the contender that the others are compared with.
        contenders: All contenders.
        targets: What they should reach.
        array_bytes: The size of the arrays for a roofline's bandwidth. `None`: far beyond the cache.
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
        seconds: Approximate length of a repetition.
        steps_per_execution: Steps per call of TensorFlow, for every Keras model.
        threads: The thread setting of every Keras model.
        python: The interpreter of the workers.
        other_python: An interpreter with another TensorFlow version.
        xlearn: Path of the program `xlearn_train`.
        libfm: Path of the program `libFM`.
    """

    runs: int
    seconds: float
    steps_per_execution: int
    threads: ThreadChoice
    python: str
    other_python: str | None = None
    xlearn: str | None = None
    libfm: str | None = None
