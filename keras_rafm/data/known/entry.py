"""`known_dataset`: a dataset by its name."""

from __future__ import annotations

import difflib
import operator
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from keras_rafm.checks.arguments import integer
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.known.avazu import AVAZU
from keras_rafm.data.known.cache import Contents, cache_root, fingerprint, prepared
from keras_rafm.data.known.criteo import CRITEO
from keras_rafm.data.known.download import downloaded
from keras_rafm.data.known.frappe import FRAPPE
from keras_rafm.data.known.movielens import MOVIELENS
from keras_rafm.data.known.recipe import Download, Recipe
from keras_rafm.data.known.sources import Found, find_sources
from keras_rafm.data.known.splits import DEFAULT_SEED, SplitWriter
from keras_rafm.data.known.yelp import YELP
from keras_rafm.data.schema import Schema

_RECIPES: Final = {recipe.name: recipe for recipe in (*MOVIELENS, FRAPPE, CRITEO, AVAZU, YELP)}


@dataclass(frozen=True)
class KnownDataset:
    """Files of a dataset, and what their columns mean.

    Attributes:
        name: As given to `known_dataset`.
        description: What a row is, and how many the authors distribute, in a line.
        schema: What the columns mean, not adapted yet.
        file_format: What to give `schema.adapt` and `schema.dataset` as `file_format`.
        train: Files to adapt to and to train on.
        validation: Files to choose hyperparameters on.
        test: Files to compare on.
        num_rows: Rows of `"train"`, `"validation"` and `"test"`, for `schema.dataset`'s `num_rows`.
        citation: What the authors ask to cite.
        licence: What they allow.
    """

    name: str
    description: str
    schema: Schema
    file_format: FileFormat
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    num_rows: Mapping[str, int]
    citation: str
    licence: str


def known_dataset(
    name: str,
    path: str | os.PathLike[str] | None = None,
    *,
    cache_dir: str | os.PathLike[str] | None = None,
    split_seed: int | None = None,
    min_count: int | None = None,
) -> KnownDataset:
    """A dataset by its name: its files, split, with a schema that says what their columns mean.

    The first call makes files with one row per example and keeps them in a cache; later calls find them there. Nothing is
    ever written to `path`.

    | name | split | default of `min_count` |
    |---|---|---|
    | `movielens-100k`, `-1m`, `-10m`, `-20m`, `-25m` | drawn | 1 |
    | `yelp` | drawn | 1 |
    | `frappe` | the authors' | none: the ids are the authors' |
    | `criteo` | by time, 12 : 1 : 1 | 10 |
    | `avazu` | by time, 8 : 1 : 1 | 2 |

    Drawn are 80 % of the rows for training and 10 % each for validation and test, with a fixed seed, because the authors
    give no split in three; the rows of each part are in the order drawn.

    Clicks are predicted for days to come: the rows of Criteo and Avazu are in the order of time, and the last ones are for
    validation and test. Of Criteo's seven days these are the two halves of the last one, as in Naumov et al., 2019
    (arXiv:1906.00091), taken as a seventh of the rows, because the rows don't tell the day; of Avazu's ten days the last
    two, taken as tenths of the rows. Papers that draw the rows of these two at random report other scores.

    `min_count` of Criteo and Avazu is that of the benchmark BARS (Zhu et al., 2021, arXiv:2009.05794; `Criteo_x4_001` and
    `Avazu_x4_001`). For a sample, such as the first 10,000 rows, take a smaller one.

    MovieLens has the columns `user`, `item`, `genres` (100k and 1m also `age`, `gender` and `occupation`) and `rating`;
    Yelp `user`, `business`, `city`, `categories` and `stars`; Frappe `ids` (the values beside them are all 1 and left out)
    and `label`; Criteo `label`, `I1` … `I13` and `C1` … `C26`; Avazu `click`, `hour` (of the day), `weekday` (0: Monday)
    and the authors' other columns but `id`. In place of Frappe's `frappe.train.libfm` a reconstruction is taken too,
    `frappe.train.reconstructed.libfm`: scores can then be compared with published ones, but are not the same.

    Args:
        name: One of those above.
        path: A local folder with the data as the authors distribute them, each file plain or gzip, or the archive they
            publish, or (Criteo, Avazu) the file itself. Needed for all but MovieLens, which is downloaded without it and
            checked against the checksum that GroupLens publishes; files given are taken as they are.
        cache_dir: Where to keep what is made and downloaded; by default `keras_rafm` in Keras' own folder (`KERAS_HOME`, or
            `~/.keras`). The files made are gzip if those given are.
        split_seed: The seed of a drawn split; with the default, results can be compared with this project's benchmarks.
        min_count: A value that occurs less often in training data shares the feature of unseen values. With 1 there is no
            such feature, which no training row would have: unseen values contribute nothing.

    Raises:
        ConnectionError: The download failed; the message says how to do without it.
        FileNotFoundError: There are no such data at `path`, or it is needed; the message says where to get them.
        OSError: The cache can't be written.
        TypeError: An argument is of the wrong kind.
        ValueError: There is no dataset of that name, it has no use for an argument, or its files are malformed.

    Example:

    ```python
    movies = keras_rafm.data.known_dataset("movielens-100k", "Downloads/ml-100k.zip")
    movies.schema.adapt(movies.train, file_format=movies.file_format)
    train = movies.schema.dataset(movies.train, 1024, file_format=movies.file_format, shuffle=True)
    ```
    """
    recipe = recipe_of(name)
    seed = _checked_seed(recipe, split_seed)
    schema = recipe.schema(_checked_min_count(recipe, min_count))
    root = cache_root(cache_dir)
    contents = _contents(recipe, root, None if path is None else Path(path).expanduser(), seed)
    return KnownDataset(
        name=recipe.name,
        description=recipe.description,
        schema=schema,
        file_format=recipe.file_format,
        train=contents.files["train"],
        validation=contents.files["validation"],
        test=contents.files["test"],
        num_rows=contents.num_rows,
        citation=recipe.citation,
        licence=recipe.licence,
    )


