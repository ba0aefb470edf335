"""An exported model runs in ONNX Runtime too, converted by tf2onnx, with the same answers: samples without values.

OpenVINO 2026.4 can't convert it: it has no rule for SparseSegmentSumWithNumSegments. Neither can tf2onnx convert the sparse
product that values need, and where a request has no id of some level, its sum of nothing fails in ONNX Runtime.
"""

import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf

import keras_rafm as kr

pytestmark = pytest.mark.one_tensorflow


@pytest.mark.parametrize("levels", [[1] * 6, [2, 1, 3, 1, 2, 3]], ids=["FM", "RaFM"])
def test_onnx_runtime(tmp_path: Path, levels: list[int]) -> None:
    normal = keras.initializers.RandomNormal(stddev=0.5)
    ids = keras.Input((4,), dtype="int32", name="ids")
    plan = kr.RankPlan(levels, (2, 3, 5)[: max(levels)])
    model = kr.RaFMModel(ids, kr.RaFMLayer(plan, factors_initializer=normal, linear_initializer=normal, seed=1)(ids))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    path = kr.export(model, tmp_path / "m", signatures=[])
    command = [sys.executable, "-m", "tf2onnx.convert", "--saved-model", str(path), "--output", str(tmp_path / "m.onnx")]
    command += ["--signature_def", "serving_default", "--opset", "18"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]

    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    names = [output.name for output in session.get_outputs()]
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    random = np.random.default_rng(0)
    for size in (1, 7, 300):
        request = random.choice([*range(6), -1, 6, 2**31 - 1, -(2**31)], (size, 4)).astype(np.int32)
        request[0, :3] = range(3)  # of every level one
        found = dict(zip(names, session.run(names, {"ids": request}), strict=True))
        expected = serve(ids=tf.constant(request))
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-6, err_msg=name)
        assert size == 1 or np.std(found["score"]) > 0.1
