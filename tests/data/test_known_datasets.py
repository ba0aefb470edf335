import dataclasses
import gzip
import hashlib
import io
import itertools
import os
import shutil
import tarfile
import time
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import reference_readers
import tensorflow as tf
from real_data import CRITEO, FRAPPE, ML_100K, YELP, needs

import keras_rafm as kr
from benchmarks import datasets as benchmark_datasets
from keras_rafm.data.known import cache, entry, known_dataset, splits
from keras_rafm.data.known.recipe import Download

pytestmark = pytest.mark.one_tensorflow

NUM_ROWS = 50
NUM_USERS, NUM_ITEMS = 7, 5
GENRES = ("unknown", "Action", "Film-Noir", "Sci-Fi")
FLAGS = ("0101", "1000", "0010", "0111", "0000")  # of the items, from 1
AVAZU_COLUMNS = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    "device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def genres_of(item, none=""):
    return "|".join(genre for genre, flag in zip(GENRES, FLAGS[item - 1], strict=True) if flag == "1") or none


def ratings(rating="{}"):
    """User, item, rating and time: every row is another one."""
    for row in range(NUM_ROWS):
        yield row % NUM_USERS + 1, row % NUM_ITEMS + 1, rating.format(row % 5 + 1), 1_000_000_000 + row


def user_of(user):
    return user + 20, "MF"[user % 2], user % 3


def lines(rows, separator, head=()):
    return "\n".join([*head, *(separator.join(map(str, row)) for row in rows)]) + "\n"


def joined(rating="{}", *, has_users, none=""):
    """Rows as they have to become, as strings by column."""
    for user, item, stars, _ in ratings(rating):
        age, gender, occupation = user_of(user)
        own = {"age": str(age), "gender": gender, "occupation": str(occupation)} if has_users else {}
        yield {"user": str(user), **own, "item": str(item), "genres": genres_of(item, none), "rating": stars}


def ml_100k():
    users = ((user, age, gender, work, "55105") for user in range(1, 8) for age, gender, work in [user_of(user)])
    items = (
        (item, f"Señor, {item}: (1995)", "01-Jan-1995", "", "http://url?a,b", *FLAGS[item - 1]) for item in range(1, 6)
    )
    files = {
        "u.data": lines(ratings(), "\t"),
        "u.user": lines(users, "|"),
        "u.item": lines(items, "|"),
        "u.genre": lines(zip(GENRES, range(4), strict=True), "|") + "\n",
        "u1.base": "not read",
    }
    return {name: text.encode("latin-1") for name, text in files.items()}


def ml_1m():
    users = ((user, gender, age, work, "55105") for user in range(1, 8) for age, gender, work in [user_of(user)])
    items = ((item, f"Señor: The {item} (1995)", genres_of(item, "unknown")) for item in range(1, 6))
    files = {"ratings.dat": ratings(), "users.dat": users, "movies.dat": items}
    return {name: lines(rows, "::").encode("latin-1") for name, rows in files.items()}


def ml_10m():
    items = ((item, f"Señor :: The {item} (1995)", genres_of(item, "(no genres listed)")) for item in range(1, 6))
    files = {"ratings.dat": ratings("{}.5"), "movies.dat": items, "tags.dat": [("not", "read")]}
    return {name: lines(rows, "::").encode() for name, rows in files.items()}


def ml_csv():
    items = ((item, f'"Señor, The ""{item}"" (1995)"', genres_of(item, "(no genres listed)")) for item in range(1, 6))
    return {
        "ratings.csv": lines(ratings("{}.5"), ",", ["userId,movieId,rating,timestamp"]).replace("\n", "\r\n").encode(),
        "movies.csv": lines(items, ",", ["movieId,title,genres"]).encode(),
    }


def yelp():
    cities = [(business, business * 10, 1) for business in range(1, 5)]  # the last business has none, and no category
    categories = [(business, category, 1) for business in range(1, 5) for category in range(business)]
    stars = [(user, business, rating) for user, business, rating, _ in ratings()]
    files = {"user_business.dat": stars, "business_city.dat": cities, "business_category.dat": categories}
    return {name: lines(rows, "\t").encode() for name, rows in files.items()}