def _contents(recipe: Recipe, root: Path, path: Path | None, seed: int) -> Contents:
    key: Any  # what tells the sources from others
    found: Callable[[], Found]
    if path is not None:
        given = find_sources(path, recipe.layout)
        key, found = fingerprint(given.paths), lambda: given
    elif isinstance(recipe.source, Download):
        download = recipe.source
        key, found = download.md5, lambda: find_sources(downloaded(recipe, download, root), recipe.layout)
    else:
        raise FileNotFoundError(f"{recipe.name} is not downloaded: {recipe.source}. {recipe.how_to_get}")

    def made(folder: Path) -> SplitWriter:
        sources = found()
        writer = SplitWriter(folder, recipe.suffix, sources.are_compressed, recipe.header)
        recipe.write(writer, sources.sources, seed)
        return writer

    return prepared(root, recipe.name, [recipe.version, seed if recipe.draws_split else None, key], made)


def recipe_of(name: str) -> Recipe:
    """What is known of a dataset, which need not be there.

    Raises:
        TypeError: The name is no string.
        ValueError: There is no dataset of that name.
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be the name of a dataset. Received: {name!r} of type {type(name).__name__}")
    if name not in _RECIPES:
        nearest = difflib.get_close_matches(name.lower(), _RECIPES, n=1, cutoff=0.4)
        meant = f" (is {nearest[0]!r} meant?)" if nearest else ""
        raise ValueError(f"`name` must be one of {', '.join(_RECIPES)}. Received: name={name!r}{meant}")
    return _RECIPES[name]


def _checked_seed(recipe: Recipe, seed: int | None) -> int:
    if seed is None:
        return DEFAULT_SEED
    if not recipe.draws_split:
        raise ValueError(f"`split_seed` is for splits that are drawn, and that of {recipe.name} is not. Received: {seed!r}")
    try:
        if isinstance(seed, bool):
            raise TypeError
        number = operator.index(seed)
    except TypeError:
        raise TypeError(f"`split_seed` must be an integer. Received: split_seed={seed!r}") from None
    if number < 0:
        raise ValueError(f"`split_seed` must not be negative. Received: split_seed={number}")
    return number


def _checked_min_count(recipe: Recipe, min_count: int | None) -> int:
    if min_count is None:
        return recipe.min_count or 1
    if recipe.min_count is None:
        raise ValueError(f"`min_count` has no use for {recipe.name}, whose ids are the authors'. Received: {min_count!r}")
    return integer(min_count, "min_count", at_least=1)
