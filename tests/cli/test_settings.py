import json

import pytest
from cli_runs import command, done, write_csv

from keras_rafm.cli import parser
from keras_rafm.cli.parser import parse
from keras_rafm.cli.settings import Settings, UsageError, read_config

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
    return parser.settings_of(parse(["train", "--output", "unused", *words]))


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
        ("toml", "epoch = 3", r"c\.toml: there is no setting 'epoch'; is 'epochs' meant\?"),
        ("toml", "zzz = 3", r"c\.toml: there is no setting 'zzz'; `keras-rafm train --help` shows which there are"),
        ("toml", "epochs = 0", r"c\.toml: --epochs must be at least 1. Received: 0"),
        ("toml", "ranks = [2, 4, 8]", r"c\.toml: --thresholds must be one less than --ranks"),
        ("toml", "epochs = 2.5", r"c\.toml: `epochs` must be a whole number. Received: 2.5"),
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
        (["--ranks", "2,4,8", "--thresholds", "9,9"], "--thresholds must be 0 or more and increasing. Received: 9,9"),
        (["--thresholds", "-1"], "--thresholds must be 0 or more and increasing. Received: -1"),
        (["--thresholds", "nan"], "--thresholds must be 0 or more and increasing. Received: nan"),
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


def test_options_of_a_column_that_are_text_stay_text_and_boundaries_are_numbers():
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


def test_boundaries_and_tabs_of_flags_are_those_of_the_schema(tmp_path):
    file = write_csv(tmp_path / "a.csv", 0, 0)
    file.write_text("price,tags\n0.5,a\tb\n3,b\n20,a\n")
    columns = ("--column", "price=float_discretized,bin_boundaries=1;10")
    columns = (*columns, "--column", r"tags=string_categorical,separator=\t")
    assert "price: [-inf, 1) 1, [1, 10) 1, [10, inf) 1\ntags: a 2, b 2" in done("count", "--train", file, *columns).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--column", "tags=string_categorical,separator=,"], r"a comma in a value is written '\,'"),
        (["--column", "tags=string_categorical,x"], "expected OPTION=VALUE, received 'x'"),
        (["--column", "tags"], "expected NAME=KIND"),
        (["--column", "a=float", "--column", "b=float", "--column", "a=float"], "'a' is declared 2 times, expected once"),
        (["--column", "a=string_hashed,num_bins=3,num_bins=4"], "expected each option once, received 'num_bins' twice"),
        (["--column", "a=float_discretized,bin_boundaries=1:2"], "received 'bin_boundaries=1:2'"),
        (["--ranks", "4,x"], "argument --ranks: invalid list of int value: '4,x'"),
        (["--epochs", "x"], "argument --epochs: invalid int value: 'x'"),
        (["--optimizer", "SGD"], "argument --optimizer: invalid choice"),
    ],
)
def test_flags_that_cannot_be_read_end_with_2(words, said):
    result = command("train", "--output", "unused", *words)
    assert result.code == 2
    assert said in result.err


def test_paths_become_absolute_but_for_remote_ones():
    settings = Settings(train=("a.csv", "s3://b/c.csv")).with_absolute_paths()
    assert settings.train[0].startswith("/")
    assert settings.train[0].endswith("/a.csv")
    assert settings.train[1] == "s3://b/c.csv"


def test_homes_in_flags_and_config(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.toml").write_text('test = ["~/t.csv", "s3://~/t.csv"]\ncache_dir = "~/cache"')
    write_csv(tmp_path / "a.csv", 9, 0)
    settings = settings_of("--config", "~/c.toml", "--train", "~/*.csv")
    assert settings.train == (f"{tmp_path}/*.csv",)
    assert settings.test == (f"{tmp_path}/t.csv", "s3://~/t.csv")
    assert settings.cache_dir == f"{tmp_path}/cache"
    done("count", "--train", "~/*.csv", "--column", "price=float", "--output", "~/schema")
    assert (tmp_path / "schema" / "schema.json").is_file()


def test_null_is_not_given(tmp_path):
    path = tmp_path / "c.json"
    nothing = dict.fromkeys(("label", "train", "ranks", "thresholds", "epochs", "columns", "deterministic", "idle_decay"))
    path.write_text(json.dumps(nothing))
    assert settings_of("--config", str(path)) == Settings()
