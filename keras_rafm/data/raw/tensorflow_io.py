"""tensorflow-io: importing it registers file systems such as `s3://`."""

from __future__ import annotations

import warnings
from typing import Any, Final

import tensorflow as tf

from keras_rafm.checks.optional_packages import imported

_EXTRA: Final = "io"
_A_SCHEME: Final = "http"  # one of the schemes that it registers


def tensorflow_io() -> Any:
    """Return the package.

    Raises:
        ImportError: The package is not installed, or was built for another version of TensorFlow.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It warns if its library does not load; the error below says so.
        package = imported("tensorflow_io", _EXTRA)
    if _A_SCHEME not in tf.io.gfile.get_registered_schemes():
        raise ImportError(
            f"the library of tensorflow_io does not load with TensorFlow {tf.version.VERSION}; install compatible "
            f"versions: pip install 'keras_rafm[{_EXTRA}]'"
        )
    return package
