"""What commands check in a process that can't import TensorFlow."""

import inspect
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
from cli_runs import COLUMNS, command, done, write_csv

import keras_rafm.cli
from keras_rafm.checks.arguments import Task
from keras_rafm.cli import choices
from keras_rafm.cli.commands.run import Run
from keras_rafm.data import Schema
from keras_rafm.data.columns.declarations import ColumnDeclarations
from keras_rafm.data.formats import by_name
from keras_rafm.data.known import entry
from keras_rafm.files import format_names
from keras_rafm.lazy_imports import KERAS_CLASSES
from keras_rafm.serving.export import export
from keras_rafm.serving.signatures import SIGNATURES

pytestmark = pytest.mark.one_tensorflow

BLOCKED = ("tensorflow", "keras", "numpy", "pandas", "pyarrow", "duckdb", "fastavro")
RUN_COMMANDS = f"""
import contextlib, io, json, sys, time
for name in {BLOCKED}:
    sys.modules[name] = None
from keras_rafm.cli.main import main
results = []
for words in json.loads(sys.stdin.read()):
    err, start = io.StringIO(), time.process_time()
    with contextlib.redirect_stderr(err):
        try:
            code = main(words)
        except SystemExit as end:
            code = end.code
    results.append([code, err.getvalue(), time.process_time() - start])
print(json.dumps(results))
"""


def run_blocked(*commands):
    """Run commands in one process that can't import TensorFlow, and return exit code, stderr and CPU seconds of each."""
    text = json.dumps([[str(word) for word in words] for words in commands])
    process = subprocess.run([sys.executable, "-c", RUN_COMMANDS], input=text, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, data, trained):
    """Files that the commands of `MISTAKES` name, relative to this folder."""
    folder = tmp_path_factory.mktemp("blocked")
    write_csv(folder / "data.csv", 5, 0)
    (folder / "data.xyz").write_text("")
    (folder / "a.parquet").write_text("")
    (folder / "empty").mkdir()
    (folder / "unknown_key.toml").write_text("epoch = 3")
    (folder / "used").mkdir()
    (folder / "used" / "file").write_text("")
    (folder / "run").symlink_to(trained[0])
    return folder


TRAIN = ["train", "--output", "new", "--train", "data.csv"]
DECLARED = [*TRAIN, *COLUMNS]
MISTAKES = [
    (["predict", "no/such/run", "--data", "data.csv"], "no/such/run holds no run: it has no settings.json"),
    (["evaluate", "empty"], "empty holds no run: it has no settings.json"),
    (["evaluate", "run", "--data", "absent.csv"], "file not found: absent.csv"),
    (["predict", "run", "--data", "absent*.csv"], "no file matches the pattern absent*.csv"),
    (["predict", "run", "--data", "empty"], "the folder empty contains no files"),
    (["predict", "run", "--data", "data.xyz"], "data.xyz: the format can't be inferred from the file name"),
    (["predict", "run", "--data", "data.csv", "a.parquet"], "files must have the same format. Received: data.csv (csv)"),
    (["predict", "run", "--data", "a.parquet", "--quote", "x"], "for the formats csv and tsv. Received: format parquet"),
    (["predict", "run", "--data", "data.csv", "--output", "empty"], "--output must be a file in an existing directory"),
    (["predict", "run", "--data", "data.csv", "--output", "no/p.csv"], "--output must be a file in an existing directory"),
    (["predict", "run", "--data", "data.csv", "--output", "data.csv"], "--output must not be one of the files of --data"),
    (["predict", "run", "--data", "data.csv", "--batch-size", "0"], "--batch-size: must be at least 1. Received: 0"),
    (["export", "empty", "model"], "empty holds no run"),
    (["export", "run", "model", "--level", "3"], "--level must be in 1 … 2, the levels of the run. Received: 3"),
    (["export", "run", "model", "--signatures", "row"], "--signatures must be among serving_default"),
    (["export", "run", "data.csv"], "the model directory is a file: data.csv"),
    (["export", "run", "model", "--warm-up", "absent.csv"], "file not found: absent.csv"),
    (["describe", "empty"], "empty holds no run, no schema and no exported model"),
    (["plan", "--schema", "empty"], "empty holds no run, no schema and no exported model"),
    (["plan", "--train", "data.csv", "--try", "1,2"], "--try must be one fewer than --ranks"),
    (["plan", "--train", "data.csv", "--try=-5"], "--try must be non-negative and increasing. Received: -5"),
    (["count", "--train", "data.csv", *COLUMNS, "--output", "used"], "--output must be a new or empty directory"),
    (["train", "--output", "new"], "name the data: --train with files, or --dataset"),
    (["train", "--output", "new", "--train", "absent.csv"], "file not found: absent.csv"),
    (["train", "--output", "new", "--dataset", "frape"], "did you mean 'frappe'?"),
    (["train", "--output", "new", "--dataset", "frappe", "--label", "x"], "leave out --label"),
    (["train", "--output", "new", "--config", "absent.toml"], "file not found: absent.toml"),
    (["train", "--output", "new", "--config", "unknown_key.toml"], "unknown setting 'epoch'; did you mean 'epochs'?"),
    (["train", "--output", "used", "--train", "data.csv"], "used is not empty: choose another directory with --output"),
    (["train", "--output", "run", "--resume", "--seed", "3"], "Leave out --seed"),
    (["train", "--output", "empty", "--resume"], "empty holds no run"),
    (TRAIN, "declare the columns: --column NAME=KIND"),
    ([*TRAIN, "--column", "user=string_categorical"], "name the column of labels: --label"),
    ([*TRAIN, "--format", "libfm", "--label", "y"], "libFM files have fixed columns"),
    ([*DECLARED, "--column", "x=string"], "column 'x': the kind must be one of string_categorical"),
    ([*DECLARED, "--column", "x=float,b=3"], "column 'x': float has no option 'b'. Its options are: scaling"),
    ([*DECLARED, "--column", "x=string_hashed"], "column 'x': string_hashed requires the option 'num_bins'"),
    ([*DECLARED, "--ranks", "8,4"], "--ranks must be positive and increasing"),
    ([*DECLARED, "--thresholds", "1,2"], "--thresholds must be one fewer than --ranks"),
    ([*DECLARED, "--factors-l2", "-1"], "--factors-l2 must be a finite number of at least 0. Received: -1"),
]


