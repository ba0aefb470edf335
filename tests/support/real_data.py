"""Real data that must not be redistributed, and markers that skip tests without it. `.ci/run` demands that it exists."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
FRAPPE = DATA / "frappe"
ML_100K = DATA / "ml-100k"
YELP = DATA / "yelp"
CRITEO = DATA / "criteo-10k"


def needs(folder: Path) -> pytest.MarkDecorator:
    """Return a marker that skips a test if a folder of real data does not exist."""
    return pytest.mark.skipif(not folder.is_dir(), reason=f"folder of data not found: {folder}")


needs_frappe = needs(FRAPPE)
