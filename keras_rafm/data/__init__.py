"""Data for RaFM models: schemas of raw columns, file formats, samples in memory, datasets by name, and feature counts."""

from keras_rafm.data.columns.value_counts import ValueCounts
from keras_rafm.data.counting.features import count_features
from keras_rafm.data.formats.avro import AvroFormat
from keras_rafm.data.formats.base import FileFormat
from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.formats.libfm import LibFMFormat
from keras_rafm.data.formats.parquet import ParquetFormat
from keras_rafm.data.formats.tfrecord import TFRecordFormat
from keras_rafm.data.kafka.dataset import kafka_dataset
from keras_rafm.data.kafka.messages import MalformedMessageError
from keras_rafm.data.known import KnownDataset, known_dataset
from keras_rafm.data.raw.errors import EmptyFileError, MalformedRowError
from keras_rafm.data.raw.skipped_rows import SkippedRows
from keras_rafm.data.reading.libfm import libfm_dataset, read_libfm, write_libfm
from keras_rafm.data.samples.samples import Samples
from keras_rafm.data.samples.synthetic import Synthetic, synthetic
from keras_rafm.data.schema import Schema
from keras_rafm.data.tfrecord import write_tfrecord

__all__ = [
    "AvroFormat",
    "CSVFormat",
    "EmptyFileError",
    "FileFormat",
    "KnownDataset",
    "LibFMFormat",
    "MalformedMessageError",
    "MalformedRowError",
    "ParquetFormat",
    "Samples",
    "Schema",
    "SkippedRows",
    "Synthetic",
    "TFRecordFormat",
    "ValueCounts",
    "count_features",
    "kafka_dataset",
    "known_dataset",
    "libfm_dataset",
    "read_libfm",
    "synthetic",
    "write_libfm",
    "write_tfrecord",
]
