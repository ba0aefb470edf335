"""Settings from config files and flags."""

import json
import re

import pytest
from cli_runs import command, done, refused, write_csv

from keras_rafm.cli import parser
from keras_rafm.cli.errors import UsageError
from keras_rafm.cli.parser import parse
from keras_rafm.cli.settings import Settings, read_config

pytestmark = pytest.mark.one_tensorflow

CONFIGS = {
    "toml": """
label = "clicked"
ranks = [2, 8]
learning-rate = 1
train = "a.csv"
[columns]
user = "string_categorical"
[columns.genres]
kind = "string_categorical"
separator = "|"
""",
    "yaml": """
label: clicked
ranks: [2, 8]
learning_rate: 1e0
train: a.csv
columns:
  user: string_categorical
  genres: {kind: string_categorical, separator: "|"}
""",
    "json": json.dumps(
        {
            "label": "clicked",
            "ranks": [2, 8],
            "learning_rate": 1.0,
            "train": ["a.csv"],
            "columns": {"user": "string_categorical", "genres": {"kind": "string_categorical", "separator": "|"}},
        }
    ),
}


def settings_of(*words):
    """Return the settings of `train` with the given flags."""
    return parser.settings_of(parse(["train", "--output", "unused", *words]))


@pytest.mark.parametrize("ending", CONFIGS)
def test_flags_override_the_config_file_which_overrides_defaults(tmp_path, ending):
    path = tmp_path / f"config.{ending}"
    path.write_text(CONFIGS[ending], encoding="utf-8")
    flags = ("--ranks", "3,9", "--column", "user=string_hashed,num_bins=7", "--column", "n=float", "--epochs", "2")
    settings = settings_of("--config", str(path), *flags)
    assert (settings.label, settings.train, settings.learning_rate) == ("clicked", ("a.csv",), 1.0)
    assert (settings.ranks, settings.epochs, settings.batch_size) == ((3, 9), 2, Settings().batch_size)
    assert settings.columns == {
        "user": {"kind": "string_hashed", "num_bins": 7},
        "genres": {"kind": "string_categorical", "separator": "|"},
        "n": {"kind": "float"},
    }
    assert Settings.from_json(settings.as_json(), "here") == settings


@pytest.mark.parametrize(
    ("ending", "text", "message"),
    [
        ("toml", "epoch = 3", r"c\.toml: unknown setting 'epoch'; did you mean 'epochs'\?"),
        ("toml", "zzz = 3", r"c\.toml: unknown setting 'zzz'; `keras-rafm train --help` lists all settings"),
        ("toml", "epochs = 0", r"c\.toml: --epochs must be at least 1. Received: 0"),
        ("toml", "ranks = [2, 4, 8]", r"c\.toml: --thresholds must be one fewer than --ranks"),
        ("toml", "epochs = 2.5", r"c\.toml: `epochs` must be an integer. Received: 2.5"),
        ("toml", "epochs = true", "`epochs` must be an integer. Received: True"),
        ("toml", "deterministic = 1", "`deterministic` must be true or false. Received: 1"),
        ("toml", 'learning_rate = "fast"', "`learning_rate` must be a number. Received: 'fast'"),
        ("toml", 'ranks = ["4"]', "`ranks` must be an integer. Received: '4'"),
        ("toml", "label = 3", "`label` must be a string. Received: 3"),
        ("toml", 'columns = ["user"]', "`columns` must be a table"),
        ("yaml", "columns: user", "`columns` must be a table"),
        ("toml", "epochs = ", r"c\.toml can't be read"),
        ("yaml", "a: [", r"c\.yaml can't be read"),
        ("json", "{", r"c\.json can't be read"),
        ("json", "[1]", r"c\.json must hold settings by name"),
        ("ini", "a = 1", "must end with .toml, .yaml, .yml or .json"),
    ],
)
def test_errors_in_a_config_file(tmp_path, ending, text, message):
    path = tmp_path / f"c.{ending}"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=message):
        settings_of("--config", str(path))


def test_a_config_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(b'label = "\xff"')
    with pytest.raises(UsageError, match=r"c\.toml can't be read"):
        read_config(str(path))


