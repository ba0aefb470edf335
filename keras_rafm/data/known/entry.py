"""`known_dataset`: a dataset by name."""

from __future__ import annotations

import difflib
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
from keras_rafm.data.known.sources import SourceFiles, find_sources
from keras_rafm.data.known.splits import DEFAULT_SEED, SplitWriter
from keras_rafm.data.known.yelp import YELP
from keras_rafm.data.schema import Schema

_RECIPES: Final = {recipe.name: recipe for recipe in (*MOVIELENS, FRAPPE, CRITEO, AVAZU, YELP)}


@dataclass(frozen=True)
class KnownDataset:
    """The files of a dataset and the schema of their columns.

    Attributes:
        name: The name of the dataset.
        description: The meaning and number of the authors' rows, in one line.
        schema: The schema of the files, not adapted.
        file_format: The argument `file_format` of `schema.adapt` and `schema.dataset`.
        train: Files for `schema.adapt` and for training.
        validation: Files for choosing hyperparameters.
        test: Files for comparing models.
        num_rows: The number of rows of `"train"`, `"validation"` and `"test"`, for `schema.dataset`'s `num_rows`.
        citation: The publication that the authors ask to cite.
        licence: The authors' terms of use.
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
    """Return a dataset by name: its files, split for training, validation and test, and a schema of their columns.

    The first call writes files with one row per example to a cache; later calls find them there. Nothing is ever written to
    `path`.

    | name | split | default of `min_count` |
    |---|---|---|
    | `movielens-100k`, `-1m`, `-10m`, `-20m`, `-25m` | random | 1 |
    | `yelp` | random | 1 |
    | `frappe` | the authors' | none: the ids are the authors' |
    | `criteo` | by time, 12 : 1 : 1 | 10 |
    | `avazu` | by time, 8 : 1 : 1 | 2 |

    A random split takes 80 % of the rows for training and 10 % each for validation and test, with a fixed seed, because the
    authors publish no split into three parts. The rows of each part are in random order.

    Clicks are predicted for future days, so Criteo and Avazu are split by time: the last rows are for validation and test.
    For Criteo, these are the two halves of the last of seven days, as in Naumov et al., 2019 (arXiv:1906.00091). They are
    taken as a seventh of the rows, because the rows have no date. For Avazu, these are the last two of ten days, taken as
    tenths of the rows. Papers that split these two datasets at random report different scores.

    The default `min_count` of Criteo and Avazu is that of the benchmark BARS (Zhu et al., 2021, arXiv:2009.05794;
    `Criteo_x4_001` and `Avazu_x4_001`). Use a smaller one for an extract such as the first 10,000 rows.

    The columns are:

    - MovieLens: `user`, `item`, `genres`, `rating`; 100k and 1m also `age`, `gender` and `occupation`;
    - Yelp: `user`, `business`, `city`, `categories`, `stars`;
    - Frappe: `ids`, `label`; the values of the authors' files are all 1 and are left out;
    - Criteo: `label`, `I1` … `I13`, `C1` … `C26`;
    - Avazu: `click`, `hour` (of the day), `weekday` (0: Monday), and the authors' other columns except `id`.

    For Frappe, a reconstructed training file `frappe.train.reconstructed.libfm` may replace the authors'
    `frappe.train.libfm`. Scores are then comparable with published ones, but not equal.

    Args:
        name: A name from the table.
        path: A local folder with the files as the authors distribute them, each plain or gzip; or the archive they publish;
            or (Criteo, Avazu) the file itself. It is needed for all datasets except MovieLens, which is otherwise
            downloaded and checked against the checksum that GroupLens publishes. Local files are used as they are.
        cache_dir: The folder for downloads and for the files written; by default `keras_rafm` in Keras's own folder
            (`KERAS_HOME`, or `~/.keras`). The files are written as gzip if the authors' files at `path` are compressed.
        split_seed: The seed of a random split. With the default, results are comparable with this project's benchmarks.
        min_count: Values that occur less often in training data share the feature of unseen values. With 1 there is no
            such feature, because no training row would have it: unseen values contribute nothing.

    Raises:
        ConnectionError: The download failed; the message says how to get the data without it.
        FileNotFoundError: The data are not found at `path`, or `path` is needed; the message says where to get them.
        OSError: The cache can't be written.
        TypeError: An argument is of the wrong type.
        ValueError: The name is unknown, an argument does not apply to the dataset, or the files are malformed.

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
    source_key: Any  # identifies the source files
    find: Callable[[], SourceFiles]
    if path is not None:
        local_files = find_sources(path, recipe.layout)
        source_key, find = fingerprint(local_files.paths), lambda: local_files
    elif isinstance(recipe.source, Download):
        download = recipe.source
        source_key, find = download.md5, lambda: find_sources(downloaded(recipe, download, root), recipe.layout)
    else:
        raise FileNotFoundError(f"{recipe.name} can't be downloaded automatically: {recipe.source}. {recipe.how_to_get}")

    def write(folder: Path) -> SplitWriter:
        files = find()
        writer = SplitWriter(folder, recipe.suffix, compressed=files.are_compressed, header=recipe.header)
        recipe.write(writer, files.sources, seed)
        return writer

    return prepared(root, recipe.name, [recipe.version, seed if recipe.draws_split else None, source_key], write)


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a dataset. Its files need not exist on this machine.

    Raises:
        TypeError: The name is not a string.
        ValueError: The name is unknown.
    """
    if not isinstance(name, str):
        raise TypeError(f"`name` must be the name of a dataset. Received: {name!r} of type {type(name).__name__}")
    if name not in _RECIPES:
        nearest = difflib.get_close_matches(name.lower(), _RECIPES, n=1, cutoff=0.4)
        suggestion = f"; did you mean {nearest[0]!r}?" if nearest else ""
        raise ValueError(f"`name` must be one of {', '.join(_RECIPES)}. Received: name={name!r}{suggestion}")
    return _RECIPES[name]


def _checked_seed(recipe: Recipe, seed: int | None) -> int:
    if seed is None:
        return DEFAULT_SEED
    if not recipe.draws_split:
        raise ValueError(
            f"`split_seed` is for random splits, and the split of {recipe.name} is not random. "
            f"Received: split_seed={seed!r}"
        )
    return integer(seed, "split_seed", at_least=0)


def _checked_min_count(recipe: Recipe, min_count: int | None) -> int:
    if min_count is None:
        return recipe.min_count or 1
    if recipe.min_count is None:
        raise ValueError(
            f"`min_count` does not apply to {recipe.name}, whose ids are the authors'. Received: min_count={min_count!r}"
        )
    return integer(min_count, "min_count", at_least=1)
