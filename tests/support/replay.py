"""Send recorded requests to exported models and compare the answers: `python replay.py RECORD.json …`.

As a script, it can import neither Keras nor keras_rafm, and it runs on any version of TensorFlow. A record is a JSON file
beside a SavedModel directory:

    {"model": "1", "requests": [{"signature": …, "inputs": {name: array}, "outputs": {name: array}}]}

An array is `{"dtype": …, "shape": […], "values": […]}`; strings are in base64.
"""

import base64
import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # importing a module that is `None` in `sys.modules` fails
    sys.modules.update(dict.fromkeys(("keras", "keras_rafm")))

import numpy as np
import tensorflow as tf

TOLERANCE = 1e-6


def to_json(array: Any) -> dict[str, Any]:
    """Return an array of numbers or strings in the form of a record."""
    array = np.asarray(array)
    if array.dtype.kind in "OSU":
        texts = [text.encode() if isinstance(text, str) else text for text in array.ravel().tolist()]
        return {"dtype": "string", "shape": array.shape, "values": [base64.b64encode(text).decode() for text in texts]}
    return {"dtype": array.dtype.name, "shape": array.shape, "values": array.ravel().tolist()}


def from_json(record: dict[str, Any]) -> tf.Tensor:
    """Return an array of a record as a tensor."""
    values = record["values"]
    if record["dtype"] == "string":
        values = [base64.b64decode(text) for text in values]
    return tf.reshape(tf.constant(values, record["dtype"]), record["shape"])


def record(path: Path, model: Path, requests: list[tuple[str, dict[str, Any]]]) -> None:
    """Write requests to a model, and its answers.

    Args:
        path: The record to write.
        model: A version directory beside the record or below it.
        requests: The signature and the inputs of each request.
    """
    loaded = tf.saved_model.load(str(model))
    entries = []
    for name, inputs in requests:
        serve = loaded.signatures[name]
        specs = serve.structured_input_signature[1]
        tensors = {key: tf.constant(value, specs[key].dtype) for key, value in inputs.items()}
        entries.append(
            {
                "signature": name,
                "inputs": {key: to_json(tensor.numpy()) for key, tensor in tensors.items()},
                "outputs": {key: to_json(value.numpy()) for key, value in serve(**tensors).items()},
            }
        )
    path.write_text(
        json.dumps({"model": str(model.relative_to(path.parent)), "requests": entries}) + "\n", encoding="utf-8"
    )


def replay(path: Path) -> int:
    """Send the requests of a record. Returns their number.

    Raises:
        AssertionError: An answer differs from the recorded one.
    """
    recorded = json.loads(path.read_text(encoding="utf-8"))
    loaded = tf.saved_model.load(str(path.parent / recorded["model"]))
    for entry in recorded["requests"]:
        answer = loaded.signatures[entry["signature"]](**{key: from_json(array) for key, array in entry["inputs"].items()})
        assert answer.keys() == entry["outputs"].keys(), (path, entry["signature"], sorted(answer))
        for key, array in entry["outputs"].items():
            expected, actual = from_json(array).numpy(), answer[key].numpy()
            where = f"{path}, {entry['signature']}, {key}"
            assert actual.shape == expected.shape, where
            if expected.dtype.kind == "O":
                assert actual.tolist() == expected.tolist(), where
            else:
                np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE, err_msg=where)
    return len(recorded["requests"])


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(f"{argument}: {replay(Path(argument))} answers as recorded (TensorFlow {tf.__version__})")
    assert sys.modules["keras"] is None
    assert sys.modules["keras_rafm"] is None
