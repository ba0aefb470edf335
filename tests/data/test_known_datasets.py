"""Known datasets: their rows, splits and schemas, on small files in the authors' layouts and on the data themselves."""

import gzip
import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import reference_readers
import tensorflow as tf
from known_fakes import (
    CONTAINERS,
    DRAWN,
    FAKES,
    FRAPPE_SIZES,
    GENRES,
    NAMES_AND_CONTAINERS,
    NUM_ROWS,
    rows_of,
    state,
    text_of,
    write_archive,
    write_fake,
    write_folder,
)
from real_data import CRITEO, FRAPPE, ML_100K, YELP, needs

import keras_rafm as kr
from benchmarks import datasets as benchmark_datasets
from keras_rafm.data.known import splits

pytestmark = pytest.mark.one_tensorflow


class TestFakes:
    @pytest.mark.parametrize(("name", "container"), NAMES_AND_CONTAINERS)
    def test_rows_and_splits(self, source, load, name, container):
        path = write_fake(name, source, container)
        before = state(source)
        dataset = load(name, path)
        assert state(source) == before
        rows = FAKES[name].rows
        parts = [rows_of(dataset, split) for split in splits.SPLITS]
        assert [len(part) for part in parts] == list(dataset.num_rows.values())
        if name in DRAWN:
            order = np.random.default_rng(20190512).permutation(NUM_ROWS)
            expected = [[rows[index] for index in part] for part in np.split(order, [40, 45])]
        else:
            ends = {"criteo": (42, 46), "avazu": (40, 45)}[name]
            expected = [rows[: ends[0]], rows[ends[0] : ends[1]], rows[ends[1] :]]
        assert parts == expected
        compressed = container in ("gzip", "archive", "folder with the archive")
        assert all(file.endswith(".gz") == compressed for split in splits.SPLITS for file in getattr(dataset, split))

    @pytest.mark.parametrize("container", [container for container in CONTAINERS if container != "folder with the archive"])
    def test_frappe_keeps_the_split_of_its_authors(self, source, load, container):
        dataset = load("frappe", write_fake("frappe", source, container))
        assert dataset.num_rows == FRAPPE_SIZES
        for split in splits.SPLITS:
            assert text_of(getattr(dataset, split)) == FAKES["frappe"].files[f"frappe.{split}.libfm"]
        dataset.schema.adapt(dataset.train, file_format=dataset.file_format)
        assert dataset.schema.num_features == 5382
        inputs, labels = next(iter(dataset.schema.dataset(dataset.train, 2, file_format=dataset.file_format)))
        np.testing.assert_array_equal(inputs["ids"], [[0, 5381], [1, 5380]])
        np.testing.assert_array_equal(labels, [[1], [0]])

    def test_frappe_takes_the_reconstructed_file_if_that_of_the_authors_is_absent(self, source, load):
        files = dict(FAKES["frappe"].files)
        files["frappe.train.reconstructed.libfm"] = files.pop("frappe.train.libfm")
        assert load("frappe", write_folder(source, files)).num_rows == FRAPPE_SIZES
        write_folder(source, {"frappe.train.libfm": b"1 0:1\n"})
        assert load("frappe", source).num_rows["train"] == 1

    @pytest.mark.parametrize("name", list(FAKES))
    def test_schema_learns_and_yields_all_rows(self, source, load, name):
        dataset = load(name, write_fake(name, source))
        schema = dataset.schema
        assert not schema.is_adapted
        assert [raw.name for raw in schema.raw_columns(training=True)] == sorted(
            FAKES[name].columns, key=[*schema.columns, schema.label].index
        )
        assert schema.task == ("regression" if name in DRAWN else "classification")
        schema.adapt(dataset.train, file_format=dataset.file_format)
        num_rows = dataset.num_rows["train"]
        batches = schema.dataset(dataset.train, 7, file_format=dataset.file_format, num_rows=num_rows)
        labels = np.concatenate([labels for _, labels in batches])
        assert labels.shape == (num_rows, 1)
        if name != "frappe":
            label = schema.label
            np.testing.assert_array_equal(labels[:, 0], [float(row[label]) for row in rows_of(dataset, "train")])
        assert schema.counts.sum() > 0
        assert dataset.name == name
        for text in (dataset.description, dataset.citation, dataset.licence):
            assert text
            assert "\n" not in text

    def test_each_genre_is_a_value(self, source, load):
        dataset = load("movielens-100k", write_fake("movielens-100k", source))
        dataset.schema.adapt(dataset.train, file_format=dataset.file_format)
        assert sorted(dataset.schema.vocabulary("genres")) == sorted(GENRES)
        assert sorted(dataset.schema.vocabulary("user"), key=int) == [str(user) for user in range(1, 8)]
        assert dataset.schema.vocabulary("gender").count("[UNSEEN]") == 0

    def test_numbers_of_criteo_are_binned_and_missing_ones_are_a_category(self, source, load):
        dataset = load("criteo", write_fake("criteo", source), min_count=1)
        dataset.schema.adapt(dataset.train, file_format=dataset.file_format)
        assert dataset.schema.vocabulary("I2")[0] == "[MISSING]"
        assert len(dataset.schema.vocabulary("I2")) > 5
        assert sorted(dataset.schema.vocabulary("C1")) == ["00000000", "00000001", "00000002", "[MISSING]"]

    @pytest.mark.parametrize(("name", "default"), [("criteo", 10), ("avazu", 2), ("yelp", 1), ("movielens-1m", 1)])
    def test_min_count(self, source, load, name, default):
        path = write_fake(name, source)
        counts = {
            options.get("min_count"): self.min_counts(load(name, path, **options)) for options in ({}, {"min_count": 3})
        }
        assert counts == {None: {default}, 3: {3}}

    @staticmethod
    def min_counts(dataset):
        return {column.min_count for column in dataset.schema.columns.values() if hasattr(column, "min_count")}

    @pytest.mark.parametrize("inner", ["train.gz", "train"])
    def test_avazu_as_kaggle_packs_it(self, source, load, inner):
        text = FAKES["avazu"].files["train.csv"]
        path = write_archive(
            source / "a.zip", {inner: gzip.compress(text) if inner == "train.gz" else text, "test.gz": b""}
        )
        assert rows_of(load("avazu", path), "train") == FAKES["avazu"].rows[:40]

    @pytest.mark.parametrize("name", ["criteo", "avazu"])
    @pytest.mark.parametrize("packed", [False, True])
    def test_one_file_by_any_name(self, source, load, name, packed):
        ((_, text),) = FAKES[name].files.items()
        write_folder(source, {"sample": gzip.compress(text) if packed else text})
        assert sum(load(name, source / "sample").num_rows.values()) == NUM_ROWS

    def test_blank_lines_and_a_last_line_without_line_end(self, source, load):
        text = FAKES["criteo"].files["train.txt"].replace(b"\n", b"\r\n").rstrip()
        write_folder(source, {"train.txt": b"\n" + text})
        dataset = load("criteo", source)
        assert sum(dataset.num_rows.values()) == NUM_ROWS
        dataset.schema.adapt(dataset.test, file_format=dataset.file_format)
        labels = [label for _, label in dataset.schema.dataset(dataset.test, 1, file_format=dataset.file_format)]
        assert len(labels) == dataset.num_rows["test"]

    def test_large_splits_are_in_several_files(self, source, load, monkeypatch):
        monkeypatch.setattr(splits, "_ROWS_PER_FILE", 12)
        dataset = load("avazu", write_fake("avazu", source))
        assert [Path(file).name for file in dataset.train] == [f"train-{number:05d}.csv" for number in range(4)]
        assert dataset.num_rows == {"train": 40, "validation": 5, "test": 5}
        assert rows_of(dataset, "train") == FAKES["avazu"].rows[:40]

    def test_memory_does_not_grow_with_the_rows(self, tmp_path):
        row = b"x" * 200 + b"\n"
        writer = splits.SplitWriter(tmp_path, ".tsv", compressed=False)
        tracemalloc.start()
        splits.write_in_time_order(writer, (row + b"" for row in itertools.repeat(row[:], 300_000)), 300_000, (8, 1, 1))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert writer.num_rows == {"train": 240_000, "validation": 30_000, "test": 30_000}
        assert peak < 10e6 < 300_000 * len(row)


