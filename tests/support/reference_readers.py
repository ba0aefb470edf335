"""Readers of real data that don't use the package, as a reference for `known_dataset`.

They number the pairs of a column and a value in the order in which they first need them.
"""

import gzip
from collections import defaultdict
from typing import NamedTuple

import numpy as np

_SPLIT_SEED = 20190512
_TRAIN_SHARE, _VALIDATION_SHARE = 0.8, 0.1


class Rows(NamedTuple):
    """Ids of each row, and their labels."""

    ids: list[list[int]]
    labels: list[float]


def ml_100k(folder):
    """Return the rows of MovieLens 100K by split: user, item, age, gender, occupation and genres."""
    ids = _Ids()
    users = {
        user: [ids["age", age], ids["gender", gender], ids["occupation", occupation]]
        for user, age, gender, occupation, _ in _lines(folder / "u.user.gz", "|")
    }
    items = {
        fields[0]: [ids["genre", str(number)] for number, flag in enumerate(fields[5:]) if flag == "1"]
        for fields in _lines(folder / "u.item.gz", "|")
    }
    ratings = _lines(folder / "u.data.gz", "\t")
    return _split([([ids["user", u], ids["item", i], *users[u], *items[i]], float(rating)) for u, i, rating, _ in ratings])


def yelp(folder):
    """Return the rows of Yelp by split: user, business, city and categories."""
    ids = _Ids()
    businesses = defaultdict(list)
    for name in ("city", "category"):
        for business, value, _ in _lines(folder / f"business_{name}.dat.gz", "\t"):
            businesses[business].append(ids[name, value])
    ratings = _lines(folder / "user_business.dat.gz", "\t")
    return _split([([ids["user", u], ids["business", b], *businesses[b]], float(stars)) for u, b, stars in ratings])


class _Ids(dict):
    def __missing__(self, key):
        self[key] = len(self)
        return self[key]


def _lines(path, separator):
    with gzip.open(path, "rt", encoding="latin-1") as file:
        for line in file:
            if line.strip():
                yield line.rstrip("\n").split(separator)


def _split(rows):
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(rows))
    ends = [int(_TRAIN_SHARE * len(rows)), int((_TRAIN_SHARE + _VALIDATION_SHARE) * len(rows))]
    parts = np.split(order, ends)
    return {
        name: Rows([rows[index][0] for index in part], [rows[index][1] for index in part])
        for name, part in zip(("train", "validation", "test"), parts, strict=True)
    }
