"""Help texts and versions."""

import subprocess
import sys
import time

import pytest
from cli_runs import command, done

pytestmark = pytest.mark.one_tensorflow

COMMANDS = ["count", "plan", "train", "evaluate", "predict", "export", "describe"]


def help_of(name):
    return " ".join(command(name, "--help").out.split())


def test_help_answers_at_once_without_tensorflow():
    start = time.monotonic()
    code = "import sys; sys.argv = ['keras-rafm', '--help']\ntry:\n from keras_rafm.cli.main import main; main()\n"
    code += "finally:\n print([name for name in ('tensorflow', 'keras', 'numpy') if name in sys.modules])"
    as_code = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 1
    assert as_code.stdout.splitlines()[-1] == "[]"
    start = time.monotonic()
    as_module = subprocess.run([sys.executable, "-m", "keras_rafm", "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - start < 1
    assert as_module.stderr == ""
    for name in (*COMMANDS, "examples:"):
        assert name in as_module.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(name):
    result = command(name, "--help")
    assert result.code == 0
    assert "\n  keras-rafm " + name in result.out.partition("example")[2]


def test_defaults_in_the_help_are_those_of_the_settings():
    text = help_of("train")
    for default in ("--learning-rate X learning rate; default: 0.004", "increasing; default: 4,32", "0 --steps-per"):
        assert default in text


def test_help_on_patience_and_predictions():
    assert "requires validation data" in help_of("train")
    text = help_of("predict")
    assert "Skipped rows have no line in the output" in text
    assert "if the run was given --format or --dataset, otherwise inferred from the file names" in text


def test_without_a_command_the_help_is_printed():
    result = command()
    assert (result.code, "usage: keras-rafm" in result.out) == (2, True)


def test_versions():
    assert "TensorFlow" in done("--version").out
