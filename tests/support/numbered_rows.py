"""Files whose rows are numbered, to find out which rows a dataset yields, and in which order."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf
from table_files import write_text

from keras_rafm.data import Schema, write_tfrecord
from keras_rafm.data.reading.file_batches import read_batches


class Numbered:
    """Files whose rows are numbered across all of them, in `row` and in the label; optionally with lists in `tags`."""

    def __init__(self, folder, sizes, suffix="csv", lists=False):
        self.num_rows = sum(sizes)
        self.schema = numbered_schema(self.num_rows, lists)
        self.files, first = [], 0
        rng = random.Random(len(sizes))
        for number, size in enumerate(sizes):
            longest = [0, 1, 9][number % 3]
            tags = ["|".join(rng.choice("abcdef") for _ in range(rng.randint(0, longest))) for _ in range(size)]
            rows = list(range(first, first + size))
            table = {"row": rows, "tags": tags, "number": rows}
            path = folder / f"part-{number:02}.{suffix}"
            if suffix == "parquet":
                pq.write_table(pa.table(table), path)
            elif suffix == "tfrecord":
                write_tfrecord(path, table, self.schema)
            else:
                write_text(path, table)
            self.files.append(str(path))
            first += size

    def numbers(self, *args, **options):
        """Return the numbers of rows in the order of the batches, and the sizes of batches. See `dataset` for arguments."""
        return numbers_in(self.dataset(*args, **options))

    def dataset(self, batch_size, **options):
        """Return the same as `Schema.dataset`, but with a graph that is made ten times as fast."""
        defaults = {"file_format": None, "shuffle": False, "seed": None, "shuffled_rows": 2**17, "drop_remainder": False}
        defaults |= {"num_shards": 1, "shard_index": 0, "num_rows": None, "on_error": None, "first_epoch": 0}
        columns = self.schema.raw_columns(training=True)
        return read_batches(self.files, columns, self.encode, batch_size, **{**defaults, **options})

    def encode(self, raw):
        ids = raw["row"][:, tf.newaxis]
        if "tags" in self.schema.columns:
            tags = tf.strings.split(raw["tags"], "|")
            tags = tags.with_flat_values(tf.strings.to_hash_bucket_fast(tags.flat_values, 9))
            ids = tf.concat([ids, tags.to_tensor(-1)], axis=1)
        return {"ids": ids}, raw["number"][:, tf.newaxis]


def numbered_schema(num_rows, lists):
    columns = {"row": Schema.integer_identity(num_rows)}
    if lists:
        columns["tags"] = Schema.string_categorical(separator="|", missing="ignore")
    schema = Schema(columns, label="number", task="regression")
    schema.adapt({"row": [0], "tags": ["a|b|c|d|e|f"]})
    return schema


def numbers_in(dataset):
    numbers, sizes = [], []
    for inputs, labels in dataset:
        batch_numbers = labels.numpy()[:, 0].astype(int).tolist()
        ids = inputs["ids"].numpy()
        assert ids[:, 0].tolist() == batch_numbers
        assert ids.shape[1] <= 1 + 9
        assert (ids.max(axis=0) >= 0).all()  # no column consists of padding
        numbers += batch_numbers
        sizes.append(len(batch_numbers))
    return numbers, sizes
