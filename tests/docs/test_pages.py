"""Every link of every page leads somewhere, and of every command it is known what shows that it works."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs.pages import anchors, commands, links, pages, rooms

HERE = Path(__file__).parent
LONGEST_README = 130


def listed() -> dict[str, Any]:
    return dict(yaml.safe_load((HERE / "commands.yaml").read_text(encoding="utf-8")))


def every(root: Path) -> list[Path]:
    return [*pages(root), *rooms(root)]


def test_every_internal_link_and_anchor_is_there(root: Path) -> None:
    wrong = []
    for page in every(root):
        for link in links(page):
            if re.match(r"\w+:", link):
                continue
            name, _, anchor = link.partition("#")
            target = (page.parent / name) if name else page
            if not target.exists():
                wrong.append(f"{page.relative_to(root)}: {link}: no such file")
            elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
                wrong.append(f"{page.relative_to(root)}: {link}: no such heading")
    assert not wrong, "\n".join(wrong)


def test_every_external_link_is_an_address(root: Path) -> None:
    # None is asked for: tests need no network.
    for page in every(root):
        for link in links(page):
            assert not re.match(r"\w+:", link) or re.fullmatch(r"https://[\w.-]+\.\w+(/\S*)?", link), f"{page}: {link}"


def test_of_every_command_it_is_known_what_shows_that_it_works(root: Path) -> None:
    there = {command for page in every(root) if page.name != "CHANGELOG.md" for command in commands(page)}
    known = listed()
    named = [
        *known["planned"],
        *(one for lists in (known["run"], known["needs"]) for few in lists.values() for one in few),
    ]
    assert not [command for command, count in Counter(named).items() if count > 1]
    assert there - set(named) == set(), "commands of a page that tests/docs/commands.yaml does not list"
    assert set(named) - there == set(), "tests/docs/commands.yaml lists what no page has"


def test_the_tests_that_run_commands_are_there(root: Path) -> None:
    for test, few in listed()["run"].items():
        text = (root / test).read_text(encoding="utf-8")
        for command in few:
            if step := re.search(r"python -m safe_llava\.(?:\w+\.)*(\w+)", command):
                assert step[1] in text, f"{test} says nothing of {step[1]}"


def test_steps_and_their_flags_are_there(root: Path) -> None:
    for page in every(root):
        for command in commands(page) if page.name != "CHANGELOG.md" else ():
            for step in re.findall(r"safe_llava\.[a-z_]+\.[a-z_.]+", command):
                path = root / "scripts" / Path(*step.rstrip(".").split("."))
                assert path.with_suffix(".py").is_file() or path.is_dir(), f"{page}: {command}"
            found = re.match(r"(?:\w+=\S+ )*python -m (safe_llava[\w.]+) (.*)", command)
            if found and " -- " not in command and "--module" not in command:
                room = root / "scripts/safe_llava" / found[1].split(".")[1]
                source = "".join(path.read_text(encoding="utf-8") for path in room.rglob("*.py"))
                for flag in re.findall(r"--[a-z][a-z-]*", found[2]):
                    assert f'"{flag}"' in source, f"{page}: {command}: {flag}"


def test_the_index_names_every_page(root: Path) -> None:
    index = set(links(root / "docs/README.md"))
    assert {page.name for page in (root / "docs").glob("*.md")} - {"README.md"} <= index


def test_the_readme_is_short_and_says_whom_to_cite(root: Path) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_README
    cited = yaml.safe_load((root / "CITATION.cff").read_text(encoding="utf-8"))
    for reference in cited["references"]:
        assert reference["title"] in " ".join(text.split())
        assert reference.get("url", reference.get("repository-code")) in text
        for author in reference["authors"]:
            assert f"{author['given-names']} {author['family-names']}" in text


@pytest.mark.parametrize("door", ["PRISM's numbers", "have a checkpoint", "have a cluster"])
def test_a_door_has_at_most_five_commands(root: Path, door: str) -> None:
    text = (root / "README.md").read_text(encoding="utf-8")
    block = re.search(r"\n\n((?: {4}\S[^\n]*\n)+)", text[text.index(door) :])
    assert block and len(block[1].splitlines()) <= 5
