"""Frappe, MovieLens 100K and Yelp as samples with ids from 0, split with a fixed seed where no split is given."""

from __future__ import annotations

import gzip
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import keras_rafm as kr
from examples.comparison import Split

_SPLIT_SEED = 20190512
_TRAIN_SHARE, _VALIDATION_SHARE = 0.8, 0.1


def frappe(folder: Path) -> Split:
    names = ("train.reconstructed", "validation", "test")
    return Split(*(kr.data.read_libfm(folder / "frappe" / f"frappe.{name}.libfm.gz") for name in names))


def ml_100k(folder: Path) -> Split:
    """User, item, the user's age, gender and occupation, and the item's genres."""
    ids = _Ids()
    users = {
        user: [ids["age", age], ids["gender", gender], ids["occupation", occupation]]
        for user, age, gender, occupation, _ in _lines(folder / "ml-100k" / "u.user.gz", "|")
    }
    items = {
        fields[0]: [ids["genre", str(number)] for number, flag in enumerate(fields[5:]) if flag == "1"]
        for fields in _lines(folder / "ml-100k" / "u.item.gz", "|")
    }
    ratings = _lines(folder / "ml-100k" / "u.data.gz", "\t")
    rows = [([ids["user", u], ids["item", i], *users[u], *items[i]], float(rating)) for u, i, rating, _ in ratings]
    return _split(rows)


def yelp(folder: Path) -> Split:
    """User, business, and the business's city and categories."""
    ids = _Ids()
    context = defaultdict(list)
    for name in ("city", "category"):
        for business, value, _ in _lines(folder / "yelp" / f"business_{name}.dat.gz", "\t"):
            context[business].append(ids[name, value])
    ratings = _lines(folder / "yelp" / "user_business.dat.gz", "\t")
    rows = [([ids["user", u], ids["business", b], *context[b]], float(stars)) for u, b, stars in ratings]
    return _split(rows)


class _Ids(dict[tuple[str, str], int]):
    """Numbers (field, value) pairs in the order in which they are first asked for."""

    def __missing__(self, key: tuple[str, str]) -> int:
        self[key] = len(self)
        return self[key]


def _lines(path: Path, separator: str) -> Iterator[list[str]]:
    with gzip.open(path, "rt", encoding="latin-1") as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n").split(separator)


def _split(rows: list[tuple[list[int], float]]) -> Split:
    ids = np.full((len(rows), max(len(row) for row, _ in rows)), -1, np.int32)
    for index, (row, _) in enumerate(rows):
        ids[index, : len(row)] = row
    labels = np.array([label for _, label in rows], np.float32)
    samples = kr.data.Samples(ids, (ids != -1).astype(np.float32), labels)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(rows))
    ends = [int(_TRAIN_SHARE * len(rows)), int((_TRAIN_SHARE + _VALIDATION_SHARE) * len(rows))]
    return Split(*(samples[part] for part in np.split(order, ends)))
