"""Container images, built, pinned and listed: `python -m safe_llava.containers.build COMMAND`.

build    build or pull one container image, as `snakemake images` does
pin      ask the registry for the digest of the base's tag, and write it into containers/base.yaml
list     results that were made in another container image than today's, or in none
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml

from safe_llava import __version__
from safe_llava.config.images import Images
from safe_llava.config.load import load
from safe_llava.config.selection import ROOT, config_files
from safe_llava.containers.tag import (
    BASE,
    DEFINITIONS,
    NAMES,
    TAG_DIGITS,
    base,
    compiles_flash_attn,
    has_kinds,
    image_name,
    tag,
)
from safe_llava.core import cli
from safe_llava.core.errors import ConfigError, DataError
from safe_llava.core.files import atomic_path, file_digest, write_json, write_text
from safe_llava.core.http import open_http_client
from safe_llava.core.memory import usable_memory
from safe_llava.core.provenance import code_commit, own_labels
from safe_llava.core.rows import read_row

# The machine's own way to the package index: handed to %post in a bound folder: nothing of it stays.
PIP_SETTINGS = (
    *(f"PIP_{name}" for name in ("INDEX_URL", "EXTRA_INDEX_URL", "FIND_LINKS", "CERT", "TRUSTED_HOST", "CONFIG_FILE")),
    *(f"UV_{name}" for name in ("DEFAULT_INDEX", "INDEX", "FIND_LINKS", "CACHE_DIR", "INSECURE_HOST", "SYSTEM_CERTS")),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "http_proxy", "https_proxy", "no_proxy"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
    "MAX_JOBS",
)
MOUNT = "/mnt"
COMPILER_BYTES = 8e9  # what a compiler of flash-attn takes for some of its files
STDERR = 2
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MANIFESTS = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
# Folders below the results that hold no records of results.
PASSED_OVER = {"data", "logs", "usage", "checkpoints", "tensorboard", "model", "models"}


def source(images: Images, root: Path) -> tuple[str, str]:
    """Return Apptainer's `bootstrap` and `from` of the container images' base.

    Raises:
        ConfigError: the base is not pinned, or is not there.
    """
    chosen = base(images, root)
    if chosen.startswith("docker://"):
        if not DIGEST.fullmatch(chosen.rpartition("@")[2]):
            raise ConfigError(
                f"{BASE if images.base is None else 'images.base'}: {chosen} is not pinned by a digest",
                "python -m safe_llava.containers.build pin, where the registry can be reached; "
                "or images.base: docker://NAME@sha256:…, or a folder or .sif file with Python 3.11",
            )
        return "docker", chosen.removeprefix("docker://")
    if not Path(chosen).exists():
        raise ConfigError(f"images.base: {chosen}: no such folder or file", "name one, or docker://NAME@sha256:…")
    return "localimage", chosen


def machine_settings(environment: Mapping[str, str], folder: Path) -> list[str]:
    """Write the machine's settings into ``folder`` as shell, and return the binds that show it to %post.

    A value that is a file or folder here is bound below the mount under its variable's name.
    """
    binds = [f"{folder}:{MOUNT}"]
    lines = []
    for name in PIP_SETTINGS:
        value = environment.get(name, "")
        path = Path(value)
        if path.is_absolute() and path.exists():
            place = folder / name
            place.mkdir() if path.is_dir() else place.touch()
            binds.append(f"{path}:{MOUNT}/{name}")
            value = f"{MOUNT}/{name}"
        if value:
            lines.append(f"export {name}={shlex.quote(value)}\n")
    (folder / "settings.sh").write_text("".join(lines), encoding="utf-8")
    return binds


def build(name: str, images: Images, out: Path, root: Path = ROOT) -> None:
    """Build a container image, or pull it where a registry is configured; then write what it is beside it.

    Apptainer finds by itself how: as root, with a range of subordinate user ids, or in a user namespace alone. Its
    environment variables hold here as everywhere (APPTAINER_TMPDIR, APPTAINER_MKSQUASHFS_ARGS, …).

    Raises:
        ConfigError: the base is not pinned or not there, or Apptainer is not installed.
        DataError: Apptainer failed, or the registry gives another container image than its tag says.
    """
    with tempfile.TemporaryDirectory() as folder, atomic_path(out) as temporary:
        if images.registry is not None:
            repository = f"{images.registry.rstrip('/')}/{image_name(name, images, root)}"
            _pull(repository, tag(name, images, root), temporary, root)
        else:
            apptainer(
                [
                    "build",
                    "--force",
                    *_options(name, images, Path(folder), root),
                    str(temporary.resolve()),
                    f"{DEFINITIONS}/{name}.def",
                ],
                root,
            )
        note = {"sha256": file_digest(temporary), "bytes": temporary.stat().st_size, "labels": labels(temporary)}
    write_json(f"{out}.json", note)


def _pull(repository: str, wanted: str, out: Path, root: Path) -> None:
    """Pull a container image, and look inside whether it is the one that the registry's tag names."""
    apptainer(["pull", "--force", str(out.resolve()), f"{repository}:{wanted}"], root)
    found = labels(out).get("safe-llava.tag", "none")
    if found != wanted:
        raise DataError(
            f"{repository}:{wanted}: the container image that was pulled says that its tag is {found}",
            "push the right one (docs/images.md, A registry), or build here with images.registry: null",
        )


