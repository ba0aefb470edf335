"""Save and export a small model with this version, and record its answers: `python write_compatibility.py`.

The files go to `saved_models/compat/VERSION/tensorflow-MAJOR.MINOR/` and are committed. Later versions must read them.
"""

import json
import shutil
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from replay import from_json, record, to_json

import keras_rafm as kr
from keras_rafm.data import Schema

ROOT = Path(__file__).resolve().parents[2] / "saved_models" / "compat"
ROWS = {"user": ["ann", "bob", "", "new"], "price": [0.5, -1.0, float("nan"), 2.0]}
LABELS = np.array([[1.0], [0.0], [1.0], [0.0]])
SIGNATURES = ("raw", "examples", "classify", "level_scores")


def write(folder: Path) -> None:
    """Write the model, its export and the recorded answers into a new folder."""
    keras.utils.set_random_seed(1)
    schema = Schema({"user": Schema.string_categorical(), "price": Schema.float("standard")}, label="y")
    schema.adapt({name: values[:3] for name, values in ROWS.items()})
    normal = keras.initializers.RandomNormal(stddev=0.5)
    layer = kr.RaFMLayer(kr.RankPlan(1 + np.arange(schema.num_features) % 3, (1, 2, 3)), factors_initializer=normal)
    inputs = schema.inputs()
    model = kr.RaFMModel(inputs, layer(inputs))
    model.compile(kr.optimizers.LazyAdam(0.05), keras.losses.BinaryCrossentropy(from_logits=True), metrics=["AUC"])
    encoded = schema(ROWS)
    model.fit(encoded, LABELS, epochs=3, verbose=0)

    folder.mkdir(parents=True)
    model.save(folder / "model.keras")
    expected = {"score": to_json(model.predict(encoded, verbose=0)), "level_scores": to_json(layer.level_scores(encoded))}
    inputs_of_keras = {name: to_json(tensor.numpy()) for name, tensor in encoded.items()}
    entry = {"inputs": inputs_of_keras, "outputs": expected}
    (folder / "model.json").write_text(json.dumps(entry) + "\n", encoding="utf-8")

    exported = kr.export(model, folder / "exported", schema, signatures=SIGNATURES)
    example = tf.train.Example()
    example.features.feature["user"].bytes_list.value.append(b"bob")
    example.features.feature["price"].float_list.value.append(-1.0)
    texts = [example.SerializeToString(), b""]
    padded = {name: from_json(array).numpy() for name, array in inputs_of_keras.items()}
    requests = [("serving_default", padded), ("raw", ROWS), ("level_scores", padded)]
    requests += [("examples", {"examples": texts}), ("classify", {"inputs": texts})]
    record(folder / "record.json", exported, requests)


if __name__ == "__main__":
    folder = ROOT / kr.__version__ / f"tensorflow-{'.'.join(tf.__version__.split('.')[:2])}"
    shutil.rmtree(folder, ignore_errors=True)
    write(folder)
    print(f"written to {folder}")
