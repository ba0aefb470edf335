"""The whole way from data to serving on synthetic samples: count, plan, train, compare, export, reload elsewhere.

python examples/quickstart.py
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from comparison import Settings, Split, compare, print_table

import keras_rafm as kr

MODEL_DIRECTORY = Path(__file__).resolve().parents[1] / "saved_models" / "quickstart"
RANKS, THRESHOLDS = (4, 32), (200,)

# A server needs only TensorFlow: importing Keras or this package would fail here.
SERVE = """
import sys
sys.modules["keras"] = sys.modules["keras_rafm"] = None
import numpy as np, tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
ids = np.load(sys.argv[2])
np.save(sys.argv[3], serve(ids=tf.constant(ids))["probability"].numpy())
"""


def main() -> None:
    started = time.perf_counter()
    print("Drawing 300,000 samples of 8 fields from a planted model whose rank grows with feature frequency ...")
    drawn = kr.data.synthetic(300_000, seed=0)
    split = Split(drawn.samples[:240_000], drawn.samples[240_000:270_000], drawn.samples[270_000:])

    plan = kr.RankPlan.from_counts(kr.count_features(split.train, drawn.num_features), RANKS, THRESHOLDS)
    plan.summary()
    print()

    rows, model = compare(split, plan, Settings(max_epochs=30), seeds=[0], with_plain_fms=True)
    signs = np.where(split.test.labels == 1, -1, 1)
    true_log_loss = np.mean(np.log(1 + np.exp(signs * drawn.true_scores[270_000:])))
    print()
    print_table(rows)
    print(f"the planted model itself has a test log-loss of {true_log_loss:.4f}\n")

    version = kr.export(model, MODEL_DIRECTORY)
    difference = serve_elsewhere(version, split.test.ids[:1000], model)
    print(f"Exported to {version.relative_to(Path.cwd()) if version.is_relative_to(Path.cwd()) else version}")
    print(f"A process without Keras and keras_rafm serves it: the largest difference in probability is {difference:.1e}")
    print(f"{time.perf_counter() - started:.0f} s in all")
    if difference > 1e-6:
        sys.exit("The served probabilities differ from the model's.")


def serve_elsewhere(version: Path, ids: np.ndarray, model: kr.RaFMModel) -> float:
    """Return the largest difference between the exported model in a fresh process and the model in this one."""
    with tempfile.TemporaryDirectory() as folder:
        request, response = Path(folder, "ids.npy"), Path(folder, "probability.npy")
        np.save(request, ids)
        subprocess.run([sys.executable, "-W", "ignore", "-c", SERVE, version, request, response], check=True)
        served = np.load(response)
    expected = 1 / (1 + np.exp(-model.predict({"ids": ids}, verbose=0)))
    return float(np.abs(served - expected).max())


if __name__ == "__main__":
    main()
