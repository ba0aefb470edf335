"""Whether this process is the command line tool.

It then need not import TensorFlow before it knows what to do with it: `keras-rafm --help` answers at once.
"""

import sys
from pathlib import PurePath


def runs_as_command() -> bool:
    """Whether the process was started as `keras-rafm` or `python -m keras_rafm`."""
    if PurePath(sys.argv[0] if sys.argv else "").stem == "keras-rafm":
        return True
    words = sys.orig_argv
    return "-m" in words and words[words.index("-m") + 1 : words.index("-m") + 2] == ["keras_rafm"]