def test_a_missing_config_file(tmp_path):
    result = refused("train", "--config", tmp_path / "no.toml", "--output", tmp_path / "run")
    assert result.err == f"error: file not found: {tmp_path / 'no.toml'}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ranks", "8,4"], "--ranks must be positive and increasing, at least one. Received: 8,4"),
        (["--ranks", "0,4"], "--ranks must be positive"),
        (["--ranks", "2,4,8"], "Received: thresholds 50 for ranks 2,4,8"),
        (["--thresholds", "1,2"], "--thresholds must be one fewer than --ranks"),
        (["--epochs", "0"], "--epochs must be at least 1. Received: 0"),
        (["--checkpoint-steps", "0"], "--checkpoint-steps must be at least 1"),
        (["--min-count", "0"], "--min-count must be at least 1"),
        (["--idle-decay", "-1"], "--idle-decay must be a finite number of at least 0. Received: -1"),
        (["--dependent-loss-weight", "inf"], "--dependent-loss-weight must be a finite number of at least 0"),
        (["--learning-rate", "-1"], "--learning-rate must be a finite number above 0"),
        (["--learning-rate", "nan"], "--learning-rate must be a finite number above 0"),
        (["--seed", "-1"], "--seed must be from 0"),
        (["--ranks", "2,4,8", "--thresholds", "9,9"], "--thresholds must be non-negative and increasing. Received: 9,9"),
        (["--thresholds", "-1"], "--thresholds must be non-negative and increasing. Received: -1"),
        (["--thresholds", "nan"], "--thresholds must be non-negative and increasing. Received: nan"),
    ],
)
def test_errors_for_values_out_of_range_name_the_flag(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        settings_of(*flags)


def test_a_single_rank_needs_no_threshold():
    assert settings_of("--ranks", "8").thresholds == ()


def test_options_of_a_column_may_contain_commas():
    column = settings_of("--column", r"tags=string_categorical,separator=\,,weight_separator=:,min_count=2").columns["tags"]
    assert column == {"kind": "string_categorical", "separator": ",", "weight_separator": ":", "min_count": 2}
    assert settings_of("--column", "t=string_categorical,separator=;").columns["t"]["separator"] == ";"


def test_string_options_of_a_column_stay_strings_and_boundaries_are_numbers():
    words = ("--column", r"a=string_categorical,separator=\t,weight_separator=1,weights=2,min_count=3")
    options = settings_of(*words, "--column", "b=float_discretized,bin_boundaries=0;1.5;10").columns
    assert options["a"] == {
        "kind": "string_categorical",
        "separator": "\t",
        "weight_separator": "1",
        "weights": "2",
        "min_count": 3,
    }
    assert options["b"]["bin_boundaries"] == [0.0, 1.5, 10.0]
    assert "bin_boundaries=0;1.5;10" in command("train", "--help").out


def test_the_schema_has_the_boundaries_and_tabs_of_the_flags(tmp_path):
    file = write_csv(tmp_path / "a.csv", 0, 0)
    file.write_text("price,tags\n0.5,a\tb\n3,b\n20,a\n")
    columns = ("--column", "price=float_discretized,bin_boundaries=1;10")
    columns = (*columns, "--column", r"tags=string_categorical,separator=\t")
    assert "price: [-inf, 1) 1, [1, 10) 1, [10, inf) 1\ntags: a 2, b 2" in done("count", "--train", file, *columns).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--column", "tags=string_categorical,separator=,"], r"write a comma in a value as '\,'"),
        (["--column", "tags=string_categorical,x"], "expected OPTION=VALUE, received 'x'"),
        (["--column", "tags"], "expected NAME=KIND"),
        (["--column", "a=float", "--column", "b=float", "--column", "a=float"], "'a' is declared 2 times, expected once"),
        (["--column", "a=string_hashed,num_bins=3,num_bins=4"], "'num_bins' is repeated in"),
        (["--column", "a=float_discretized,bin_boundaries=1:2"], "received 'bin_boundaries=1:2'"),
        (["--ranks", "4,x"], "argument --ranks: invalid list of int value: '4,x'"),
        (["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["--optimizer", "SGD"], "argument --optimizer: invalid choice"),
    ],
)
def test_flags_that_can_not_be_parsed(words, message):
    assert message in refused("train", "--output", "unused", *words).err


def test_only_local_paths_become_absolute():
    settings = Settings(train=("a.csv", "s3://b/c.csv")).with_absolute_paths()
    assert settings.train[0].startswith("/")
    assert settings.train[0].endswith("/a.csv")
    assert settings.train[1] == "s3://b/c.csv"


def test_home_directories_in_flags_and_config_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.toml").write_text('test = ["~/t.csv", "s3://~/t.csv"]\ncache_dir = "~/cache"')
    write_csv(tmp_path / "a.csv", 9, 0)
    settings = settings_of("--config", "~/c.toml", "--train", "~/*.csv")
    assert settings.train == (f"{tmp_path}/*.csv",)
    assert settings.test == (f"{tmp_path}/t.csv", "s3://~/t.csv")
    assert settings.cache_dir == f"{tmp_path}/cache"
    done("count", "--train", "~/*.csv", "--column", "price=float", "--output", "~/schema")
    assert (tmp_path / "schema" / "schema.json").is_file()


def test_null_in_a_config_file_means_the_default(tmp_path):
    path = tmp_path / "c.json"
    config = dict.fromkeys(("label", "train", "ranks", "thresholds", "epochs", "columns", "deterministic", "idle_decay"))
    path.write_text(json.dumps(config))
    assert settings_of("--config", str(path)) == Settings()
