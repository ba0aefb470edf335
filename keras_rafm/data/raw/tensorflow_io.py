"""tensorflow-io, whose import registers file systems such as `s3://`."""

from __future__ import annotations

import warnings
from typing import Any, Final

import tensorflow as tf

from keras_rafm.checks.optional_packages import imported

_EXTRA: Final = "io"
_A_SCHEME: Final = "http"  # of those that it registers


def tensorflow_io() -> Any:
    """The package.

    Raises:
        ImportError: It is not installed, or was built for another version of TensorFlow.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that its library can't be loaded: that is told below
        package = imported("tensorflow_io", _EXTRA)
    if _A_SCHEME not in tf.io.gfile.get_registered_schemes():
        raise ImportError(
            f"the library of tensorflow_io does not load on TensorFlow {tf.version.VERSION}: pip install "
            f"'keras_rafm[{_EXTRA}]' gets versions that fit each other"
        )
    return package
