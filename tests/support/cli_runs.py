"""Commands in this process and in their own, tiny data, and what two runs have in common."""

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
    code: int
    out: str
    err: str

    def lines(self):
        """What is on stderr but for bars."""
        lines = self.err.replace("\r", "\n").split("\n")
        return [line for line in lines if line.strip() and not re.search(r"\[\d\d:\d\d[<,].*(rows|steps|files)/s", line)]


def command(*words):
    """A command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    return Result(code, out.getvalue(), err.getvalue())


def done(*words):
    """A command that has to succeed."""
    result = command(*words)
    assert result.code == 0, result.err
    return result


def process_of(*words, cwd=None):
    """A command in a process of its own."""
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
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, out, err)


def wait_for_checkpoint(run, epoch, process):
    """Until there is one within an epoch, not before `epoch` ones are done."""
    end = time.monotonic() + 100
    while time.monotonic() < end and process.poll() is None:
        for path in Path(run, "checkpoints").glob("[0-9]*-*"):
            done_epochs, step, *_ = path.name.split("-")
            if int(done_epochs) >= epoch and int(step) > 0:
                return
        time.sleep(0.002)
    raise AssertionError(f"no checkpoint came: {process.communicate()}")


def rows(number, seed):
    rng = random.Random(seed)
    for _ in range(number):
        user, item = rng.randrange(12) ** 2 // 8, rng.randrange(9)
        genres = "|".join(rng.sample("abcd", rng.randrange(3)))
        price = f"{rng.random():.4f}" if rng.random() > 0.1 else ""
        yield f"u{user}", item, genres, price, int(rng.random() < 0.2 + 0.6 * ((user + item) % 2))


def write_csv(path, number, seed, header=("user", "item", "genres", "price", "clicked")):
    lines = [",".join(header), *(",".join(map(str, row)) for row in rows(number, seed))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def files_of_splits(folder):
    """Flags that name files, which are written."""
    flags = []
    for seed, (split, number) in enumerate((("train", NUM_TRAIN), ("validation", NUM_VALIDATION), ("test", NUM_TEST))):
        flags += [f"--{split}", str(write_csv(folder / f"{split}.csv", number, seed))]
    return flags


def state_of(run):
    (path,) = Path(run, "checkpoints").glob("[0-9]*")
    return json.loads((path / "state.json").read_text(encoding="utf-8"))


def variables_of(run):
    """All weights and all variables of the optimizer of the last checkpoint, and of the best model."""
    (path,) = Path(run, "checkpoints").glob("[0-9]*")
    models = [path / "model.keras", *sorted(Path(run, "best").glob("*.keras"))]
    found = {}
    for place, file in enumerate(models):
        model = keras.saving.load_model(file)
        for own in (*model.variables, *model.optimizer.variables):
            found[place, own.path] = keras.ops.convert_to_numpy(own.value)
    return found


def assert_equal_runs(one, other, tolerance=0.0):
    ones, others = variables_of(one), variables_of(other)
    assert [place for place, _ in ones] == [place for place, _ in others]
    for (key, a), b in zip(ones.items(), others.values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance, err_msg=str(key))
    a, b = state_of(one), state_of(other)
    assert [own["epoch"] for own in a.pop("history")] == [own["epoch"] for own in b.pop("history")]
    assert abs(a.pop("best_loss") - b.pop("best_loss")) <= tolerance or a["best_epoch"] is None
    assert a == b
