"""`python deterministic_runs.py FOLDER`: undisturbed runs, and runs that are killed and go on, all with --deterministic."""

import contextlib
import sys
from pathlib import Path
from unittest import mock

import cli_runs
from cli_runs import COLUMNS, MODEL, done, write_csv

from keras_rafm.cli import run_directory

# Checkpoints are the first state, then one after every 2nd step and after each epoch: these are within an epoch.
MOMENTS = {"memory": (10,), "streaming": (7,)}


class Killed(BaseException):
    """Nothing of the tool catches it or tidies up after it: what is on disk is what SIGKILL would leave."""


@contextlib.contextmanager
def killed_at(number):
    """Die while the `number`th checkpoint is written."""
    left, keep = [number], run_directory._write

    def write(path, text):
        if path.name == "state.json":
            left[0] -= 1
            if left[0] == 0:
                raise Killed
        keep(path, text)

    def command_or_death(words):
        try:
            return own_main(words)
        except Killed:
            return "killed"

    own_main = cli_runs.main
    with mock.patch.object(run_directory, "_write", write), mock.patch.object(cli_runs, "main", command_or_death):
        yield


def flags(folder, kind):
    own = ["--train", folder / f"{kind}.csv", *COLUMNS, *MODEL, "--epochs", 3, "--deterministic"]
    if kind == "memory":
        return [*own, "--validation", folder / "validation.csv", "--checkpoint-steps", 2, "--patience", 3]
    return [*own, "--batch-size", 4096, "--memory-limit-mb", 1, "--checkpoint-steps", 2]


def run_all(folder):
    write_csv(folder / "memory.csv", 600, 0)
    write_csv(folder / "validation.csv", 150, 1)
    write_csv(folder / "streaming.csv", 25_000, 2)
    for kind, moments in MOMENTS.items():
        done("train", *flags(folder, kind), "--output", folder / kind)
        for moment in moments:
            run = folder / f"{kind}_killed_{moment}"
            with killed_at(moment):
                assert cli_runs.command("train", *flags(folder, kind), "--output", run).code == "killed"
            done("train", "--resume", "--output", run)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