def _options(name: str, images: Images, folder: Path, root: Path) -> list[str]:
    """Return the binds and build arguments of a build."""
    bootstrap, origin = source(images, root)
    # What was downloaded for one container image is not downloaded again for the next.
    cache = Path(os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache/uv")
    cache.mkdir(parents=True, exist_ok=True)
    compilers = max(1, min(len(os.sched_getaffinity(0)), int(usable_memory() / COMPILER_BYTES)))
    binds = machine_settings({"MAX_JOBS": str(compilers), **os.environ, "UV_CACHE_DIR": str(cache)}, folder)
    facts = {"bootstrap": bootstrap, "base": origin, "version": __version__, "commit": code_commit()}
    facts |= {"tag": tag(name, images, root)} | ({"wheels": images.wheels} if has_kinds(name, root) else {})
    facts |= {"flash_attn": "yes"} if compiles_flash_attn(name, images, root) else {}
    return [
        *(word for bind in binds for word in ("--bind", bind)),
        *(word for key, value in facts.items() for word in ("--build-arg", f"{key}={value}")),
    ]


def apptainer(arguments: Sequence[str], root: Path) -> None:
    """Run Apptainer; what it says goes to standard error."""
    try:
        code = subprocess.run(["apptainer", *arguments], cwd=root, stdout=STDERR, check=False).returncode
    except FileNotFoundError as error:
        raise ConfigError("apptainer: no such command", "load the site's module, or install Apptainer") from error
    if code:
        raise DataError(
            f"apptainer {arguments[0]}: exit status {code}",
            "read what it says above; docs/images.md says what a build needs (disk in APPTAINER_TMPDIR, the network)",
        )


def labels(image: Path) -> dict[str, str]:
    """Return the labels that this project gave a container image, as spython reads them.

    Raises:
        DataError: the file is not a container image.
    """
    from spython.main import Client

    with _singularity():
        found = Client.inspect(str(image))
    if "attributes" not in found:
        raise DataError(f"{image}: not a container image: {found.get('message')}", "make it again: snakemake images")
    return own_labels(found["attributes"]["labels"])


@contextmanager
def _singularity() -> Iterator[None]:
    """Let spython find Apptainer, which it calls by its old name; some installations have only the new one."""
    path = os.environ["PATH"]
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "singularity").write_text('#!/bin/sh\nexec apptainer "$@"\n', encoding="utf-8")
        Path(folder, "singularity").chmod(0o755)
        os.environ["PATH"] = f"{folder}:{path}"
        try:
            yield
        finally:
            os.environ["PATH"] = path


