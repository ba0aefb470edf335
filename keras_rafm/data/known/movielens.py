"""MovieLens: ratings of films by users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Literal

from keras_rafm.data.columns.column import Column
from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.known.recipe import Download, Recipe
from keras_rafm.data.known.rows import csv_rows, malformed, split_rows
from keras_rafm.data.known.sources import Layout, Source
from keras_rafm.data.known.splits import SplitWriter, write_drawn
from keras_rafm.data.known.tables import Table
from keras_rafm.data.schema import Schema

_Text = Literal["u.", ".dat", ".csv"]

_USER_COLUMNS = ("age", "gender", "occupation")
_CITATION = (
    "F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and Context. ACM Transactions on "
    "Interactive Intelligent Systems 5, 4, Article 19. https://doi.org/10.1145/2827872"
)
_LICENCE = (
    "GroupLens: for research, with the citation; not to be redistributed, and not for commercial use, without permission; "
    "no endorsement may be implied (the README of the archive has the full text)"
)
_SEPARATED_BY_TAB = CSVFormat(delimiter="\t", quote=None)


def _recipe(size: str, num_rows: str, text: _Text, folder: str, md5: str, *, has_users: bool) -> Recipe:
    files = {
        "u.": ("u.data", "u.item", "u.genre", "u.user"),
        ".dat": ("ratings.dat", "movies.dat", *(["users.dat"] * has_users)),
        ".csv": ("ratings.csv", "movies.csv"),
    }[text]
    archive = f"ml-{size}.zip"
    columns = ("user", *(_USER_COLUMNS if has_users else ()), "item", "genres", "rating")
    known = "age, gender and occupation of the user, genres of the film" if has_users else "genres of the film"
    return Recipe(
        layout=Layout(f"movielens-{size}", tuple((name,) for name in files), tuple({f"ml-{size}", folder}), archive),
        description=f"{num_rows} ratings of films by users; {known}",
        citation=_CITATION,
        licence=_LICENCE,
        page=f"https://grouplens.org/datasets/movielens/{size}/",
        source=Download(f"https://files.grouplens.org/datasets/movielens/{archive}", md5),
        file_format=_SEPARATED_BY_TAB,
        suffix=".tsv",
        write=partial(_write, text=text, has_users=has_users),
        schema=partial(_schema, has_users=has_users),
        header="\t".join(columns).encode() + b"\n",
    )


def _schema(min_count: int, *, has_users: bool) -> Schema:
    # With `min_count=1`, training would never update a feature of unseen values.
    unseen = int(min_count > 1)
    number = Schema.integer_categorical(min_count=min_count, num_oov_indices=unseen, missing="ignore")
    string = Schema.string_categorical(min_count=min_count, num_oov_indices=unseen, missing="ignore")
    genres = Schema.string_categorical(min_count=min_count, num_oov_indices=unseen, missing="ignore", separator="|")
    user_columns: dict[str, Column] = {"age": number, "gender": string, "occupation": string} if has_users else {}
    return Schema({"user": number, "item": number, **user_columns, "genres": genres}, label="rating", task="regression")


def _write(writer: SplitWriter, sources: Mapping[str, Source], seed: int, *, text: _Text, has_users: bool) -> None:
    examples = {"u.": _ratings_of_100k, ".dat": _ratings_in_dat, ".csv": _ratings_in_csv}[text](sources)
    items = {"u.": _items_of_100k, ".dat": _items_in_dat, ".csv": _items_in_csv}[text](sources)
    users: Mapping[str, str] = _NoFields()
    if has_users:
        users = {"u.": _users_of_100k, ".dat": _users_in_dat}[text](sources)
    write_drawn(writer, examples, users, items, seed)


class _NoFields(dict[str, str]):
    """No further fields for any user."""

    def __missing__(self, key: str) -> str:
        return ""


def _ratings_of_100k(sources: Mapping[str, Source]) -> Iterator[tuple[str, str, str]]:
    for user, item, rating, _ in split_rows(sources["u.data"], "\t", ("user", "item", "rating", "timestamp")):
        yield user, item, rating


def _users_of_100k(sources: Mapping[str, Source]) -> Table:
    source = sources["u.user"]
    rows = split_rows(source, "|", ("user", *_USER_COLUMNS, "zip code"), "latin-1")
    return Table(source, "user", ((user, fields) for user, *fields, _ in rows))


def _items_of_100k(sources: Mapping[str, Source]) -> Table:
    genres = [name for name, _ in split_rows(sources["u.genre"], "|", ("genre", "number"), "latin-1")]
    source = sources["u.item"]
    columns = ("item", "title", "release date", "video release date", "URL", *genres)

    def rows() -> Iterator[tuple[str, list[str]]]:
        for item, _, _, _, _, *flags in split_rows(source, "|", columns, "latin-1"):
            if not set(flags) <= {"0", "1"}:
                raise ValueError(f"{source.name}: genre flags must be 0 or 1. Received: {flags} of item {item!r}")
            yield item, ["|".join(genre for genre, flag in zip(genres, flags, strict=True) if flag == "1")]

    return Table(source, "item", rows())


def _ratings_in_dat(sources: Mapping[str, Source]) -> Iterator[tuple[str, str, str]]:
    columns = ("user", "item", "rating", "timestamp")
    for user, item, rating, _ in split_rows(sources["ratings.dat"], "::", columns):
        yield user, item, rating


def _users_in_dat(sources: Mapping[str, Source]) -> Table:
    source = sources["users.dat"]
    rows = split_rows(source, "::", ("user", "gender", "age", "occupation", "zip code"), "latin-1")
    return Table(source, "user", ((user, [age, gender, occupation]) for user, gender, age, occupation, _ in rows))


def _items_in_dat(sources: Mapping[str, Source]) -> Table:
    source = sources["movies.dat"]  # titles are in latin-1 or UTF-8, genres in ASCII

    def rows() -> Iterator[tuple[str, list[str]]]:
        with source.opened() as file:
            for number, line in enumerate(file, 1):
                fields = line.decode("latin-1").rstrip("\r\n").split("::")
                if len(fields) >= 3:  # a title may contain the separator
                    yield fields[0], [fields[-1]]
                elif line.strip():
                    raise malformed(source, number, "3 fields (item, title, genres) separated by '::'", "::".join(fields))

    return Table(source, "item", rows())


def _ratings_in_csv(sources: Mapping[str, Source]) -> Iterator[tuple[str, str, str]]:
    for user, item, rating, _ in csv_rows(sources["ratings.csv"], ("userId", "movieId", "rating", "timestamp")):
        yield user, item, rating


def _items_in_csv(sources: Mapping[str, Source]) -> Table:
    source = sources["movies.csv"]
    rows = csv_rows(source, ("movieId", "title", "genres"))
    return Table(source, "item", ((item, [genres]) for item, _, genres in rows))


# GroupLens publishes the checksums beside the archives (ml-100k.zip.md5, …).
MOVIELENS = (
    _recipe("100k", "100,000", "u.", "ml-100k", "0e33842e24a9c977be4e0107933c0723", has_users=True),
    _recipe("1m", "1,000,209", ".dat", "ml-1m", "c4d9eecfca2ab87c1945afe126590906", has_users=True),
    _recipe("10m", "10,000,054", ".dat", "ml-10M100K", "ce571fd55effeba0271552578f2648bd", has_users=False),
    _recipe("20m", "20,000,263", ".csv", "ml-20m", "cd245b17a1ae2cc31bb14903e1204af3", has_users=False),
    _recipe("25m", "25,000,095", ".csv", "ml-25m", "6b51fb2759a8657d3bfcbfc42b592ada", has_users=False),
)
