"""The names of file formats and their suffixes. The formats themselves need TensorFlow: see `data.formats.by_name`."""

from __future__ import annotations

from typing import Final

FORMATS: Final = ("csv", "tsv", "parquet", "tfrecord", "avro", "libfm")

#: Format by the suffix of a file name, which `.gz` may follow.
FORMAT_OF_SUFFIX: Final = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".avro": "avro",
    ".libfm": "libfm",
    ".libsvm": "libfm",
    ".svm": "libfm",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
}
