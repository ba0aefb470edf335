"""File formats by name, and the format that belongs to the end of a file's name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath

from keras_rafm.data.formats.avro import AvroFormat
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.formats.libfm import LibFMFormat
from keras_rafm.data.formats.parquet import ParquetFormat
from keras_rafm.data.formats.tfrecord import TFRecordFormat
from keras_rafm.files.format_names import FORMAT_OF_SUFFIX

FORMATS_BY_NAME: Mapping[str, FileFormat] = {
    "csv": CSVFormat(),
    "tsv": CSVFormat(delimiter="\t"),
    "parquet": ParquetFormat(),
    "tfrecord": TFRecordFormat(),
    "avro": AvroFormat(),
    "libfm": LibFMFormat(),
}


def format_of(path: str) -> FileFormat:
    """Return the format that belongs to the end of a file's name; a final `.gz` is ignored.

    Raises:
        ValueError: No format belongs to it.
    """
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes if suffix.lower() != ".gz"]
    name = FORMAT_OF_SUFFIX.get(suffixes[-1] if suffixes else "")
    if name is None:
        raise ValueError(
            f"{path}: cannot infer the file format from the name; expected one that ends with "
            f"{', '.join(FORMAT_OF_SUFFIX)}, or a format in `file_format` (--format)"
        )
    return FORMATS_BY_NAME[name]
