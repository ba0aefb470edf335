"""Raw columns, samples in memory, readers, feature counts and synthetic data."""

from keras_rafm.data._delimited_format import EmptyFileError, MalformedRowError
from keras_rafm.data._messages import MalformedMessageError
from keras_rafm.data.avro import AvroFormat
from keras_rafm.data.counting import count_features
from keras_rafm.data.formats import CSVFormat, FileFormat, LibFMFormat, ParquetFormat, TFRecordFormat
from keras_rafm.data.kafka import kafka_dataset
from keras_rafm.data.known import KnownDataset, known_dataset
from keras_rafm.data.libfm import libfm_dataset, read_libfm, write_libfm
from keras_rafm.data.samples import Samples
from keras_rafm.data.schema import Schema
from keras_rafm.data.skipped_rows import SkippedRows
from keras_rafm.data.synthetic import Synthetic, synthetic
from keras_rafm.data.tfrecord import write_tfrecord
from keras_rafm.data.value_counts import ValueCounts

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
