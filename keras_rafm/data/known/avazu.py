"""Avazu: clicks on mobile advertisements."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping

from keras_rafm.data.columns.column import Column
from keras_rafm.data.formats.csv import CSVFormat
from keras_rafm.data.known.recipe import Recipe
from keras_rafm.data.known.rows import malformed
from keras_rafm.data.known.sources import Layout, Source
from keras_rafm.data.known.splits import SplitWriter, filled_lines, num_filled_lines, write_in_time_order
from keras_rafm.data.schema import Schema

_KEPT = (
    *("C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain", "app_category"),
    *("device_id", "device_ip", "device_model", "device_type", "device_conn_type"),
    *(f"C{number}" for number in range(14, 22)),
)
_COLUMNS = ("id", "click", "hour", *_KEPT)
_WRITTEN_COLUMNS = ("click", "hour", "weekday", *_KEPT)
_DAYS = (8, 1, 1)  # days of each split


def _schema(min_count: int) -> Schema:
    # With `min_count=1`, training would never update a feature of unseen values.
    category: Column = Schema.string_categorical(min_count=min_count, num_oov_indices=int(min_count > 1))
    return Schema(dict.fromkeys(_WRITTEN_COLUMNS[1:], category), label="click")


def _write(writer: SplitWriter, sources: Mapping[str, Source], _: int) -> None:
    source = sources["train.csv"]
    write_in_time_order(writer, _rows(source), num_filled_lines(source) - 1, _DAYS)


def _rows(source: Source) -> Iterator[bytes]:
    """Yield rows without the id, and with hour of the day and weekday (0: Monday) in place of the time as YYMMDDHH."""
    lines = filled_lines(source)
    header = next(lines, b"").decode("latin-1").rstrip("\r\n")
    if header != ",".join(_COLUMNS):
        raise malformed(source, 1, f"the header {','.join(_COLUMNS)}", header)
    num_delimiters = len(_COLUMNS) - 1
    previous, times = b"", b""
    for number, line in enumerate(lines, 2):
        if line.count(b",") != num_delimiters:
            raise malformed(source, number, f"{len(_COLUMNS)} fields separated by ','", line.decode("latin-1"))
        _, click, hour, others = line.split(b",", 3)
        if hour != previous:
            if hour < previous:
                expected = f"rows in the order of time, not before the hour {previous.decode()}"
                raise malformed(source, number, expected, hour.decode("latin-1"))
            previous, times = hour, _hour_and_weekday(source, number, hour)
        yield b"%b,%b,%b" % (click, times, others)


def _hour_and_weekday(source: Source, line: int, hour: bytes) -> bytes:
    try:
        time = datetime.datetime.strptime(hour.decode("latin-1"), "%y%m%d%H")
    except ValueError:
        raise malformed(source, line, "an hour as YYMMDDHH", hour.decode("latin-1")) from None
    return b"%d,%d" % (time.hour, time.weekday())


AVAZU = Recipe(
    layout=Layout("avazu", (("train.csv", "train"),), ("avazu", "avazu-ctr-prediction"), "avazu-ctr-prediction.zip"),
    description="40,428,967 mobile advertisements of ten days, clicked or not; 23 fields of time, place, app and device",
    citation=(
        "Steve Wang and Will Cukierski. 2014. Click-Through Rate Prediction. https://www.kaggle.com/c/avazu-ctr-prediction"
    ),
    licence="the rules of the Kaggle competition, which a person must accept: not to be redistributed",
    page="https://www.kaggle.com/c/avazu-ctr-prediction/data",
    source="a person must accept the rules of the competition",
    file_format=CSVFormat(quote=None),
    suffix=".csv",
    write=_write,
    schema=_schema,
    min_count=2,
    draws_split=False,
    header=",".join(_WRITTEN_COLUMNS).encode() + b"\n",
)
