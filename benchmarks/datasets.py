"""Frappe, MovieLens 100K and Yelp as samples, split for training, validation and test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import keras_rafm as kr
from benchmarks.speed.workloads import frappe_file
from keras_rafm.checks.constants import PADDING_ID

_BATCH_SIZE = 8192


@dataclass(frozen=True)
class Split:
    """Samples for training, for early stopping and for the report."""

    train: kr.data.Samples
    validation: kr.data.Samples
    test: kr.data.Samples

    def counts(self) -> np.ndarray:
        """Count the features in the training samples. Features of validation and test samples may have a count of 0."""
        num_features = 1 + max(int(samples.ids.max()) for samples in (self.train, self.validation, self.test))
        return kr.count_features(self.train, num_features)


def frappe(folder: Path) -> Split:
    """Return Frappe in the split of its authors."""
    return Split(*(kr.data.read_libfm(frappe_file(folder, part)) for part in ("train", "validation", "test")))


def ml_100k(folder: Path) -> Split:
    """Return MovieLens 100K: user, item, the user's age, gender and occupation, and the item's genres."""
    return _known("movielens-100k", folder / "ml-100k")


def yelp(folder: Path) -> Split:
    """Return Yelp: user, business, and the business's city and categories."""
    return _known("yelp", folder / "yelp")


def _known(name: str, folder: Path) -> Split:
    """Read a known dataset in its default split, which is then cached. Values unseen in training have no feature."""
    dataset = kr.data.known_dataset(name, folder)
    dataset.schema.adapt(dataset.train, file_format=dataset.file_format)
    return Split(*(_samples(dataset, files) for files in (dataset.train, dataset.validation, dataset.test)))


def _samples(dataset: kr.data.KnownDataset, files: Sequence[str]) -> kr.data.Samples:
    batches = dataset.schema.dataset(files, _BATCH_SIZE, file_format=dataset.file_format).as_numpy_iterator()
    ids, labels = zip(*((inputs["ids"], labels[:, 0]) for inputs, labels in batches), strict=True)
    all_ids = np.concatenate(ids)
    # A value without a feature leaves a gap, which `Samples` does not allow.
    order = np.argsort(all_ids == PADDING_ID, axis=1, kind="stable")
    all_ids = np.take_along_axis(all_ids, order, axis=1)
    return kr.data.Samples(all_ids, (all_ids != PADDING_ID).astype(np.float32), np.concatenate(labels))
