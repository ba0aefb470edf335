"""Call the signatures of exported models: in this process, or in one where Keras and keras_rafm can't be imported.

The second kind of process runs this file as a script, `python exported_models.py EXCHANGE`. The file EXCHANGE holds the
pickled requests and is replaced by the pickled answers.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

if __name__ == "__main__":  # importing a module that is `None` in `sys.modules` fails
    sys.modules.update(dict.fromkeys(("keras", "keras_rafm")))

import numpy as np
import tensorflow as tf

Arrays = dict[str, np.ndarray]


class Requests(NamedTuple):
    """Requests to one signature of an exported model.

    Attributes:
        path: The SavedModel.
        signature: The name of the signature.
        inputs: The inputs of each request.
    """

    path: str
    signature: str
    inputs: Sequence[Mapping[str, Any]]


class Answers(NamedTuple):
    """The answers of one signature.

    Attributes:
        signatures: The names of all signatures of the model.
        specs: The dtype and shape of each input of the signature.
        outputs: The outputs for each request.
    """

    signatures: list[str]
    specs: dict[str, tuple[str, list[int | None]]]
    outputs: list[Arrays]


def answer(path: Path, signature: str = "serving_default", **inputs: Any) -> Arrays:
    """Return the answer of one signature to one request."""
    (outputs,) = answers(Requests(str(path), signature, [inputs])).outputs
    return outputs


def answers(requests: Requests) -> Answers:
    """Return the answers to some requests."""
    loaded = tf.saved_model.load(requests.path)
    serve = loaded.signatures[requests.signature]
    specs = serve.structured_input_signature[1]
    return Answers(
        sorted(loaded.signatures),
        {name: (spec.dtype.name, spec.shape.as_list()) for name, spec in specs.items()},
        [
            {
                name: tensor.numpy()
                for name, tensor in serve(**{key: tf.constant(x, specs[key].dtype) for key, x in inputs.items()}).items()
            }
            for inputs in requests.inputs
        ],
    )


def answers_without_keras(requests: Mapping[str, Requests], folder: Path) -> tuple[dict[str, Answers], str]:
    """Return the answers of a process without Keras and keras_rafm, and what it printed.

    Args:
        requests: Requests to one or more models, by any keys.
        folder: The working directory of the process.
    """
    exchange = folder / "exchange.pickle"
    exchange.write_bytes(pickle.dumps({key: tuple(fields) for key, fields in requests.items()}))
    environment = {name: value for name, value in os.environ.items() if name not in ("TF_CPP_MIN_LOG_LEVEL", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-W", "always", str(Path(__file__).resolve()), str(exchange)],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result = {key: Answers(*fields) for key, fields in pickle.loads(exchange.read_bytes()).items()}
    return result, done.stdout + done.stderr


if __name__ == "__main__":
    path = Path(sys.argv[1])
    results = {key: tuple(answers(Requests(*fields))) for key, fields in pickle.loads(path.read_bytes()).items()}
    assert sys.modules["keras"] is None
    assert sys.modules["keras_rafm"] is None
    path.write_bytes(pickle.dumps(results))
