"""Real data that may not be passed on. `.ci/run` ends with an error where it is absent, so there these tests run."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FRAPPE = DATA / "frappe"
ML_100K = DATA / "ml-100k"
YELP = DATA / "yelp"
CRITEO = DATA / "criteo-10k"


def needs(folder: Path) -> pytest.MarkDecorator:
    """Skips a test where a folder of real data is absent."""
    return pytest.mark.skipif(not folder.is_dir(), reason=f"there is no data in {folder}")


needs_frappe = pytest.mark.skipif(not FRAPPE.is_dir(), reason=f"there is no Frappe data in {FRAPPE}")
