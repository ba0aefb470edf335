import json

import pytest
from cli_runs import command

from keras_rafm.cli.parser import given_settings, parse
from keras_rafm.cli.settings import Settings, UsageError, read_config

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
    return Settings.of(given_settings(parse(["train", "--output", "unused", *words])), "settings")


@pytest.mark.parametrize("ending", CONFIGS)
def test_flags_go_over_the_config_and_that_over_defaults(tmp_path, ending):
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
    ("ending", "text", "said"),
    [
        ("toml", "epoch = 3", r"unknown settings \['epoch'\].*epochs"),
        ("toml", "epochs = 2.5", "`epochs` must be a whole number. Received: 2.5"),
        ("toml", "epochs = true", "`epochs` must be a whole number. Received: True"),
        ("toml", "deterministic = 1", "`deterministic` must be true or false. Received: 1"),
        ("toml", 'learning_rate = "fast"', "`learning_rate` must be a number. Received: 'fast'"),
        ("toml", 'ranks = ["4"]', "`ranks` must be a whole number. Received: '4'"),
        ("toml", "label = 3", "`label` must be text. Received: 3"),
        ("toml", 'columns = ["user"]', "`columns` must be a table"),
        ("yaml", "columns: user", "`columns` must be a table"),
        ("toml", "epochs = ", r"c\.toml can't be read"),
        ("yaml", "a: [", r"c\.yaml can't be read"),
        ("json", "{", r"c\.json can't be read"),
        ("json", "[1]", r"c\.json must hold settings by name"),
        ("ini", "a = 1", "must end with .toml, .yaml or .json"),
    ],
)
def test_what_is_wrong_with_a_config_is_said(tmp_path, ending, text, said):
    path = tmp_path / f"c.{ending}"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        settings_of("--config", str(path))


def test_a_config_that_is_no_utf8_is_named(tmp_path):
    path = tmp_path / "c.toml"
    path.write_bytes(b'label = "\xff"')
    with pytest.raises(UsageError, match=r"c\.toml can't be read"):
        read_config(str(path))


def test_an_absent_config_is_named(tmp_path):
    result = command("train", "--config", tmp_path / "no.toml", "--output", tmp_path / "run")
    assert result.code == 2
    assert "no.toml" in result.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--ranks", "8,4"], "--ranks must be positive and increasing, at least one. Received: 8,4"),
        (["--ranks", "0,4"], "--ranks must be positive"),
        (["--ranks", "2,4,8"], "Received: thresholds 50 for ranks 2,4,8"),
        (["--thresholds", "1,2"], "--thresholds must be one less than --ranks"),
        (["--epochs", "0"], "--epochs must be at least 1. Received: 0"),
        (["--checkpoint-steps", "0"], "--checkpoint-steps must be at least 1"),
        (["--learning-rate", "-1"], "--learning-rate must be a finite number above 0"),
        (["--learning-rate", "nan"], "--learning-rate must be a finite number above 0"),
        (["--seed", "-1"], "--seed must be from 0"),
    ],
)
def test_values_out_of_range_are_said_with_their_flag(flags, said):
    with pytest.raises(UsageError, match=said.replace("*", r"\*")):
        settings_of(*flags)


def test_one_rank_needs_no_threshold():
    assert settings_of("--ranks", "8").thresholds == ()


def test_options_of_a_column_may_hold_commas():
    column = settings_of("--column", r"tags=string_categorical,separator=\,,weight_separator=:,min_count=2").columns["tags"]
    assert column == {"kind": "string_categorical", "separator": ",", "weight_separator": ":", "min_count": 2}
    assert settings_of("--column", "t=string_categorical,separator=;").columns["t"]["separator"] == ";"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--column", "tags=string_categorical,separator=,"], r"a comma in a value is written '\,'"),
        (["--column", "tags=string_categorical,x"], "expected OPTION=VALUE, received 'x'"),
        (["--column", "tags"], "expected NAME=KIND"),
        (["--ranks", "4,x"], "argument --ranks: invalid list of int value: '4,x'"),
        (["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["--optimizer", "SGD"], "argument --optimizer: invalid choice"),
    ],
)
def test_flags_that_cannot_be_read_end_with_2(words, said):
    result = command("train", "--output", "unused", *words)
    assert result.code == 2
    assert said in result.err


def test_paths_become_absolute_but_for_remote_ones_and_homes():
    settings = Settings(train=("a.csv", "s3://b/c.csv"), path="~/d").with_absolute_paths()
    assert settings.train[0].startswith("/")
    assert settings.train[0].endswith("/a.csv")
    assert (settings.train[1], settings.path) == ("s3://b/c.csv", "~/d")
