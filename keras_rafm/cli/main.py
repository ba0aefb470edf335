"""The entry of the command line tool: what runs a command, and what its end means.

Exit codes: 0 done; 1 an error of the program, or training that diverged; 2 what was asked can't be done, the message says
why; 130 interrupted; 143 and 129 ended by SIGTERM and SIGHUP.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_rafm.cli.parser import parse
from keras_rafm.cli.settings import DivergedError
from keras_rafm.cli.signals import Ended, signals_raised

_DONE, _FAILED, _USAGE, _INTERRUPTED = 0, 1, 2, 130
_SIGNAL = 128  # and the number of the signal, as in shells


def main(arguments: list[str] | None = None) -> int:
    """Run the command of `arguments`, by default those of the process.

    Returns:
        The exit code.
    """
    parsed = parse(arguments)
    try:
        with signals_raised():
            with _without_noise():
                import keras_rafm.cli.commands as commands
            if parsed.version:
                commands.print_versions()
            else:
                commands.run(parsed)
    except Ended as ended:
        with contextlib.suppress(OSError):  # after SIGHUP there may be no terminal
            print(f"\nended by {ended}{_resume_hint(parsed)}", file=sys.stderr)
        return _SIGNAL + ended.number
    except KeyboardInterrupt:
        print("\ninterrupted" + _resume_hint(parsed), file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:  # `keras-rafm predict … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter will flush what nobody reads
        return _FAILED if parsed.command == "train" else _DONE
    except DivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        return _FAILED
    except Exception as error:
        if getattr(parsed, "debug", False):
            traceback.print_exc()
        elif not _is_about_input(error):
            print("this is an error of the program; --debug shows where", file=sys.stderr)
        print(f"error: {_message(error)}", file=sys.stderr)
        return _USAGE if _is_about_input(error) else _FAILED
    return _DONE


def _resume_hint(parsed: Any) -> str:
    if parsed.command != "train":
        return ""
    if not (Path(parsed.output) / "settings.json").is_file():
        return " before there was a checkpoint to go on from: train anew"
    return f"; go on from the last checkpoint with: keras-rafm train --resume --output {shlex.quote(parsed.output)}"


def _is_about_input(error: Exception) -> bool:
    if isinstance(error, ValueError | TypeError | OSError | ImportError):
        return True
    return type(error).__module__.startswith("tensorflow.python.framework.errors") and bool(_in_reader(str(error)))


def _message(error: Exception) -> str:
    """Without what TensorFlow puts around the message of an exception in a reader."""
    found = _in_reader(str(error))
    return found or str(error) or type(error).__name__


def _in_reader(text: str) -> str | None:
    """The message of an exception that a Python reader raised inside a dataset, or of a check inside a graph."""
    kinds = "MalformedRowError|EmptyFileError|ValueError|FileNotFoundError|OSError|ImportError"
    python = re.search(rf"^(?:.*\}}\}} )?(?:{kinds}): (.*)$", text, re.MULTILINE)
    if python:
        return python[1]
    checked = re.search(r"assertion failed: \[(.*?)\] (\[.*?\])(?:\n|$)", text, re.DOTALL)
    return f"{checked[1]} {checked[2]}".replace("\\'", "'") if checked else None


@contextlib.contextmanager
def _without_noise() -> Iterator[None]:
    """Keep to itself what TensorFlow writes to the terminal when it is imported, if that goes well."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    logging.getLogger("absl").setLevel(logging.ERROR)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        except BaseException:
            written.seek(0)
            os.write(kept, written.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
