"""Which room may import which: arrows point down, no two modules import each other, no floor is too full."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# From low to high. A room imports from lower floors and from itself; rooms of one floor do not know each other.
FLOORS = (
    ("core",),
    ("config",),
    ("formats",),
    ("images", "containers", "lexicon", "judges", "checkpoints"),
    ("engine", "data", "train"),
    ("prism", "benchmarks"),
    ("paper", "speed", "cluster", "demo"),
)
HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}
MOST_FILES = 17


@pytest.fixture(scope="module")
def package(root: Path) -> Path:
    """The package's folder."""
    return root / "scripts" / "safe_llava"


def name_of(path: Path, package: Path) -> str:
    """The dotted name of a module below ``safe_llava``; a package's own is that of its folder."""
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def imports(package: Path) -> dict[str, set[str]]:
    """The modules that every module imports, wherever in its text, by their names below ``safe_llava``."""
    files = {name_of(path, package): path for path in package.rglob("*.py")}
    return {name: set(imported(path, files)) - {name} for name, path in files.items()}


def imported(path: Path, files: dict[str, Path]) -> Iterator[str]:
    """Yield the modules of this package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "safe_llava":
            module = node.module.removeprefix("safe_llava").lstrip(".")
            for alias in node.names:
                submodule = f"{module}.{alias.name}".lstrip(".")
                yield submodule if submodule in files else module
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "safe_llava":
                    yield alias.name.removeprefix("safe_llava").lstrip(".")


def room_of(module: str) -> str:
    """The room of a module; empty for the package itself."""
    return module.split(".")[0]


def test_every_room_has_its_floor(package: Path) -> None:
    """A new room is placed on a floor before anything is built in it."""
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}

    assert rooms == set(HEIGHT)


def test_imports_point_down(imports: dict[str, set[str]]) -> None:
    """No module imports from a room of its own floor or of a higher one."""
    wrong = [
        f"{module} imports {other}"
        for module, others in sorted(imports.items())
        for other in sorted(others)
        if room_of(other) != room_of(module)
        and room_of(module) in HEIGHT
        and HEIGHT.get(room_of(other), -1) >= HEIGHT[room_of(module)]
    ]

    assert wrong == []


def test_no_modules_import_each_other(imports: dict[str, set[str]]) -> None:
    """No chain of imports leads from a module back to itself; a room's own parts included."""
    assert cycles(imports) == []


def cycles(imports: dict[str, set[str]]) -> list[list[str]]:
    """The chains of imports that end where they begin, each once, by depth-first search."""
    found: list[list[str]] = []
    done: set[str] = set()

    def follow(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for other in sorted(imports.get(module, ())):
                follow(other, [*path, module])
            done.add(module)

    for module in sorted(imports):
        follow(module, [])
    return found


def test_subrooms_do_not_import_each_other_in_both_directions(imports: dict[str, set[str]]) -> None:
    """Of two parts of a room, one is the lower."""
    arrows = {
        (part_of(module), part_of(other))
        for module, others in imports.items()
        for other in others
        if room_of(module) == room_of(other) and part_of(module) and part_of(other)
    }

    assert sorted(pair for pair in arrows if pair[0] < pair[1] and pair[::-1] in arrows) == []


def test_one_place_chooses_a_back_end_of_the_engine(imports: dict[str, set[str]]) -> None:
    """What the back ends share knows none of them, and they do not know each other."""

    def back_end(module: str) -> str:
        parts = module.split(".")
        return parts[1] if parts[0] == "engine" and len(parts) > 1 and parts[1] in ("vllm", "transformers") else ""

    wrong = [
        f"{module} imports {other}"
        for module, others in sorted(imports.items())
        for other in sorted(others)
        if room_of(module) == "engine" and module != "engine" and back_end(other) not in ("", back_end(module))
    ]

    assert {back_end(other) for other in imports["engine"]} == {"", "vllm", "transformers"}
    assert wrong == []


def part_of(module: str) -> str:
    """The part of its room that a module lies in: ``data.download`` for ``data.download.web``; empty on a top floor."""
    return ".".join(module.split(".")[:2]) if module.count(".") > 1 else ""


def test_no_floor_is_too_full(package: Path) -> None:
    """A reader sees at a glance what a folder holds."""
    folders = [package, *(path for path in package.rglob("*") if path.is_dir() and path.name != "__pycache__")]
    full = {str(folder): count for folder in folders if (count := len(list(folder.glob("*.py")))) > MOST_FILES}

    assert full == {}
