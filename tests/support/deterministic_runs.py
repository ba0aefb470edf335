"""Train runs with --deterministic: some undisturbed, some killed and resumed.

`python deterministic_runs.py FOLDER`
"""

import contextlib
import itertools
import shutil
import sys
from pathlib import Path
from unittest import mock

import cli_runs
from cli_runs import COLUMNS, MODEL, done, write_csv

from keras_rafm.cli import run_directory

# The checkpoints that are being written when a run is killed. They are within an epoch: checkpoints are written at the
# beginning, after every second step and after each epoch.
MOMENTS = {"memory": (10,), "streaming": (7,)}


class Killed(BaseException):
    """Stands for SIGKILL."""


@contextlib.contextmanager
def killed_at(number, run):
    """Kill a command while it writes the `number`th checkpoint of `run`, and leave on disk what SIGKILL would leave."""
    main, write_text = cli_runs.main, run_directory.write_text
    num_written = itertools.count(1)
    at_death = Path(f"{run}_at_death")

    def write_or_die(path, text):
        if path.name == "state.json" and next(num_written) == number:
            shutil.copytree(run, at_death)  # before the command tidies up
            raise Killed
        write_text(path, text)

    def main_or_death(words):
        try:
            return main(words)
        except Killed:
            shutil.rmtree(run)
            at_death.rename(run)
            return "killed"

    with mock.patch.object(run_directory, "write_text", write_or_die), mock.patch.object(cli_runs, "main", main_or_death):
        yield


def flags(folder, kind):
    """Return the flags of a run that holds its data in memory, or reads them in every epoch (streaming)."""
    common = ["--train", folder / f"{kind}.csv", *COLUMNS, *MODEL, "--epochs", 3, "--deterministic"]
    if kind == "memory":
        return [*common, "--validation", folder / "validation.csv", "--checkpoint-steps", 2, "--patience", 3]
    return [*common, "--batch-size", 4096, "--memory-limit-mb", 1, "--checkpoint-steps", 2]


def run_all(folder):
    """Train all runs. The name of a run is its kind, with the moment at which it was killed."""
    write_csv(folder / "memory.csv", 600, 0)
    write_csv(folder / "validation.csv", 150, 1)
    write_csv(folder / "streaming.csv", 25_000, 2)
    for kind, moments in MOMENTS.items():
        done("train", *flags(folder, kind), "--output", folder / kind)
        for moment in moments:
            run = folder / f"{kind}_killed_{moment}"
            with killed_at(moment, run):
                assert cli_runs.command("train", *flags(folder, kind), "--output", run).code == "killed"
            done("train", "--resume", "--output", run)


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
