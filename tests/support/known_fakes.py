"""Small datasets in the layouts of the authors of known datasets, and the rows that `known_dataset` makes of them."""

import dataclasses
import gzip
import io
import tarfile
import zipfile
from pathlib import Path

NUM_ROWS = 50
NUM_USERS, NUM_ITEMS = 7, 5
GENRES = ("unknown", "Action", "Film-Noir", "Sci-Fi")
FLAGS = ("0101", "1000", "0010", "0111", "0000")  # genre flags of each item, from item 1
AVAZU_COLUMNS = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,device_id,device_ip,"
    "device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def genres_of(item, none=""):
    return "|".join(genre for genre, flag in zip(GENRES, FLAGS[item - 1], strict=True) if flag == "1") or none


def ratings(rating="{}"):
    """Yield user, item, rating and time of each row; no two rows are equal."""
    for row in range(NUM_ROWS):
        yield row % NUM_USERS + 1, row % NUM_ITEMS + 1, rating.format(row % 5 + 1), 1_000_000_000 + row


def user_of(user):
    return user + 20, "MF"[user % 2], user % 3


def lines(rows, separator, head=()):
    return "\n".join([*head, *(separator.join(map(str, row)) for row in rows)]) + "\n"


def joined(rating="{}", *, has_users, none=""):
    """Yield the rows that `known_dataset` must write, as strings by column."""
    for user, item, stars, _ in ratings(rating):
        age, gender, occupation = user_of(user)
        user_fields = {"age": str(age), "gender": gender, "occupation": str(occupation)} if has_users else {}
        yield {"user": str(user), **user_fields, "item": str(item), "genres": genres_of(item, none), "rating": stars}


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
        fields = place if business < 5 else {"city": "", "categories": ""}
        yield {"user": str(user), "business": str(business), **fields, "stars": stars}


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
    """A small dataset in the authors' layout.

    Attributes:
        files: The contents of the authors' files, by name.
        rows: The rows that `known_dataset` must write, in the authors' order.
        folder: The folder of the files in the archive.
        archive: The name of the archive.
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
# The authors of Yelp publish no archive.
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


def text_of(files):
    return b"".join(
        gzip.decompress(text) if text[:2] == b"\x1f\x8b" else text for text in (Path(f).read_bytes() for f in files)
    )


def rows_of(dataset, split):
    """Return the rows of a split as strings by column."""
    rows = []
    for file in getattr(dataset, split):
        text = text_of([file]).decode()
        names = dataset.file_format.column_names
        lines_of_file = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
        fields = [line.split(dataset.file_format.delimiter) for line in lines_of_file]
        names, fields = (fields[0], fields[1:]) if names is None else (names, fields)
        rows += [dict(zip(names, row, strict=True)) for row in fields]
    return rows


def state(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.rglob("*")}
