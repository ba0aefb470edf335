"""The file format that belongs to the end of a file's name."""

from __future__ import annotations

from pathlib import PurePath

from keras_rafm.data.formats.avro import AvroFormat
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.formats.libfm import LibFMFormat
from keras_rafm.data.formats.parquet import ParquetFormat
from keras_rafm.data.formats.tfrecord import TFRecordFormat


def format_of(path: str) -> FileFormat:
    """Return the format that belongs to the end of a file's name; a final `.gz` is ignored.

    Raises:
        ValueError: No format belongs to it.
    """
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes if suffix.lower() != ".gz"]
    known: dict[str, FileFormat] = {
        ".csv": CSVFormat(),
        ".tsv": CSVFormat(delimiter="\t"),
        ".parquet": ParquetFormat(),
        ".avro": AvroFormat(),
        ".libfm": LibFMFormat(),
        ".libsvm": LibFMFormat(),
        ".svm": LibFMFormat(),
        ".tfrecord": TFRecordFormat(),
        ".tfrecords": TFRecordFormat(),
    }
    suffix = suffixes[-1] if suffixes else ""
    if suffix not in known:
        raise ValueError(
            f"{path}: cannot infer the file format from the name; expected one that ends with {', '.join(known)}, or a "
            "format in `file_format` (--format)"
        )
    return known[suffix]
