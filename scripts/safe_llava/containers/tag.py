"""Which container image a rule runs in: its path carries a tag of everything that goes into it.

Read while the rules are read: nothing here calls Apptainer.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from safe_llava.config.images import Images
from safe_llava.core.errors import ConfigError
from safe_llava.core.yaml_text import parse_yaml

NAMES = ("train", "eval", "paper")
DEFINITIONS = "containers"
BASE = "containers/base.yaml"
TAG_DIGITS = 12
# Names and versions of everything that is installed in a Debian folder.
INSTALLED = "var/lib/dpkg/status"
# What stands in a definition for the kind of packages.
KIND = "{{ wheels }}"
# And for whether flash-attn is compiled.
FLASH_ATTN = "{{ flash_attn }}"


def base(images: Images, root: Path) -> str:
    """Return the container images' base: the configuration's, else the pinned one, `docker://NAME@DIGEST`."""
    if images.base is not None:
        return images.base
    row = parse_yaml((root / BASE).read_text(encoding="utf-8"))
    return f"docker://{row['image']}@{row['digest']}"


def base_state(images: Images, root: Path) -> bytes:
    """Return what tells one content of the base from another, without reading all of it.

    A registry's digest does; of a .sif file it is its size and time, of a folder what Debian has installed in it. Of
    any other folder, and of one that is not there, only the path is known.
    """
    chosen = base(images, root)
    path = Path(chosen)
    if path.is_file():
        found = path.stat()
        return f"{chosen} {found.st_size} {found.st_mtime_ns}".encode()
    installed = path / INSTALLED
    return chosen.encode() + (hashlib.sha256(installed.read_bytes()).digest() if installed.is_file() else b"")


def has_kinds(name: str, root: Path) -> bool:
    """Say whether a container image holds other packages for GPUs than for CPUs."""
    return KIND in _definition(name, root)


def compiles_flash_attn(name: str, images: Images, root: Path) -> bool:
    """Say whether flash-attn is compiled into an image: where the configuration asks for it and the definition can."""
    return images.flash_attn and FLASH_ATTN in _definition(name, root)


def parts(name: str, wheels: str, root: Path) -> list[str]:
    """Return the files that go into a container image, relative to the clone: its definition, and what that copies.

    Raises:
        ConfigError: there is no definition of that name.
    """
    copied = re.search(r"^%files\n((?:[ \t]+.*\n)+)", _definition(name, root), re.MULTILINE)
    lines = copied[1].splitlines() if copied else []
    return [f"{DEFINITIONS}/{name}.def", *(line.replace(KIND, wheels).split()[0] for line in lines)]


def _definition(name: str, root: Path) -> str:
    path = root / DEFINITIONS / f"{name}.def"
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such definition", f"name one of {', '.join(NAMES)}") from error


def tag(name: str, images: Images, root: Path) -> str:
    """Return the tag of a container image: the first digits of the sha256 of its files, base and flash-attn."""
    digest = hashlib.sha256(base_state(images, root))
    for part in parts(name, images.wheels, root):
        digest.update(part.encode() + b"\0" + hashlib.sha256((root / part).read_bytes()).digest())
    if compiles_flash_attn(name, images, root):
        digest.update(FLASH_ATTN.encode())
    return digest.hexdigest()[:TAG_DIGITS]


def image_name(name: str, images: Images, root: Path) -> str:
    """Return an image's name without its tag: `train-cuda`, `eval-cpu`, `paper`."""
    return f"{name}-{images.wheels}" if has_kinds(name, root) else name


def image_path(name: str, images: Images, root: Path) -> str:
    """Return the container image of an environment: the user's own, or that of `snakemake images`."""
    own: str | None = getattr(images, name)
    return own or f"{images.folder}/{image_name(name, images, root)}-{tag(name, images, root)}.sif"


def tag_in(image: str) -> str | None:
    """Return the tag that an image's path carries; None of a container image that `snakemake images` does not make."""
    found = re.search(rf"-([0-9a-f]{{{TAG_DIGITS}}})\.sif$", image)
    return found[1] if found else None
