"""Hold the report of the README's Frappe run against what the project promises.

python .ci/check_accuracy.py saved_models/frappe.json
"""

import json
import statistics
import sys
from pathlib import Path

rows = json.loads(Path(sys.argv[1]).read_text())
loss = {m: statistics.mean(r["test_log_loss"] for r in rows if r["model"] == m) for m in {r["model"] for r in rows}}
parameters = {row["model"]: row["parameters"] for row in rows}
checks = [
    ("RaFM test log-loss", loss["rafm"], 0.134),
    ("RaFM / FM-256 log-loss", loss["rafm"] / loss["fm-256"], 0.92),
    ("RaFM / FM-256 parameters", parameters["rafm"] / parameters["fm-256"], 0.34),
    ("RaFM-low / FM-64 log-loss", loss["rafm-low"] / loss["fm-64"], 0.86),
]
for name, reached, limit in checks:
    print(f"{name}: {reached:.4f} (at most {limit})")
sys.exit(any(reached > limit for _, reached, limit in checks))