def registry_digest(image: str, label: str, client: httpx2.Client) -> str:
    """Ask a registry for the digest of a tag, for every architecture together.

    Source: the OCI distribution specification, and Docker's token authentication for anonymous readers.
    """
    host, _, repository = image.partition("/")
    host = {"docker.io": "registry-1.docker.io"}.get(host, host)
    url = f"https://{host}/v2/{repository}/manifests/{label}"
    answer = client.head(url, headers={"Accept": MANIFESTS})
    if answer.status_code == httpx2.codes.UNAUTHORIZED:
        asked = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers.get("www-authenticate", "")))
        token = client.get(asked.pop("realm"), params=asked).raise_for_status().json()["token"]
        answer = client.head(url, headers={"Accept": MANIFESTS, "Authorization": f"Bearer {token}"})
    digest = answer.raise_for_status().headers.get("docker-content-digest", "")
    if not DIGEST.fullmatch(digest):
        raise DataError(f"{url}: the registry names no digest", "pin it by hand: skopeo inspect docker://NAME:TAG")
    return str(digest)


def pin(path: Path, client: httpx2.Client) -> str:
    """Write the digest of the base's tag into its file, and return it."""
    text = path.read_text(encoding="utf-8")
    row = yaml.safe_load(text)
    try:
        digest = registry_digest(row["image"], row["tag"], client)
    except (httpx2.HTTPError, KeyError) as error:
        raise DataError(f"{row['image']}: {error!r}", "try again where the registry can be reached") from error
    write_text(path, re.sub(r"^digest: .*$", f"digest: {digest}", text, flags=re.MULTILINE))
    return digest


@dataclass(frozen=True)
class Made:
    """A result and the container image it was made in."""

    result: str
    image: str
    tag: str
    commit: str


def records(results: Path) -> Iterator[Made]:
    """Yield every result below a folder whose record names a container image, or says that there was none."""
    for folder, folders, files in os.walk(results):
        folders[:] = sorted(name for name in folders if name not in PASSED_OVER and not name.startswith("."))
        for path in (Path(folder, name) for name in sorted(files) if name.endswith(".json")):
            try:
                value = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                continue
            record = value.get("provenance", value) if isinstance(value, dict) else {}
            if isinstance(record, dict) and "image" in record and "commit" in record:
                yield _made(path.relative_to(results), record)


def _made(path: Path, record: dict[str, Any]) -> Made:
    image = record["image"]
    if not isinstance(image, dict):
        return Made(str(path), "none", "", record["commit"])
    found = image.get("labels", {})
    name = found.get("org.opencontainers.image.title", "").removeprefix("safe-llava-")
    return Made(str(path), name or image["path"], found.get("safe-llava.tag", ""), record["commit"])


def listing(made: Sequence[Made], tags: Mapping[str, str]) -> str:
    """Return the results that were made in another container image than today's as a table, and how many were not."""
    others = [one for one in made if tags.get(one.image) != one.tag]
    rows = [("result", "made in", "today", "commit")] if others else []
    rows += [
        (one.result, f"{one.image} {one.tag}".strip(), tags.get(one.image, ""), one.commit[:TAG_DIGITS])
        for one in others
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, f"{len(made)} results, {len(made) - len(others)} of them made in today's images"])


def main(argv: Sequence[str] | None = None) -> None:
    """Run one of the commands."""
    options = _parser().parse_args(argv)
    if options.command == "build":
        build(options.name, read_row(options.images, Images, ConfigError), options.out)
    elif options.command == "pin":
        with open_http_client(DataError, timeout=30) as client:
            print(f"{BASE}: {pin(ROOT / BASE, client)}")
    else:
        config = load(config_files(options.configfile))
        tags = {name: tag(name, config.images, ROOT) for name in NAMES}
        print(listing(list(records(options.results or Path(config.results))), tags))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    building = commands.add_parser("build", help="build or pull one image")
    building.add_argument("--name", choices=NAMES, required=True, help="which image")
    building.add_argument("--images", type=Path, required=True, help="JSON of the configuration's section `images`")
    building.add_argument("--out", type=Path, required=True, help="the .sif file")
    commands.add_parser("pin", help="pin the base's digest")
    listed = commands.add_parser("list", help="what was made in which image")
    listed.add_argument("--configfile", type=Path, nargs="+", default=[], help="laid over the files of config/")
    listed.add_argument("--results", type=Path, help="folder of results; default: that of the configuration")
    return parser


if __name__ == "__main__":
    cli.run(main)
