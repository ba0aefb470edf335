"""The samples of a workload as NumPy arrays, and as files for the C++ tools. This module imports only NumPy."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.speed.specs import Workload

IntArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

_SEED = 20190512
_FRAPPE_FILES = {
    "train": "frappe.train.reconstructed.libfm.gz",
    "validation": "frappe.validation.libfm.gz",
    "test": "frappe.test.libfm.gz",
}
FRAPPE_FEATURES, FRAPPE_FIELDS, FRAPPE_SAMPLES = 5_382, 10, 202_027


def frappe(folder: Path) -> Workload:
    """Return the training data of Frappe as a workload.

    Raises:
        FileNotFoundError: The folder does not have the training and test data.
    """
    for part in ("train", "test"):
        if not frappe_file(folder, part).is_file():
            raise FileNotFoundError(f"file not found: {frappe_file(folder, part)}")
    return Workload("frappe", FRAPPE_FEATURES, FRAPPE_FIELDS, FRAPPE_SAMPLES, folder=str(folder.resolve()))


def frappe_file(folder: Path, part: str) -> Path:
    """Return the file of `train`, `validation` or `test`."""
    return folder / "frappe" / _FRAPPE_FILES[part]


def draw(workload: Workload) -> tuple[IntArray, FloatArray]:
    """Return the ids `[N, F]` and labels `[N]` of a log-uniform workload, which are the same in every process."""
    if workload.source != "log-uniform":
        raise ValueError(f"`source` must be 'log-uniform' to draw samples. Received: source={workload.source!r}")
    rng = np.random.default_rng(_SEED)
    num_distinct = workload.num_features // workload.spread
    logarithms = rng.random((workload.num_samples, workload.num_fields)) * np.log(num_distinct)
    ids = np.minimum(np.exp(logarithms).astype(np.int32), num_distinct) - 1
    labels = rng.integers(0, 2, workload.num_samples).astype(np.float32)
    return (ids * workload.spread).astype(np.int32), labels


def write_libsvm(workload: Workload, path: Path, part: str = "train", copies: int = 1) -> None:
    """Write all samples `copies` times as LIBSVM text with labels 0 and 1, which both C++ tools read."""
    with path.open("w", encoding="ascii") as file:
        for _ in range(copies):
            file.writelines(_libsvm_lines(workload, part))


def _libsvm_lines(workload: Workload, part: str) -> Iterator[str]:
    if workload.source == "frappe":
        with gzip.open(frappe_file(Path(workload.folder), part), "rt", encoding="ascii") as lines:
            yield from (_with_label_0_or_1(line) for line in lines if line.strip())
        return
    ids, labels = draw(workload)
    for label, row in zip(labels.astype(int).tolist(), ids.tolist(), strict=True):
        yield f"{label} {' '.join(f'{id_}:1' for id_ in row)}\n"


def _with_label_0_or_1(line: str) -> str:
    label, features = line.split(maxsplit=1)
    return f"{int(float(label) > 0)} {features.rstrip()}\n"
