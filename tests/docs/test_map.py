"""The map of CONTRIBUTING.md and of the rooms' READMEs names files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "scripts" / "safe_llava"
PAGES = [ROOT / "CONTRIBUTING.md", *sorted((ROOT / "scripts").rglob("README.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_file_that_the_map_names_is_there(page: Path) -> None:
    folders = {ROOT, PACKAGE, page.parent, *(path.parent for path in PACKAGE.glob("*/*/*.py"))}
    named = set(re.findall(r"`([a-z_/]+\.(?:py|smk|yaml))`", page.read_text(encoding="utf-8")))
    assert [name for name in sorted(named) if not any((folder / name).is_file() for folder in folders)] == []


def test_the_map_names_every_room() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {room for room in rooms if not re.search(rf"^ +{room}/ ", page, re.MULTILINE)} == set()
