"""Run commands in this process or in their own, write small data files, and compare two runs."""

import contextlib
import io
import json
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import fastavro
import keras
import numpy as np

from keras_rafm.cli.main import main

COLUMNS = (
    *("--label", "clicked", "--column", "user=string_categorical", "--column", "item=integer_categorical"),
    *("--column", "genres=string_categorical,separator=|,combiner=mean", "--column", "price=float"),
)
MODEL = ("--ranks", "2,4", "--thresholds", "30", "--batch-size", "64", "--steps-per-execution", "2")
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 600, 150, 120


@dataclass
class Result:
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str

    def lines(self):
        """Return the lines on stderr, without progress bars."""
        lines = self.err.replace("\r", "\n").split("\n")
        return [line for line in lines if line.strip() and not re.search(r"\[\d\d:\d\d[<,].*(rows|steps|files)/s", line)]


def command(*words):
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    return Result(code, out.getvalue(), err.getvalue())


def done(*words):
    """Run a command in this process, and fail unless it succeeds."""
    result = command(*words)
    assert result.code == 0, result.err
    return result


def refused(*words):
    """Run a command in this process, and fail unless it exits with code 2."""
    result = command(*words)
    assert (result.code, "error of the program" in result.err) == (2, False), result.err
    return result


def process_of(*words, cwd=None):
    """Start a command in a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.Popen(
        [sys.executable, "-m", "keras_rafm", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment,
    )


def ended(process):
    """Wait for a process, and return its result."""
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, out, err)


def predictions(run, data, *flags):
    """Return scores and probabilities as `predict` prints them, float32 `[n, 2]`."""
    result = done("predict", run, "--data", data, *flags)
    return np.array([line.split(",") for line in result.out.splitlines()[1:]], np.float32)


def wait_for_checkpoint(run, epoch, process):
    """Wait until there is a checkpoint within an epoch, after at least `epoch` finished epochs."""
    end = time.monotonic() + 100
    while time.monotonic() < end and process.poll() is None:
        for path in Path(run, "checkpoints").glob("[0-9]*-*"):
            done_epochs, step, *_ = path.name.split("-")
            if int(done_epochs) >= epoch and int(step) > 0:
                return
        time.sleep(0.002)
    raise AssertionError(f"no checkpoint was written: {process.communicate()}")


def rows(number, seed):
    """Yield random rows: user, item, genres, price and label."""
    rng = random.Random(seed)
    for _ in range(number):
        user, item = rng.randrange(12) ** 2 // 8, rng.randrange(9)
        genres = "|".join(rng.sample("abcd", rng.randrange(3)))
        price = f"{rng.random():.4f}" if rng.random() > 0.1 else ""
        yield f"u{user}", item, genres, price, int(rng.random() < 0.2 + 0.6 * ((user + item) % 2))


def write_csv(path, number, seed, header=("user", "item", "genres", "price", "clicked")):
    """Write random rows as CSV, and return the path."""
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows(number, seed))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_avro(path, csv_lines):
    """Write the rows of a CSV file, given as lines, as Avro."""
    types = {"user": "string", "item": "long", "genres": "string", "price": ["null", "double"], "clicked": "long"}
    parse = {"string": str, "long": int}
    records = [
        {
            name: (float(text) if text else None) if name == "price" else parse[types[name]](text)
            for name, text in zip(types, line.split(","), strict=True)
        }
        for line in csv_lines[1:]
    ]
    fields = [{"name": name, "type": kind} for name, kind in types.items()]
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema({"type": "record", "name": "row", "fields": fields}), records)


def write_splits(folder):
    """Write train.csv, validation.csv and test.csv."""
    for seed, (split, number) in enumerate((("train", NUM_TRAIN), ("validation", NUM_VALIDATION), ("test", NUM_TEST))):
        write_csv(folder / f"{split}.csv", number, seed)


def state_of(run):
    """Return the state in the only checkpoint of a run."""
    (path,) = Path(run, "checkpoints").glob("[0-9]*")
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def variables_of(run):
    """Return all variables in the last checkpoint (0) and in the best model (1), by this number and their path."""
    (path,) = Path(run, "checkpoints").glob("[0-9]*")
    files = [path / "model.keras", *sorted(Path(run, "best").glob("*.keras"))]
    variables = {}
    for index, file in enumerate(files):
        model = keras.saving.load_model(file)
        for variable in (*model.variables, *model.optimizer.variables):
            variables[index, variable.path] = keras.ops.convert_to_numpy(variable.value)
    return variables


def assert_equal_runs(run, expected_run, tolerance=0.0):
    """Assert that two runs have the same variables and, but for times and losses in the history, the same state."""
    actual, expected = variables_of(run), variables_of(expected_run)
    assert [index for index, _ in actual] == [index for index, _ in expected]
    for (key, value), expected_value in zip(actual.items(), expected.values(), strict=True):
        np.testing.assert_allclose(value, expected_value, rtol=0, atol=tolerance, err_msg=str(key))
    state, expected_state = state_of(run), state_of(expected_run)
    epochs, expected_epochs = ([logs["epoch"] for logs in s.pop("history")] for s in (state, expected_state))
    assert epochs == expected_epochs
    best_loss, expected_best_loss = state.pop("best_loss"), expected_state.pop("best_loss")
    assert abs(best_loss - expected_best_loss) <= tolerance or state["best_epoch"] is None
    assert state == expected_state
