"""The C client, compiled against TensorFlow's wheel, gives the scores of the trained model."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_rafm as kr

SOURCE = Path(__file__).resolve().parents[2] / "examples" / "serving" / "c" / "score.c"
PLAN = kr.RankPlan([2, 1, 2, 1, 3], (2, 3, 5))

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("c") / "score"
    library = tf.sysconfig.get_lib()
    libraries = ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2", f"-Wl,-rpath,{library}"]
    flags = [
        "-O2",
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pedantic",
        f"-I{tf.sysconfig.get_include()}",
        f"-L{library}",
    ]
    done = subprocess.run(
        ["gcc", *flags, str(SOURCE), "-o", str(path), *libraries], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return path


def run(program: Path, *arguments: Any, text: str) -> subprocess.CompletedProcess[str]:
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False)


def scored(program: Path, *arguments: Any, text: str) -> dict[str, np.ndarray]:
    """Return the columns that the program prints by name, or together by the header if outputs have several columns."""
    done = run(program, *arguments, text=text)
    assert done.returncode == 0, done.stderr[-2000:]
    header, *rows = done.stdout.splitlines()
    columns = np.array([[float(cell) for cell in row.split()] for row in rows]).reshape(len(rows), -1)
    return (
        dict(zip(header.split(), columns.T, strict=True)) if columns.shape[1] == len(header.split()) else {header: columns}
    )


def make_model(has_values: bool, dtype: str = "int32", width: int | None = 3) -> kr.RaFMModel:
    inputs: Any = {"ids": keras.Input((width,), dtype=dtype, name="ids")}
    if has_values:
        inputs["values"] = keras.Input((width,), name="values")
    normal = keras.initializers.RandomNormal(stddev=0.5)
    layer = kr.RaFMLayer(PLAN, factors_initializer=normal, linear_initializer=normal, seed=1)
    model = kr.RaFMModel(inputs, layer(inputs))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    return model


TEXT = "0 1 2\n4\n\n3 3 0\n1 4 2"
IDS = np.array([[0, 1, 2], [4, -1, -1], [-1, -1, -1], [3, 3, 0], [1, 4, 2]])


@pytest.mark.parametrize("dtype", ["int32", "int64"])
@pytest.mark.parametrize("batch", [1, 2, 100])
def test_ids(program: Path, tmp_path: Path, dtype: str, batch: int) -> None:
    model = make_model(False, dtype)
    columns = scored(program, "--batch", batch, kr.export(model, tmp_path / "m"), text=TEXT)
    expected = model.predict({"ids": IDS.astype(dtype)}, verbose=0)[:, 0]
    assert set(columns) == {"score", "probability", "class"}
    np.testing.assert_allclose(columns["score"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(columns["probability"], 1 / (1 + np.exp(-expected)), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(columns["class"], expected > 0)


@pytest.mark.parametrize("precision", ["trained", "int8"])
def test_values_and_any_width(program: Path, tmp_path: Path, precision: Any) -> None:
    model = make_model(True, width=None)
    path = kr.export(model, tmp_path / "m", precision=precision)
    columns = scored(program, "--threads", 1, path, text="0:0.5 1:-2 2\n4 0 1:1e-1 2 3\n")
    ids = np.array([[0, 1, 2, -1, -1], [4, 0, 1, 2, 3]], "int32")
    values = np.array([[0.5, -2, 1, 0, 0], [1, 1, 0.1, 1, 1]], "float32")
    expected = model.predict({"ids": ids, "values": values}, verbose=0)[:, 0]
    np.testing.assert_allclose(columns["score"], expected, rtol=0, atol=1e-5 if precision == "trained" else 0.05)


def test_other_signatures(program: Path, tmp_path: Path) -> None:
    model = make_model(False)
    path = kr.export(model, tmp_path / "m")
    levels = model.layers[-1].level_scores(IDS).numpy()
    columns = scored(program, "--signature", "low", path, text=TEXT)
    np.testing.assert_allclose(columns["score"], levels[:, 0], rtol=1e-5, atol=1e-6)
    (both,) = scored(program, "--signature", "level_scores", path, text=TEXT).values()
    np.testing.assert_allclose(both, np.concatenate([1 / (1 + np.exp(-levels)), levels], axis=1), rtol=0, atol=1e-5)


def test_unknown_ids_contribute_nothing(program: Path, tmp_path: Path) -> None:
    path = kr.export(make_model(False), tmp_path / "m")
    known = scored(program, path, text="0 1\n")
    for unknown in (5, -2, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63)):
        assert scored(program, path, text=f"0 1 {unknown}\n") == known


def test_latency_is_reported(program: Path, tmp_path: Path) -> None:
    done = run(program, "--repeat", 5, "--batch", 2, kr.export(make_model(False), tmp_path / "m"), text=TEXT)
    assert len(done.stdout.splitlines()) == 6
    latencies = done.stderr.splitlines()[-1].split()
    assert latencies[::2] == ["requests", "p50_us", "p99_us", "samples_per_second"]
    assert int(latencies[1]) == 12
    assert 0 < float(latencies[3]) <= float(latencies[5])


def test_no_samples(program: Path, tmp_path: Path) -> None:
    done = run(program, kr.export(make_model(False), tmp_path / "m"), text="")
    assert (done.returncode, done.stdout) == (0, "class probability score\n")


class TestErrors:
    @pytest.mark.parametrize("text", ["0 x\n", "0:\n", "0: 5\n", "1.5\n", "0:one\n", "99999999999999999999\n"])
    def test_input(self, program: Path, tmp_path: Path, text: str) -> None:
        done = run(program, kr.export(make_model(True), tmp_path / "m"), text="0 1\n" + text)
        assert done.returncode == 2
        assert "score: line 2: expected id or id:value, received" in done.stderr

    def test_more_ids_than_the_model_takes(self, program: Path, tmp_path: Path) -> None:
        done = run(program, kr.export(make_model(False), tmp_path / "m"), text="0 1 2 3\n")
        assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "score: line 1: the model takes 3 ids, received 4")

    def test_values_for_a_model_without_values(self, program: Path, tmp_path: Path) -> None:
        done = run(program, kr.export(make_model(False), tmp_path / "m"), text="0:0.5\n")
        assert done.returncode == 2
        assert "the model takes none" in done.stderr

    @pytest.mark.parametrize("arguments", [[], ["--batch", "0", "m"], ["--batch"], ["--other", "m"], ["m", "m"]])
    def test_arguments(self, program: Path, arguments: list[str]) -> None:
        done = run(program, *arguments, text="")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("score: ")

    def test_no_model_and_no_signature(self, program: Path, tmp_path: Path) -> None:
        done = run(program, tmp_path, text="")
        assert done.returncode == 1
        assert "Could not find SavedModel" in done.stderr
        done = run(program, "--signature", "raw", kr.export(make_model(False), tmp_path / "m"), text="")
        assert (done.returncode, done.stderr.splitlines()[-1]) == (1, "score: the model has no signature 'raw'")

    def test_signature_with_other_inputs(self, program: Path, tmp_path: Path) -> None:
        done = run(program, "--signature", "examples", kr.export(make_model(False), tmp_path / "m"), text="0\n")
        assert done.returncode == 1
        assert "the inputs of the signature must be 'ids' and 'values', received 'examples'" in done.stderr


def test_exports_of_keras_itself(program: Path, tmp_path: Path) -> None:
    """The C++ runtime would miss variables that Keras' export overlooks, though Python finds them. So this runs in C."""
    for kind in (kr.RaFMModel, keras.Model):
        ids = keras.Input((3,), dtype="int32", name="ids")
        model = kind(ids, kr.RaFMLayer(PLAN)(ids))
        model.export(str(tmp_path / kind.__name__), verbose=False)
        (columns,) = scored(program, tmp_path / kind.__name__, text="0 1 2\n").values()
        np.testing.assert_allclose(columns.ravel(), model.predict(IDS[:1], verbose=0).ravel(), rtol=1e-5, atol=1e-6)