class TestSplitSeed:
    @pytest.mark.parametrize("name", DRAWN)
    def test_another_seed_draws_other_rows(self, source, load, name):
        path = write_fake(name, source)
        by_seed = {seed: rows_of(load(name, path, split_seed=seed), "train") for seed in (20190512, 1)}
        assert by_seed[20190512] == rows_of(load(name, path), "train")
        assert by_seed[20190512] != by_seed[1]
        assert by_seed[1] == rows_of(load(name, path, split_seed=1), "train")

    @pytest.mark.parametrize("name", ["frappe", "criteo", "avazu"])
    def test_datasets_without_a_random_split_refuse_a_seed(self, source, load, name):
        with pytest.raises(
            ValueError, match=f"`split_seed` is for random splits, and the split of {name} is not random.*=3"
        ):
            load(name, write_fake(name, source), split_seed=3)

    @pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (True, TypeError), ("1", TypeError), (0.5, TypeError)])
    def test_illegal(self, load, seed, error):
        with pytest.raises(error, match=r"`split_seed` must .* Received: split_seed="):
            load("yelp", split_seed=seed)


class TestRealData:
    """Real data: `known_dataset` yields the same rows as an independent reader."""

    @staticmethod
    def check_same(dataset, expected_rows, columns, label):
        ids = {}  # by column and value, the id that the independent reader assigned
        for split in splits.SPLITS:
            rows = rows_of(dataset, split)
            assert len(rows) == len(expected_rows[split].ids) == dataset.num_rows[split]
            np.testing.assert_array_equal(expected_rows[split].labels, [float(row[label]) for row in rows])
            for row, expected in zip(rows, expected_rows[split].ids, strict=True):
                features = [(column, value) for column in columns for value in row[column].split("|") if value]
                assert len(features) == len(expected)
                for feature, id_ in zip(features, expected, strict=True):
                    assert ids.setdefault(feature, id_) == id_
        assert len(set(ids.values())) == len(ids)

    @needs(ML_100K)
    def test_ml_100k(self, load):
        dataset = load("movielens-100k", ML_100K)
        columns = ["user", "item", "age", "gender", "occupation", "genres"]
        self.check_same(dataset, reference_readers.ml_100k(ML_100K), columns, "rating")
        dataset.schema.adapt(dataset.train, file_format=dataset.file_format)
        self.check_yields_all(dataset)
        assert len(dataset.schema.vocabulary("genres")) == 19

    @needs(YELP)
    def test_yelp(self, load):
        dataset = load("yelp", YELP)
        columns = ["user", "business", "city", "categories"]
        self.check_same(dataset, reference_readers.yelp(YELP), columns, "stars")
        dataset.schema.adapt(dataset.train, file_format=dataset.file_format)
        self.check_yields_all(dataset)

    @needs(FRAPPE)
    def test_frappe(self, load):
        dataset = load("frappe", FRAPPE)
        assert dataset.num_rows == {"train": 202_027, "validation": 57_722, "test": 28_860}
        dataset.schema.adapt(dataset.train, file_format=dataset.file_format)
        self.check_yields_all(dataset)
        expected = benchmark_datasets.frappe(FRAPPE.parent).train
        np.testing.assert_array_equal(dataset.schema.counts, kr.data.count_features(expected, 5382))
        inputs, labels = next(iter(dataset.schema.dataset(dataset.train, 1000, file_format=dataset.file_format)))
        np.testing.assert_array_equal(inputs["ids"], np.asarray(expected.ids)[:1000])
        np.testing.assert_array_equal(labels[:, 0], np.asarray(expected.labels).ravel()[:1000])

    @needs(CRITEO)
    def test_criteo(self, load):
        dataset = load("criteo", CRITEO, min_count=3)
        assert dataset.num_rows == {"train": 8571, "validation": 714, "test": 715}
        texts = b"".join(text_of(getattr(dataset, split)) for split in splits.SPLITS)
        assert texts == gzip.decompress((CRITEO / "train_examples.txt.gz").read_bytes())
        dataset.schema.adapt(dataset.train, file_format=dataset.file_format)
        self.check_yields_all(dataset)

    @staticmethod
    def check_yields_all(dataset):
        files, num_rows = (*dataset.train, *dataset.validation, *dataset.test), sum(dataset.num_rows.values())
        batches = dataset.schema.dataset(files, 4096, file_format=dataset.file_format, num_rows=num_rows, shuffle=True)
        assert batches.reduce(0, lambda total, batch: total + tf.shape(batch[1])[0]).numpy() == num_rows
