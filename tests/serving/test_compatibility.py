"""This version reads the models that earlier versions saved and exported, with equal answers."""

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import replay
import tensorflow as tf
import write_compatibility

import keras_rafm as kr
from keras_rafm.data import Schema
from keras_rafm.serving import load_model_card

FOLDERS = sorted(path.parent for path in write_compatibility.ROOT.glob("*/*/model.keras"))


def test_files_of_all_versions_exist() -> None:
    assert {path.parent.name for path in FOLDERS} >= {"0.1.0"}
    assert {path.name for path in FOLDERS if path.parent.name == "0.1.0"} == {"tensorflow-2.17", "tensorflow-2.21"}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
class TestCompatibility:
    def test_saved_model(self, folder: Path) -> None:
        model = keras.saving.load_model(folder / "model.keras")
        recorded = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        inputs = {name: replay.from_json(array) for name, array in recorded["inputs"].items()}
        outputs = {name: replay.from_json(array) for name, array in recorded["outputs"].items()}
        np.testing.assert_allclose(model.predict(inputs, verbose=0), outputs["score"], rtol=0, atol=1e-6)
        (layer,) = (layer for layer in model.layers if isinstance(layer, kr.RaFMLayer))
        np.testing.assert_allclose(layer.level_scores(inputs), outputs["level_scores"], rtol=0, atol=1e-6)
        assert isinstance(model, kr.RaFMModel)
        assert isinstance(model.optimizer, kr.optimizers.LazyAdam)
        assert int(model.optimizer.iterations.numpy()) == 3
        model.fit(inputs, write_compatibility.LABELS, verbose=0)
        assert np.isfinite(model.predict(inputs, verbose=0)).all()

    def test_exported_model(self, folder: Path) -> None:
        """A process without Keras and this package loads it."""
        command = [sys.executable, replay.__file__, str(folder / "record.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        assert "record.json: 5 answers as recorded" in done.stdout

    def test_model_card_and_schema(self, folder: Path) -> None:
        version = folder / "exported" / "1"
        card = load_model_card(version)
        assert card["packages"]["keras_rafm"] == folder.parent.name
        schema = Schema.load(version / "assets.extra" / "schema")
        recorded = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        for name, tensor in schema(write_compatibility.ROWS).items():
            np.testing.assert_array_equal(tensor, replay.from_json(recorded["inputs"][name]))


def test_files_of_this_version(tmp_path: Path) -> None:
    write_compatibility.write(tmp_path / "today")
    checks = TestCompatibility()
    checks.test_saved_model(tmp_path / "today")
    checks.test_exported_model(tmp_path / "today")
    names = {entry.name for entry in (tmp_path / "today").iterdir()}
    assert names == {"model.keras", "model.json", "exported", "record.json"}
    assert len(tf.saved_model.load(str(tmp_path / "today" / "exported" / "1")).signatures) == 5
