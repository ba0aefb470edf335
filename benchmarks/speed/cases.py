"""The cases, each with its contenders and targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks.speed.specs import Case, Target, TensorFlowContender, ToolContender, Workload

_FM_64 = "FM 64"
_KERAS_256 = "Keras Embedding FM 256"
_MILLION = Workload("log-uniform", num_features=1_000_000, num_fields=39, num_samples=16 * 4096)
_FREQUENT = (5_000,)  # these features have 62 % of the occurrences


def frappe_fm64(frappe: Workload) -> Case:
    return Case(
        "frappe-fm64",
        "Frappe, FM of rank 64",
        "Keras Embedding FM 64",
        (
            TensorFlowContender("Keras Embedding FM 64", frappe, (64,), "Keras Adam", "embedding"),
            TensorFlowContender(_FM_64, frappe, (64,), "LazyAdam"),
        ),
        (Target(_FM_64, "Keras Embedding FM 64", "speed", 3),),
    )


def frappe_rafm(frappe: Workload, batch_size: int = 4096, name: str = "frappe-rafm", at_least: float = 8) -> Case:
    rafm = _frappe_rafm("RaFM 64+256", frappe)
    contenders = (
        TensorFlowContender(_KERAS_256, frappe, (256,), "Keras Adam", "embedding"),
        rafm,
        TensorFlowContender("FM 256", frappe, (256,), "LazyAdam"),
        TensorFlowContender(_FM_64, frappe, (64,), "LazyAdam"),
    )
    return Case(
        name,
        f"Frappe, RaFM of ranks 64 and 256, batches of {batch_size:,}",
        _KERAS_256,
        tuple(replace(contender, batch_size=batch_size) for contender in contenders),
        (Target(rafm.name, _KERAS_256, "speed", at_least),),
    )


def frappe_batch256(frappe: Workload) -> Case:
    return frappe_rafm(frappe, 256, "frappe-batch256", 3)


def frappe_xlearn(frappe: Workload) -> Case:
    lazy = TensorFlowContender(f"{_FM_64}, LazyAdam", frappe, (64,), "LazyAdam")
    adagrad = TensorFlowContender(f"{_FM_64}, SparseAdagrad", frappe, (64,), "SparseAdagrad")
    large_batches = replace(adagrad, name=f"{adagrad.name}, batches of 16,384", batch_size=16_384)
    ours = (lazy, adagrad, large_batches)
    return Case(
        "frappe-xlearn",
        "Frappe, FM of rank 64, C++ tools",
        "xLearn FM 64",
        (ToolContender("xLearn FM 64", frappe, 64, "xlearn"), *ours, ToolContender("libFM FM 64", frappe, 64, "libfm")),
        tuple(Target(contender.name, "xLearn FM 64", "speed", 2) for contender in ours),
    )


def large_rafm(name: str, optimizer: str) -> TensorFlowContender:
    """Return RaFM with ranks 32 and 512 on a million features and 39 fields."""
    return TensorFlowContender(name, _MILLION, (32, 512), optimizer, most_frequent=_FREQUENT)


def large() -> Case:
    adagrad = replace(large_rafm("RaFM 32+512, SparseAdagrad", "SparseAdagrad"), roofline=True)
    lazy = replace(large_rafm("RaFM 32+512, LazyAdam", "LazyAdam"), roofline=True)
    full = [
        TensorFlowContender(f"FM 512, {ours.optimizer}", _MILLION, (512,), ours.optimizer, roofline=True)
        for ours in (adagrad, lazy)
    ]
    targets = []
    for ours, full_rank in zip((adagrad, lazy), full, strict=True):
        targets += [
            Target(ours.name, full_rank.name, "time", 0.24),
            Target(ours.name, full_rank.name, "parameters", 0.10),
            Target(ours.name, "Keras Embedding FM 32", "speed", 4),
            Target(ours.name, "xLearn FM 512", "speed", 3),
        ]
    return Case(
        "large",
        "1,000,000 features, 39 fields, log-uniform ids",
        full[0].name,
        (
            *full,
            adagrad,
            lazy,
            TensorFlowContender("Keras Embedding FM 32", _MILLION, (32,), "Keras Adam", "embedding"),
            ToolContender("xLearn FM 512", _MILLION, 512, "xlearn"),
        ),
        tuple(targets),
    )


def features_50m() -> Case:
    """Return a case whose contenders have equally many distinct ids per batch and differ only in the size of tables."""
    spread = replace(_MILLION, num_features=50 * _MILLION.num_features, spread=50)
    few, many = "FM 8, 1 M features", "FM 8, 50 M features"
    return Case(
        "features-50m",
        "50 million features against 1 million",
        few,
        (
            TensorFlowContender(few, _MILLION, (8,), "SparseAdagrad"),
            TensorFlowContender(many, spread, (8,), "SparseAdagrad"),
        ),
        (Target(many, few, "time", 1.3),),
    )


def input_pipeline(frappe: Workload) -> Case:
    step = _frappe_rafm("the step alone", frappe)
    arrays = replace(step, name="fit on NumPy arrays", feed="arrays")
    samples = replace(step, name="fit on Samples.dataset", feed="samples")
    return Case(
        "input-pipeline",
        "Frappe, RaFM 64+256: what `fit` adds to the step (shuffled epochs, progress bar and loss on)",
        step.name,
        (step, arrays, samples),
        tuple(Target(contender.name, step.name, "speed", 0.85) for contender in (arrays, samples)),
    )


def versions() -> Case:
    here = large_rafm("this interpreter", "SparseAdagrad")
    other = large_rafm("the other interpreter", "SparseAdagrad")
    return Case(
        "versions",
        "1,000,000 features, RaFM 32+512 with SparseAdagrad: TensorFlow versions",
        here.name,
        (here, replace(other, in_other_python=True)),
        (Target(other.name, here.name, "time", 1.3),),
    )


def optimizers(frappe: Workload) -> Case:
    names = ("LazyAdam", "LazyAdam, idle_decay=0", "SparseAdagrad", "SparseFtrl")
    ours = [replace(_frappe_rafm(name, frappe), optimizer=name) for name in names]
    without_l2 = replace(_frappe_rafm("Keras Adam", frappe), optimizer="Keras Adam")
    with_l2 = replace(without_l2, name="Keras Adam, factors_l2=2.5e-6", factors_l2=2.5e-6)
    return Case("optimizers", "Frappe, RaFM 64+256: optimizers", "LazyAdam", (*ours, with_l2, without_l2))


def tiny() -> Case:
    """Return a small case with every kind of contender, for tests."""
    workload = Workload("log-uniform", num_features=500, num_fields=6, num_samples=640)
    rafm = TensorFlowContender("RaFM", workload, (2, 4), "LazyAdam", most_frequent=(20,), batch_size=64, roofline=True)
    embedding = TensorFlowContender("Keras", workload, (4,), "Keras Adam", "embedding", batch_size=64)
    return Case(
        "tiny",
        "A small trial",
        "Keras",
        (
            embedding,
            rafm,
            ToolContender("xLearn", workload, 4, "xlearn"),
            ToolContender("libFM", workload, 4, "libfm"),
        ),
        (Target("RaFM", "Keras", "time", 1e9), Target("RaFM", "Keras", "parameters", 0.1)),
        array_bytes=2**20,
    )


def time_to_loss_contenders(frappe: Workload) -> tuple[TensorFlowContender, list[ToolContender]]:
    """Return RaFM, and xLearn's FM with its default normalisation of samples and without (`--no-norm`)."""
    peer = ToolContender("xLearn FM 256", frappe, 256, "xlearn", normalised=True)
    return _frappe_rafm("RaFM 64+256", frappe), [peer, replace(peer, name="xLearn FM 256, --no-norm", normalised=False)]


#: Cases on the Frappe data.
ON_FRAPPE: dict[str, Callable[[Workload], Case]] = {
    "frappe-fm64": frappe_fm64,
    "frappe-rafm": frappe_rafm,
    "frappe-batch256": frappe_batch256,
    "frappe-xlearn": frappe_xlearn,
    "input-pipeline": input_pipeline,
    "optimizers": optimizers,
}
#: Cases on drawn samples, and those that the help does not list.
DRAWN: dict[str, Callable[[], Case]] = {"large": large, "features-50m": features_50m, "versions": versions}
HIDDEN: dict[str, Callable[[], Case]] = {"tiny": tiny}


def _frappe_rafm(name: str, frappe: Workload) -> TensorFlowContender:
    return TensorFlowContender(name, frappe, (64, 256), "LazyAdam", thresholds=(256,))
