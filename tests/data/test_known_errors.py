"""Errors of `known_dataset` about names, arguments, and missing or malformed files."""

import pytest
from known_fakes import FAKES, write_archive, write_fake, write_folder

from keras_rafm.data.known import entry, known_dataset

pytestmark = pytest.mark.one_tensorflow


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "nearest"),
        [("movielens-1M", "movielens-1m"), ("Criteo", "criteo"), ("movielens100k", "movielens-100k"), ("zzz", None)],
    )
    def test_unknown_name(self, name, nearest):
        with pytest.raises(
            ValueError, match=rf"Received: name='{name}'" + (rf"; did you mean '{nearest}'\?$" if nearest else "$")
        ):
            known_dataset(name)
        with pytest.raises(ValueError, match=", ".join(sorted(FAKES, key=list(entry._RECIPES).index))):
            known_dataset(name)

    def test_name_of_another_kind(self):
        with pytest.raises(TypeError, match=r"`name` must be the name of a dataset\. Received: 3 of type int"):
            known_dataset(3)

    def test_nothing_there(self, tmp_path, load):
        with pytest.raises(
            FileNotFoundError, match=r"file or folder not found: .*absent\. avazu needs train\.csv or train \(plain"
        ):
            load("avazu", tmp_path / "absent")

    @pytest.mark.parametrize(("name", "missing"), [("movielens-100k", "u.genre"), ("movielens-1m", "users.dat")])
    @pytest.mark.parametrize("container", ["plain", "archive"])
    def test_missing_file(self, source, load, name, missing, container):
        files = {file: text for file, text in FAKES[name].files.items() if file != missing}
        path = write_folder(source, files) if container == "plain" else write_archive(source / "a.zip", files, "inner")
        with pytest.raises(FileNotFoundError) as error:
            load(name, path)
        message = str(error.value)
        assert f"{path} lacks {missing} of {name}, which needs" in message
        assert all(file in message for file in files)

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
        with pytest.raises(ValueError, match=r"train\.txt\.gz is damaged or truncated \("):
            load("criteo", path)

    def test_damaged_archive(self, source, load):
        path = write_fake("movielens-20m", source, "archive")
        text = path.read_bytes()
        path.write_bytes(text.replace(b"userId,movieId", b"userId;movieId"))
        with pytest.raises(ValueError, match=r"ml-20m\.zip, ml-20m/ratings\.csv is damaged or truncated \("):
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
                r"u\.data, line 1: expected 4 fields .*separated by '\\t'",
            ),
            ("movielens-100k", "u.item", (b"|0|1|0|1", b"|0|1|0|2"), r"u\.item: genre flags must be 0 or 1"),
            ("movielens-100k", "u.item", (b"|0|1|0|1", b"|0|1|0"), r"u\.item, line 1: expected 9 fields"),
            ("movielens-100k", "u.user", (b"2|22|", b"1|22|"), r"u\.user: user '1' must occur in one row only"),
            ("movielens-1m", "movies.dat", (b"::Action|Sci-Fi", b""), r"movies\.dat, line 1: expected 3 fields"),
            (
                "movielens-1m",
                "movies.dat",
                (b"::Action|Sci-Fi", b"::Action\tSci-Fi"),
                r"movies\.dat: fields must not contain tabs",
            ),
            (
                "movielens-20m",
                "ratings.csv",
                (b"userId,", b"user,"),
                r"ratings\.csv, line 1: expected the header userId,movieId",
            ),
            ("movielens-20m", "ratings.csv", (b"1,1,1.5,", b"1,1,1.5"), r"ratings\.csv, line 2: expected 4 fields"),
            ("movielens-20m", "movies.csv", (b"\n2,", b"\n22,"), r"movies\.csv: item '2' is missing, but occurs"),
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
        with pytest.raises(ValueError, match=rf"{name} has too few rows: none are left for .*Received: {num_rows} rows"):
            load(name, path)

    def test_min_count(self, source, load):
        with pytest.raises(ValueError, match=r"`min_count` does not apply to frappe, whose ids are the authors'"):
            load("frappe", write_fake("frappe", source), min_count=2)
        with pytest.raises(ValueError, match=r"`min_count` must be at least 1"):
            load("yelp", write_fake("yelp", source), min_count=0)