def yelp_rows():
    for user, business, stars, _ in ratings():
        place = {"city": str(business * 10), "categories": "|".join(map(str, range(business)))}
        own = place if business < 5 else {"city": "", "categories": ""}
        yield {"user": str(user), "business": str(business), **own, "stars": stars}


FRAPPE_SIZES = {"train": 30, "validation": 12, "test": 8}


def frappe():
    of_split = {
        split: [(f"{(-1) ** row} {row}:1 {5381 - row}:1",) for row in range(n)] for split, n in FRAPPE_SIZES.items()
    }
    return {f"frappe.{split}.libfm": lines(rows, "").encode() for split, rows in of_split.items()}


def criteo_row(row):
    integers = ["" if (row + column) % 5 == 0 else row * column - 3 for column in range(13)]
    categories = ["" if (row + column) % 7 == 0 else f"{row % 3:08x}" for column in range(26)]
    return [row % 2, *integers, *categories]


def criteo():
    return {"train.txt": lines(map(criteo_row, range(NUM_ROWS)), "\t").encode()}


def avazu_row(row):
    hour = f"1410{21 + row // 24}{row % 24:02d}"
    return [f"{row:020d}", row % 2, hour, *(f"v{row % 3}_{column}" for column in range(21))]


def avazu():
    return {"train.csv": lines(map(avazu_row, range(NUM_ROWS)), ",", [AVAZU_COLUMNS]).encode()}


