"""The cache of known datasets, and downloads into it."""

import dataclasses
import hashlib
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest
from known_fakes import FAKES, rows_of, state, text_of, write_fake, write_folder

from keras_rafm.data.known import cache, entry, known_dataset, splits
from keras_rafm.data.known.recipe import Download

pytestmark = pytest.mark.one_tensorflow


class TestCache:
    @pytest.mark.parametrize("name", list(FAKES))
    def test_is_written_once(self, source, load, tmp_path, name):
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

    def test_depends_on_the_content_of_the_files(self, source, load):
        path = write_fake("criteo", source)
        first = load("criteo", path).train
        os.utime(path / "train.txt", ns=(1, 1))
        assert load("criteo", path).train == first
        write_folder(source, {"train.txt": FAKES["criteo"].files["train.txt"].replace(b"\t2\t", b"\t7\t")})
        assert load("criteo", path).train != first

    def test_large_files_are_identified_by_size_time_and_ends(self, tmp_path, monkeypatch):
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
    def test_an_incomplete_folder_is_written_again(self, source, load, damage):
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
        assert [folder.name for folder in file.parent.parent.iterdir()] == [file.parent.name]

    def test_an_error_leaves_nothing(self, source, load, tmp_path):
        files = dict(FAKES["movielens-1m"].files)
        files["ratings.dat"] += b"8::1::5::1\n"
        path = write_folder(source, files)
        with pytest.raises(ValueError, match=r"users\.dat: user '8' is missing, but occurs in the ratings"):
            load("movielens-1m", path)
        assert list((tmp_path / "cache").iterdir()) == []
        write_folder(source, FAKES["movielens-1m"].files)
        assert load("movielens-1m", path).num_rows["train"] == 40

    def test_leftovers_of_killed_processes_are_removed_after_a_day(self, source, load, tmp_path):
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

    def test_a_cache_that_can_not_be_written(self, source, tmp_path):
        (tmp_path / "file").write_text("")
        path = write_fake("yelp", source)
        with pytest.raises(
            OSError, match=r"the files of yelp can't be written to .*file.*name another folder by `cache_dir`"
        ):
            known_dataset("yelp", path, cache_dir=tmp_path / "file" / "cache")

    def test_other_users_may_read_it(self, source, load):
        file = Path(load("yelp", write_fake("yelp", source)).train[0])
        expected = source.stat().st_mode
        assert file.parent.stat().st_mode == expected


class TestDownload:
    @pytest.fixture
    def publish(self, tmp_path, monkeypatch):
        """Replace the address of a dataset's archive by a local file, and its checksum."""

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
        (tmp_path / "cache" / archive.name).unlink()  # the files written from it are enough
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
            "ratings.dat, movies.dat, users.dat (each plain, or gzip with .gz appended to the name), or ml-1m.zip",
            "known_dataset('movielens-1m', path='that folder')",
            "Licence: GroupLens",
            str(tmp_path / "cache" / "ml-1m.zip"),
        ):
            assert part in message
        assert list((tmp_path / "cache").iterdir()) == []

    def test_checksum_mismatch(self, load, publish, tmp_path):
        publish("movielens-1m", md5="0" * 32)
        with pytest.raises(ValueError, match=r"ml-1m\.zip does not have the published md5 0{32} .*removed"):
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
    def test_datasets_that_are_not_downloaded(self, load, name, parts):
        with pytest.raises(FileNotFoundError, match=f"^{name} can't be downloaded automatically: ") as error:
            load(name)
        for part in [*parts, "Licence: ", f"known_dataset('{name}', path='that folder')"]:
            assert part in str(error.value)
