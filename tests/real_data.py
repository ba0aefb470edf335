"""Real data that may not be passed on. `.ci/run` ends with an error where it is absent, so there these tests run."""

from pathlib import Path

import pytest

FRAPPE = Path(__file__).resolve().parents[2] / "shared" / "data" / "frappe"

needs_frappe = pytest.mark.skipif(not FRAPPE.is_dir(), reason=f"there is no Frappe data in {FRAPPE}")
