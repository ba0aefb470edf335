"""An exported model without values, converted by tf2onnx, gives the same answers in ONNX Runtime.

tf2onnx can't convert the sparse product that values need. ONNX Runtime fails on a request that has no id of some level,
because it can't sum no rows. OpenVINO 2026.4 can't convert an exported model: it has no SparseSegmentSumWithNumSegments.
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
        request[0, :3] = range(3)  # one id of every level
        actual = dict(zip(names, session.run(names, {"ids": request}), strict=True))
        expected = serve(ids=tf.constant(request))
        assert actual.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(actual[name], value, rtol=0, atol=1e-6, err_msg=name)
        assert size == 1 or np.std(actual["score"]) > 0.1
