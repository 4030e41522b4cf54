"""The pages of the repository: their links, anchors and commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = r"(?:make|snakemake|python|pip|safe-llava|lmms-eval|apptainer|pytest|git|cp|export|\$EDITOR|\.|[A-Z_]+=\S*)"
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:[A-Z_]+=\S* )*(?:make|snakemake|python -m|pip install|safe-llava|apptainer) [^`\n]*)`")
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def pages(root: Path) -> list[Path]:
    """Return every page for people, but for what an environment or a run brought."""
    folders = [root, *(root / name for name in ("docs", "config", "containers", "envs", "results", "tests", "slurm"))]
    return sorted(page for folder in folders for page in folder.glob("*.md"))


def rooms(root: Path) -> list[Path]:
    """Return the pages that lie beside the code."""
    return sorted((root / "scripts").rglob("*.md"))


def prose(text: str) -> str:
    """Return a page without its blocks of code, in which brackets are no links."""
    return re.sub(r"^(?: {4,}|\t).*$", "", FENCE.sub("", text), flags=re.MULTILINE)


def anchors(text: str) -> set[str]:
    """Return the anchors that a page's headings have, as GitHub makes them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?)\s*$", FENCE.sub("", text), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", heading).lower()).replace(" ", "-")
        found.add(name if name not in found else f"{name}-1")
    return found


def links(page: Path) -> Iterator[str]:
    """Yield the targets of a page's links and images."""
    yield from LINK.findall(prose(page.read_text(encoding="utf-8")))


def commands(page: Path) -> list[str]:
    """Return a page's commands, in blocks and in running text, without their comments; `\\` joins lines."""
    text = page.read_text(encoding="utf-8")
    blocks = [body for _, language, body in FENCE.findall(text) if language in ("", "sh", "bash", "console")]
    blocks += re.findall(r"(?:^ {4}\S.*\n)+", FENCE.sub("", text), re.MULTILINE)
    found = []
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            command = re.sub(r"\s+#\s.*$", "", line.strip())
            if re.match(PROGRAMS + r"(?:\s|$)", command):
                found += [" ".join(part.split()) for part in command.split(" && ")]
    found += [" ".join(one.split()) for one in INLINE.findall(FENCE.sub("", text))]
    return list(dict.fromkeys(found))
