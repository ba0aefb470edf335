"""Check that the report of the README's Frappe run reaches the accuracy that the project promises.

python .ci/check_accuracy.py saved_models/frappe.json
"""

import json
import statistics
import sys
from pathlib import Path

rows = json.loads(Path(sys.argv[1]).read_text())
models = {row["model"] for row in rows}
loss = {model: statistics.mean(row["test_log_loss"] for row in rows if row["model"] == model) for model in models}
parameters = {row["model"]: row["parameters"] for row in rows}
checks = [
    ("RaFM test log-loss", loss["rafm"], 0.134),
    ("RaFM / FM-256 log-loss", loss["rafm"] / loss["fm-256"], 0.92),
    ("RaFM / FM-256 parameters", parameters["rafm"] / parameters["fm-256"], 0.34),
    ("RaFM-low / FM-64 log-loss", loss["rafm-low"] / loss["fm-64"], 0.86),
]
for name, measured, limit in checks:
    print(f"{name}: {measured:.4f} (at most {limit})")
sys.exit(any(measured > limit for _, measured, limit in checks))
