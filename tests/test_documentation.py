"""The documentation names files and links that exist."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.one_tensorflow

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("*/README.md"), *ROOT.glob("examples/*/README.md")]
FILES = [
    path for folder in ("keras_rafm", "tests", "benchmarks", "examples", ".ci") for path in (ROOT / folder).rglob("*.py")
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_existing_files(page):
    text = page.read_text()
    missing = []
    for name in re.findall(r"`([\w./]+\.py)`", text):
        if not any(
            str(path.relative_to(ROOT)).endswith(f"/{name}".replace("//", "/")) or path == ROOT / name for path in FILES
        ):
            missing.append(name)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        if not (page.parent / target).exists():
            missing.append(target)
    assert not missing


def test_the_architecture_page_names_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text()
    rooms = [path for folder in ("", "data") for path in (ROOT / "keras_rafm" / folder).iterdir()]
    names = {
        f"{path.name}/" if path.is_dir() else path.name
        for path in rooms
        if path.name[0] not in "_." and path.suffix in (".py", "")
    }
    assert {name for name in names if f"`{name}`" not in page and f"{name}`" not in page} <= {"lazy_imports.py"}
