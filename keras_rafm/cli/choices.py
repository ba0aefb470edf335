"""The names that options accept.

The objects behind these names need TensorFlow, so the names are listed here. Tests compare them with the objects. The names
of file formats are in `keras_rafm.files.format_names`.
"""

from __future__ import annotations

from typing import Final

SPLITS: Final = ("train", "validation", "test")

TASKS: Final = ("classification", "regression")

ON_ERROR: Final = ("raise", "skip")

OPTIMIZERS: Final = ("LazyAdam", "SparseAdagrad", "SparseFtrl")

PRECISIONS: Final = ("trained", "bfloat16", "int8")

SIGNATURES: Final = ("serving_default", "ragged", "raw", "examples", "classify", "regress", "low", "level_scores")

DATASETS: Final = (
    "movielens-100k",
    "movielens-1m",
    "movielens-10m",
    "movielens-20m",
    "movielens-25m",
    "frappe",
    "criteo",
    "avazu",
    "yelp",
)

TEXT_FORMATS: Final = ("csv", "tsv")

#: Options of the text formats.
TEXT_OPTIONS: Final = ("delimiter", "quote", "column_names", "missing_values")

_LIST_OPTIONS = ("multivalued", "weights", "combiner")
_SEPARATORS = ("separator", "weight_separator")

#: Options of each kind of column. See the methods of `keras_rafm.data.Schema` with these names.
COLUMN_OPTIONS: Final = {
    "string_categorical": ("min_count", "max_tokens", "num_oov_indices", "missing", *_SEPARATORS, *_LIST_OPTIONS),
    "integer_categorical": ("min_count", "max_tokens", "num_oov_indices", "missing", *_LIST_OPTIONS),
    "string_hashed": ("num_bins", "missing", *_SEPARATORS, *_LIST_OPTIONS),
    "integer_hashed": ("num_bins", "missing", *_LIST_OPTIONS),
    "integer_identity": ("num_ids", *_LIST_OPTIONS),
    "float": ("scaling",),
    "float_discretized": ("num_bins", "bin_boundaries", "binning", "missing"),
}

#: Kind of column -> the option that it requires.
REQUIRED_COLUMN_OPTION: Final = {"string_hashed": "num_bins", "integer_hashed": "num_bins", "integer_identity": "num_ids"}

#: Options of columns that are strings, even if they look like numbers.
STRING_COLUMN_OPTIONS: Final = (*_SEPARATORS, "weights")