def avazu_rows():
    columns = AVAZU_COLUMNS.split(",")
    for row in range(NUM_ROWS):
        _, click, _, *others = avazu_row(row)
        weekday = str((1 + row // 24) % 7)  # 21 October 2014 was a Tuesday
        yield dict(
            zip(["click", "hour", "weekday", *columns[3:]], [str(click), str(row % 24), weekday, *others], strict=True)
        )


def criteo_rows():
    columns = ["label", *(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]
    return (dict(zip(columns, map(str, criteo_row(row)), strict=True)) for row in range(NUM_ROWS))


@dataclasses.dataclass(frozen=True)
class Fake:
    """A dataset in the authors' layout.

    Attributes:
        files: Their contents by name.
        rows: What they have to become, in the authors' order.
        folder: Which folder of the archive they are in.
        archive: What the archive is called.
    """

    files: dict[str, bytes]
    rows: list[dict[str, str]]
    folder: str
    archive: str

    @property
    def columns(self):
        return list(self.rows[0])


FAKES = {
    "movielens-100k": Fake(ml_100k(), list(joined(has_users=True)), "ml-100k", "ml-100k.zip"),
    "movielens-1m": Fake(ml_1m(), list(joined(has_users=True, none="unknown")), "ml-1m", "ml-1m.zip"),
    "movielens-10m": Fake(
        ml_10m(), list(joined("{}.5", has_users=False, none="(no genres listed)")), "ml-10M100K", "ml-10m.zip"
    ),
    "movielens-20m": Fake(
        ml_csv(), list(joined("{}.5", has_users=False, none="(no genres listed)")), "ml-20m", "ml-20m.zip"
    ),
    "movielens-25m": Fake(
        ml_csv(), list(joined("{}.5", has_users=False, none="(no genres listed)")), "ml-25m", "ml-25m.zip"
    ),
    "yelp": Fake(yelp(), list(yelp_rows()), "HIN-Datasets-main/Yelp", "main.zip"),
    "criteo": Fake(criteo(), list(criteo_rows()), "dac", "dac.tar.gz"),
    "avazu": Fake(avazu(), list(avazu_rows()), "", "avazu-ctr-prediction.zip"),
    "frappe": Fake(frappe(), [{"label": "", "ids": ""}], "neural_factorization_machine-master/data/frappe", "master.zip"),
}
DRAWN = [name for name in FAKES if name.startswith("movielens") or name == "yelp"]
CONTAINERS = ("plain", "gzip", "archive", "folder with the archive", "folder in a folder")
# The authors of Yelp publish no archive with a name of its own.
NAMES_AND_CONTAINERS = [
    (name, container)
    for name in FAKES
    for container in CONTAINERS
    if name != "frappe" and (name, container) != ("yelp", "folder with the archive")
]


def write_folder(folder, files, packed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}{'.gz' * packed}").write_bytes(gzip.compress(text) if packed else text)
    return folder


def write_archive(path, files, folder=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in files.items():
                archive.writestr(f"{folder}/{name}" if folder else name, text)
        return path
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"./{folder}/{name}" if folder else name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return path


def write_fake(name, folder, container="plain"):
    fake = FAKES[name]
    if container == "archive":
        return write_archive(folder / fake.archive, fake.files, fake.folder)
    if container == "folder with the archive":
        return write_archive(folder / fake.archive, fake.files, fake.folder).parent
    if container == "folder in a folder":
        return write_folder(folder / (fake.folder.rpartition("/")[2] or "avazu"), fake.files).parent
    return write_folder(folder, fake.files, packed=container == "gzip")


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


@pytest.fixture
def load(tmp_path):
    def load(name, path=None, **options):
        return known_dataset(name, path, cache_dir=tmp_path / "cache", **options)

    return load


def text_of(files):
    return b"".join(
        gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text for text in (Path(f).read_bytes() for f in files)
    )


def rows_of(dataset, split):
    """Rows as strings by column."""
    rows = []
    for file in getattr(dataset, split):
        text = text_of([file]).decode()
        names = dataset.file_format.column_names
        own = [
            line.split(dataset.file_format.delimiter) for line in text.replace("\r\n", "\n").removesuffix("\n").split("\n")
        ]
        names, own = (own[0], own[1:]) if names is None else (names, own)
        rows += [dict(zip(names, row, strict=True)) for row in own]
    return rows


def state(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*")}


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

    @pytest.mark.parametrize("container", [own for own in CONTAINERS if own != "folder with the archive"])
    def test_frappe_is_as_the_authors_split_it(self, source, load, container):
        dataset = load("frappe", write_fake("frappe", source, container))
        assert dataset.num_rows == FRAPPE_SIZES
        for split in splits.SPLITS:
            assert text_of(getattr(dataset, split)) == FAKES["frappe"].files[f"frappe.{split}.libfm"]
        dataset.schema.adapt(dataset.train, file_format=dataset.file_format)
        assert dataset.schema.num_features == 5382
        inputs, labels = next(iter(dataset.schema.dataset(dataset.train, 2, file_format=dataset.file_format)))
        np.testing.assert_array_equal(inputs["ids"], [[0, 5381], [1, 5380]])
        np.testing.assert_array_equal(labels, [[1], [0]])

    def test_frappe_takes_the_reconstructed_file_where_the_authors_is_absent(self, source, load):
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

    def test_genres_are_values_of_their_own(self, source, load):
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

    def test_last_line_without_an_end_and_blank_lines(self, source, load):
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
    def test_other_seeds_draw_other_rows(self, source, load, name):
        path = write_fake(name, source)
        by_seed = {seed: rows_of(load(name, path, split_seed=seed), "train") for seed in (20190512, 1)}
        assert by_seed[20190512] == rows_of(load(name, path), "train")
        assert by_seed[20190512] != by_seed[1]
        assert by_seed[1] == rows_of(load(name, path, split_seed=1), "train")

    @pytest.mark.parametrize("name", ["frappe", "criteo", "avazu"])
    def test_is_refused_where_nothing_is_drawn(self, source, load, name):
        with pytest.raises(ValueError, match=f"`split_seed` is for splits that are drawn, and that of {name} is not.*3"):
            load(name, write_fake(name, source), split_seed=3)

    @pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (True, TypeError), ("1", TypeError), (0.5, TypeError)])
    def test_illegal(self, load, seed, error):
        with pytest.raises(error, match=r"`split_seed` must .* Received: split_seed="):
            load("yelp", split_seed=seed)


class TestCache:
    @pytest.mark.parametrize("name", list(FAKES))
    def test_made_once(self, source, load, tmp_path, name):
        path = write_fake(name, source)
        first = load(name, path)
        before = state(tmp_path)
        second = load(name, path)
        assert state(tmp_path) == before
        assert (first.train, first.validation, first.test) == (second.train, second.validation, second.test)
        assert first.num_rows == second.num_rows

    def test_is_in_the_folder_of_keras(self, source, tmp_path, monkeypatch):
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
        (file,) = known_dataset("criteo", write_fake("criteo", source)).train
        folder = Path(file).parent
        assert folder.parent == tmp_path / "home" / "keras_rafm"
        assert folder.name.startswith("criteo-")
        monkeypatch.delenv("KERAS_HOME")
        assert cache.cache_root(None) == Path.home() / ".keras" / "keras_rafm"
        assert cache.cache_root("~/other") == Path.home() / "other"

    def test_follows_what_is_in_the_files(self, source, load):
        path = write_fake("criteo", source)
        first = load("criteo", path).train
        os.utime(path / "train.txt", ns=(1, 1))
        assert load("criteo", path).train == first
        write_folder(source, {"train.txt": FAKES["criteo"].files["train.txt"].replace(b"\t2\t", b"\t7\t")})
        assert load("criteo", path).train != first

    def test_large_files_are_told_apart_by_size_time_and_ends(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cache, "_HASHED_WHOLE", 100)
        monkeypatch.setattr(cache, "_HASHED_ENDS", 10)
        path = tmp_path / "large"
        texts = [b"a" * 200, b"b" + b"a" * 199, b"a" * 199 + b"b", b"a" * 201]
        for text in texts:
            path.write_bytes(text)
            os.utime(path, ns=(1, 1))
        seen = [self.fingerprint_of(path, text, time) for text, time in [*((text, 1) for text in texts), (texts[0], 2)]]
        assert len(set(seen)) == 5
        assert seen[0] == self.fingerprint_of(path, texts[0], 1)

    @staticmethod
    def fingerprint_of(path, text, time):
        path.write_bytes(text)
        os.utime(path, ns=(time, time))
        return str(cache.fingerprint([path]))

    @pytest.mark.parametrize("damage", ["truncated", "absent", "no contents", "bad contents", "a file in its place"])
    def test_what_is_not_whole_is_made_anew(self, source, load, damage):
        path = write_fake("movielens-1m", source)
        dataset = load("movielens-1m", path)
        expected = rows_of(dataset, "train")
        file = Path(dataset.train[0])
        if damage == "truncated":
            file.write_bytes(file.read_bytes()[:-1])
        elif damage == "absent":
            file.unlink()
        elif damage == "no contents":
            (file.parent / "contents.json").unlink()
        elif damage == "bad contents":
            (file.parent / "contents.json").write_text('{"files": [')
        else:
            shutil.rmtree(file.parent)
            file.parent.write_text("")
        again = load("movielens-1m", path)
        assert again.train == dataset.train
        assert rows_of(again, "train") == expected
        assert [own.name for own in file.parent.parent.iterdir()] == [file.parent.name]

    def test_an_error_leaves_nothing(self, source, load, tmp_path):
        files = dict(FAKES["movielens-1m"].files)
        files["ratings.dat"] += b"8::1::5::1\n"
        path = write_folder(source, files)
        with pytest.raises(ValueError, match=r"users\.dat: there is no user '8', of which there are examples"):
            load("movielens-1m", path)
        assert list((tmp_path / "cache").iterdir()) == []
        write_folder(source, FAKES["movielens-1m"].files)
        assert load("movielens-1m", path).num_rows["train"] == 40

    def test_what_killed_processes_left_is_removed_after_a_day(self, source, load, tmp_path):
        old, new = (tmp_path / "cache" / f".making-yelp-{name}" for name in ("old", "new"))
        for folder in (old, new):
            (folder / "files").mkdir(parents=True)
            (folder / "files" / "train-00000.tsv").write_text("half")
        yesterday = time.time() - 25 * 60 * 60
        for path in (old / "files" / "train-00000.tsv", old / "files", old):
            os.utime(path, (yesterday, yesterday))
        load("yelp", write_fake("yelp", source))
        assert not old.exists()
        assert new.exists()

    def test_the_first_of_two_processes_wins(self, tmp_path):
        def make(text):
            def written(folder):
                if text == b"slow":
                    cache.prepared(tmp_path, "some", ["key"], make(b"fast"))
                writer = splits.SplitWriter(folder, ".txt", compressed=False)
                for split in splits.SPLITS:
                    writer.write(split, [text])
                return writer

            return written

        made = cache.prepared(tmp_path, "some", ["key"], make(b"slow"))
        assert text_of(made.files["train"]) == b"fast"
        assert len(list(tmp_path.iterdir())) == 1

    def test_that_can_not_be_written(self, source, tmp_path):
        (tmp_path / "file").write_text("")
        path = write_fake("yelp", source)
        with pytest.raises(
            OSError, match=r"the files of yelp can't be written to .*file.*name another folder by `cache_dir`"
        ):
            known_dataset("yelp", path, cache_dir=tmp_path / "file" / "cache")

    def test_others_may_read_it(self, source, load):
        file = Path(load("yelp", write_fake("yelp", source)).train[0])
        expected = source.stat().st_mode
        assert file.parent.stat().st_mode == expected


class TestDownload:
    @pytest.fixture
    def publish(self, tmp_path, monkeypatch):
        """Let the archive of a dataset be somewhere else, with a checksum."""

        def publish(name, md5=None):
            archive = write_fake(name, tmp_path / "web", "archive")
            digest = md5 or hashlib.md5(archive.read_bytes()).hexdigest()
            recipe = dataclasses.replace(entry._RECIPES[name], source=Download(archive.as_uri(), digest))
            monkeypatch.setitem(entry._RECIPES, name, recipe)
            return archive

        return publish

    @pytest.mark.parametrize("name", [name for name in FAKES if name.startswith("movielens")])
    def test_once(self, load, publish, tmp_path, name):
        archive = publish(name)
        dataset = load(name)
        assert Counter(map(str, rows_of(dataset, "test"))) == Counter(map(str, rows_of(load(name, archive), "test")))
        assert (tmp_path / "cache" / archive.name).read_bytes() == archive.read_bytes()
        shutil.rmtree(archive.parent)
        (tmp_path / "cache" / archive.name).unlink()  # the files made from it are enough
        assert load(name).train == dataset.train

    def test_uses_an_archive_put_in_its_place(self, load, publish, tmp_path):
        archive = publish("movielens-20m")
        (tmp_path / "cache").mkdir()
        archive.rename(tmp_path / "cache" / archive.name)
        assert load("movielens-20m").num_rows["train"] == 40

    def test_offline(self, load, publish, tmp_path):
        publish("movielens-1m").unlink()
        with pytest.raises(ConnectionError) as error:
            load("movielens-1m")
        message = str(error.value)
        for part in (
            "movielens-1m could not be downloaded from file://",
            "https://grouplens.org/datasets/movielens/1m/",
            "ratings.dat, movies.dat, users.dat (each plain, or gzip with .gz behind the name), or ml-1m.zip",
            "known_dataset('movielens-1m', path='that folder')",
            "Licence: GroupLens",
            str(tmp_path / "cache" / "ml-1m.zip"),
        ):
            assert part in message
        assert list((tmp_path / "cache").iterdir()) == []

    def test_checksum_mismatch(self, load, publish, tmp_path):
        publish("movielens-1m", md5="0" * 32)
        with pytest.raises(ValueError, match=r"ml-1m\.zip has not the published md5 0{32} .*removed"):
            load("movielens-1m")
        assert list((tmp_path / "cache").iterdir()) == []

    @pytest.mark.parametrize("name", [name for name in FAKES if name.startswith("movielens")])
    def test_is_from_grouplens(self, name):
        source = entry._RECIPES[name].source
        assert source.url == f"https://files.grouplens.org/datasets/movielens/{FAKES[name].archive}"
        assert len(source.md5) == 32

    @pytest.mark.parametrize(
        ("name", "parts"),
        [
            ("frappe", ["frappe.train.libfm or frappe.train.reconstructed.libfm", "neural_factorization_machine"]),
            ("criteo", ["train.txt", "dac.tar.gz", "https://www.kaggle.com/c/criteo-display-ad-challenge"]),
            ("avazu", ["train.csv", "avazu-ctr-prediction.zip", "https://www.kaggle.com/c/avazu-ctr-prediction"]),
            ("yelp", ["user_business.dat, business_city.dat, business_category.dat", "librahu/HIN-Datasets"]),
        ],
    )
    def test_of_what_is_not_downloaded(self, load, name, parts):
        with pytest.raises(FileNotFoundError, match=f"^{name} is not downloaded: ") as error:
            load(name)
        for part in [*parts, "Licence: ", f"known_dataset('{name}', path='that folder')"]:
            assert part in str(error.value)


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "nearest"),
        [("movielens-1M", "movielens-1m"), ("Criteo", "criteo"), ("movielens100k", "movielens-100k"), ("zzz", None)],
    )
    def test_unknown_name(self, name, nearest):
        with pytest.raises(
            ValueError, match=rf"Received: name='{name}'" + (rf" \(is '{nearest}' meant\?\)$" if nearest else "$")
        ):
            known_dataset(name)
        with pytest.raises(ValueError, match=", ".join(sorted(FAKES, key=list(entry._RECIPES).index))):
            known_dataset(name)

    def test_name_of_another_kind(self):
        with pytest.raises(TypeError, match=r"`name` must be the name of a dataset\. Received: 3 of type int"):
            known_dataset(3)

    def test_nothing_there(self, tmp_path, load):
        with pytest.raises(
            FileNotFoundError, match=r"no file or folder .*absent\. avazu is made from train\.csv or train \(plain"
        ):
            load("avazu", tmp_path / "absent")

    @pytest.mark.parametrize(("name", "missing"), [("movielens-100k", "u.genre"), ("movielens-1m", "users.dat")])
    @pytest.mark.parametrize("container", ["plain", "archive"])
    def test_missing_file(self, source, load, name, missing, container):
        files = {own: text for own, text in FAKES[name].files.items() if own != missing}
        path = write_folder(source, files) if container == "plain" else write_archive(source / "a.zip", files, "inner")
        with pytest.raises(FileNotFoundError) as error:
            load(name, path)
        message = str(error.value)
        assert f"{path} lacks {missing} of {name}, which is made from" in message
        assert all(own in message for own in files)

    def test_wrong_folder(self, source, load):
        path = write_fake("yelp", source)
        for number in range(20):
            (path / f"other {number:02d}").write_text("")
        with pytest.raises(
            FileNotFoundError, match=r"lacks ratings\.csv, movies\.csv of movielens-20m.*other 05 and 15 more$"
        ):
            load("movielens-20m", path)
        (source / "empty").mkdir()
        with pytest.raises(FileNotFoundError, match=r"It has: no files$"):
            load("movielens-20m", source / "empty")

    def test_one_file_of_several(self, source, load):
        path = write_fake("movielens-1m", source)
        with pytest.raises(ValueError, match=rf"neither a folder nor an archive.*such as path='{source}'"):
            load("movielens-1m", path / "ratings.dat")

    def test_several_folders_that_fit(self, source, load):
        files = FAKES["yelp"].files
        two = {f"{folder}/{name}": text for folder in ("one", "two") for name, text in files.items()}
        with pytest.raises(ValueError, match=r"has yelp in several folders: one, two; name one of them"):
            load("yelp", write_archive(source / "two.zip", two))
        named = {**two, **{f"main/Yelp/{name}": text for name, text in files.items()}}
        assert load("yelp", write_archive(source / "named.zip", named)).num_rows["train"] == 40

    def test_damaged_gzip(self, source, load):
        path = write_fake("criteo", source, "gzip")
        whole = (path / "train.txt.gz").read_bytes()
        (path / "train.txt.gz").write_bytes(whole[:-20])
        with pytest.raises(ValueError, match=r"train\.txt\.gz is damaged or cut short \("):
            load("criteo", path)

    def test_damaged_archive(self, source, load):
        path = write_fake("movielens-20m", source, "archive")
        text = path.read_bytes()
        path.write_bytes(text.replace(b"userId,movieId", b"userId;movieId"))
        with pytest.raises(ValueError, match=r"ml-20m\.zip, ml-20m/ratings\.csv is damaged or cut short \("):
            load("movielens-20m", path)

    def test_wrong_encoding(self, source, load):
        files = {**FAKES["movielens-20m"].files, "movies.csv": "movieId,title,genres\n1,Señor,Action\n".encode("latin-1")}
        with pytest.raises(ValueError, match=r"movies\.csv is not in the encoding utf-8"):
            load("movielens-20m", write_folder(source, files))

    @pytest.mark.parametrize(
        ("name", "file", "change", "message"),
        [
            (
                "movielens-100k",
                "u.data",
                (b"1\t1\t1\t", b"1\t1\t1 "),
                r"u\.data, line 1: expected 4 fields .*with '\\t' between",
            ),
            ("movielens-100k", "u.item", (b"|0|1|0|1", b"|0|1|0|2"), r"u\.item: flags of genres must be 0 or 1"),
            ("movielens-100k", "u.item", (b"|0|1|0|1", b"|0|1|0"), r"u\.item, line 1: expected 9 fields"),
            ("movielens-100k", "u.user", (b"2|22|", b"1|22|"), r"u\.user: user '1' must be there once"),
            ("movielens-1m", "movies.dat", (b"::Action|Sci-Fi", b""), r"movies\.dat, line 1: expected 3 fields"),
            (
                "movielens-1m",
                "movies.dat",
                (b"::Action|Sci-Fi", b"::Action\tSci-Fi"),
                r"movies\.dat: fields must have no tabs",
            ),
            (
                "movielens-20m",
                "ratings.csv",
                (b"userId,", b"user,"),
                r"ratings\.csv, line 1: expected the header userId,movieId",
            ),
            ("movielens-20m", "ratings.csv", (b"1,1,1.5,", b"1,1,1.5"), r"ratings\.csv, line 2: expected 4 fields"),
            ("movielens-20m", "movies.csv", (b"\n2,", b"\n22,"), r"movies\.csv: there is no item '2'"),
            ("yelp", "business_city.dat", (b"2\t20\t", b"1\t20\t"), r"business_city\.dat: business '1' must have one city"),
            (
                "criteo",
                "train.txt",
                (b"0\t", b"label\t"),
                r"train\.txt, line 1: expected a label that is 0 or 1 and 39 fields",
            ),
            ("avazu", "train.csv", (b"id,click", b"id;click"), r"train\.csv, line 1: expected the header id,click,hour"),
            (
                "avazu",
                "train.csv",
                (b",14102104,", b",14102102,"),
                r"train\.csv, line 6: expected rows in the order of time",
            ),
            ("avazu", "train.csv", (b",14102100,", b",14102199,"), r"train\.csv, line 2: expected an hour as YYMMDDHH"),
            ("avazu", "train.csv", (b",v0_20", b""), r"train\.csv, line 2: expected 24 fields"),
        ],
    )
    def test_malformed(self, source, load, tmp_path, name, file, change, message):
        files = dict(FAKES[name].files)
        assert change[0] in files[file]
        files[file] = files[file].replace(*change, 1)
        with pytest.raises(ValueError, match=message):
            load(name, write_folder(source, files))
        assert list((tmp_path / "cache").iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "num_rows"), [("movielens-20m", 0), ("movielens-20m", 5), ("avazu", 0), ("criteo", 3)]
    )
    def test_too_few_rows(self, source, load, name, num_rows):
        ((file, text), *others) = FAKES[name].files.items()
        has_header = name != "criteo"
        short = b"".join(text.splitlines(keepends=True)[: num_rows + has_header])
        path = write_folder(source, {**dict(others), file: short})
        with pytest.raises(ValueError, match=rf"{name} has too few rows: none are left for .*Received {num_rows} rows"):
            load(name, path)

    def test_min_count(self, source, load):
        with pytest.raises(ValueError, match=r"`min_count` has no use for frappe, whose ids are the authors'"):
            load("frappe", write_fake("frappe", source), min_count=2)
        with pytest.raises(ValueError, match=r"`min_count` must be at least 1"):
            load("yelp", write_fake("yelp", source), min_count=0)


class TestRealData:
    """Real data: an independent reader has the same rows, and `benchmarks` trains on them."""

    @staticmethod
    def check_same(dataset, expected_rows, columns, label):
        ids = {}  # (column, value) -> the id that the independent reader gave it
        for split in splits.SPLITS:
            rows = rows_of(dataset, split)
            assert len(rows) == len(expected_rows[split].ids) == dataset.num_rows[split]
            np.testing.assert_array_equal(expected_rows[split].labels, [float(row[label]) for row in rows])
            for row, expected in zip(rows, expected_rows[split].ids, strict=True):
                features = [(column, value) for column in columns for value in row[column].split("|") if value]
                assert len(features) == len(expected)
                for feature, own in zip(features, expected, strict=True):
                    assert ids.setdefault(feature, own) == own
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
