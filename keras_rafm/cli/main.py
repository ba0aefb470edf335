"""The entry point of the command line: it checks a command, runs it, and returns an exit code.

Exit codes:

    0    success
    1    an error of the program, or training that diverged
    2    the command can't be carried out; the printed message says why
    130  interrupted by Ctrl-C
    143  ended by SIGTERM
    129  ended by SIGHUP
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import re
import shlex
import sys
import tempfile
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_rafm.cli.checks import check
from keras_rafm.cli.errors import DivergedError
from keras_rafm.cli.parser import parse
from keras_rafm.cli.signals import Ended, signals_raised

_DONE, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130
_SIGNAL = 128  # plus the number of the signal, as in shells

#: Command -> the module with a function of that name.
_MODULES = {
    "count": "keras_rafm.cli.commands.count",
    "plan": "keras_rafm.cli.commands.count",
    "train": "keras_rafm.cli.commands.train",
    "evaluate": "keras_rafm.cli.commands.evaluate",
    "predict": "keras_rafm.cli.commands.evaluate",
    "export": "keras_rafm.cli.commands.export",
    "describe": "keras_rafm.cli.commands.describe",
    "print_versions": "keras_rafm.cli.commands.describe",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The arguments, by default those of the process.

    Returns:
        The exit code.
    """
    parsed = parse(arguments)
    try:
        with signals_raised():
            if parsed.version:
                _function("print_versions")(parsed)
            else:
                check(parsed)
                _function(parsed.command)(parsed)
    except Ended as ended:
        with contextlib.suppress(OSError):  # after SIGHUP there may be no terminal
            print(f"\nended by {ended}{_resume_hint(parsed)}", file=sys.stderr)
        return _SIGNAL + ended.number
    except KeyboardInterrupt:
        print("\ninterrupted" + _resume_hint(parsed), file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # as in `keras-rafm predict … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes the rest at exit
        return _FAILED if parsed.command == "train" else _DONE
    except DivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED
    except Exception as error:
        if getattr(parsed, "debug", False):
            traceback.print_exc()
        elif not _is_about_input(error):
            print("this is an error of the program; --debug shows where it comes from", file=sys.stderr)
        print(f"error: {_message(error)}", file=sys.stderr)
        return _USAGE if _is_about_input(error) else _FAILED
    return _DONE


def _function(name: str) -> Callable[[Namespace], None]:
    """Import the function that runs a command, and with it TensorFlow."""
    with _without_noise():
        module = importlib.import_module(_MODULES[name])
    function: Callable[[Namespace], None] = getattr(module, name)
    return function


def _resume_hint(parsed: Namespace) -> str:
    if parsed.command != "train":
        return ""
    if not (Path(parsed.output) / "settings.json").is_file():
        return " before the first checkpoint: start the training again"
    return f"; continue from the last checkpoint with: keras-rafm train --resume --output {shlex.quote(parsed.output)}"


def _is_about_input(error: Exception) -> bool:
    """Return whether an error is due to the command or its files."""
    if isinstance(error, ValueError | TypeError | OSError | ImportError):
        return True
    return type(error).__module__.startswith("tensorflow.python.framework.errors") and bool(_inner_message(str(error)))


def _message(error: Exception) -> str:
    """Return the message of an error, without the text that TensorFlow puts around it."""
    text = str(error)
    return _inner_message(text) or text or type(error).__name__


def _inner_message(text: str) -> str | None:
    """Return the message of an exception that a Python reader raised in a dataset, or of a check in a graph."""
    kinds = "MalformedRowError|EmptyFileError|ValueError|FileNotFoundError|OSError|ImportError"
    python = re.search(rf"^(?:.*\}}\}} )?(?:{kinds}): (.*)$", text, re.MULTILINE)
    if python:
        return python[1]
    assertion = re.search(r"assertion failed: \[(.*?)\] (\[.*?\])(?:\n|$)", text, re.DOTALL)
    return f"{assertion[1]} {assertion[2]}".replace("\\'", "'") if assertion else None


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Hold back what TensorFlow prints when it is imported, and print it only if the import fails."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
