"""File formats: each opens a file as a dataset of blocks of rows."""

from keras_rafm.data.formats.avro import AvroFormat
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.formats.libfm import LibFMFormat
from keras_rafm.data.formats.parquet import ParquetFormat
from keras_rafm.data.formats.tfrecord import TFRecordFormat

__all__ = ["AvroFormat", "CSVFormat", "FileFormat", "LibFMFormat", "ParquetFormat", "TFRecordFormat"]