def test_mistakes_are_reported_at_once(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(keras_rafm.cli.__file__).parents[2]))
    before = sorted(folder.iterdir())
    results = run_blocked(*(words for words, _ in MISTAKES))
    for (words, message), (code, err, seconds) in zip(MISTAKES, results, strict=True):
        assert code == 2, (words, err)
        assert message in err, words
        assert "error of the program" not in err, words
        assert seconds < 0.5, words
    assert sorted(folder.iterdir()) == before


def test_mistakes_are_reported_in_the_same_way_with_tensorflow(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for words, message in MISTAKES:
        result = command(*words)
        assert (result.code, message in result.err) == (2, True), words


def test_a_whole_process_takes_less_than_a_second(tmp_path):
    start = time.monotonic()
    words = ("-m", "keras_rafm", "predict", tmp_path / "no" / "run", "--data", "x")
    process = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    assert time.monotonic() - start < 1
    assert process.returncode == 2
    assert process.stderr == f"error: {tmp_path / 'no' / 'run'} holds no run: it has no settings.json\n"


def test_a_correct_command_needs_tensorflow(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(keras_rafm.cli.__file__).parents[2]))
    ((code, err, _),) = run_blocked(["predict", "run", "--data", "data.csv"])
    assert code == 2
    assert "import of" in err


@pytest.mark.parametrize("name", ["[d]ata.csv", "dat\\a*.csv"])
def test_patterns_that_python_matches_otherwise_are_left_to_tensorflow(trained, data, tmp_path, name):
    write_csv(tmp_path / "data.csv", 5, 0)
    assert len(done("predict", trained[0], "--data", tmp_path / name).out.splitlines()) == 6


def test_kinds_and_options_of_columns():
    makers = {
        name: inspect.signature(maker)
        for name, maker in vars(ColumnDeclarations).items()
        if isinstance(maker, staticmethod) and not name.startswith("_")
    }
    assert issubclass(Schema, ColumnDeclarations)
    assert set(makers) == set(choices.COLUMN_OPTIONS)
    for kind, signature in makers.items():
        assert set(choices.COLUMN_OPTIONS[kind]) == set(signature.parameters)
        required = [name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty]
        assert required == [option for key, option in choices.REQUIRED_COLUMN_OPTION.items() if key == kind]


def test_names_of_datasets_optimizers_signatures_and_tasks():
    assert tuple(entry._RECIPES) == choices.DATASETS
    registered = tuple(name for name, module in KERAS_CLASSES.items() if module.startswith("keras_rafm.optimizers."))
    assert registered == choices.OPTIMIZERS
    assert choices.SIGNATURES == SIGNATURES
    assert get_args(Task) == choices.TASKS


def test_formats_and_suffixes():
    assert tuple(by_name.FORMATS_BY_NAME) == format_names.FORMATS
    for suffix, name in format_names.FORMAT_OF_SUFFIX.items():
        assert by_name.format_of(f"a{suffix}") == by_name.FORMATS_BY_NAME[name]
    with pytest.raises(ValueError, match=", ".join(format_names.FORMAT_OF_SUFFIX)):
        by_name.format_of("a.xyz")


def test_precisions(trained, tmp_path):
    model = Run(trained[0]).model()
    for precision in choices.PRECISIONS:
        export(model, tmp_path / "model", signatures=[], precision=precision)
    with pytest.raises(ValueError, match=f"one of {', '.join(map(repr, choices.PRECISIONS))}. Received"):
        export(model, tmp_path / "model", signatures=[], precision="float16")
