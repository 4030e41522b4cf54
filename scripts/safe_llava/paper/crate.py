"""Pack the results with all that they came from as a Workflow Run RO-Crate, a folder that others can read and check.

The crate holds tables, figures, the resolved configuration, the workflow's rules, versions and commit, the steps' and
Snakemake's logs, and for every input its address, size and checksum, as its receipt has them. Inputs themselves are not
copied. Its metadata follow the profiles Process Run Crate 0.5, Workflow Run Crate 0.5 and Workflow RO-Crate 1.0.

``python -m safe_llava.paper.crate --results results --config config.json --workflow workflow --out results/crate``
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate

from safe_llava import __version__
from safe_llava.core import cli
from safe_llava.core.errors import PaperError
from safe_llava.core.files import read_json, require_replaceable, write_json, write_text
from safe_llava.core.provenance import package_versions, record

CRATE_FOLDERS = ("tables", "figures", "costs")  # folders of the results that are packed, and the steps' logs
LICENCE = "https://spdx.org/licenses/Apache-2.0"
METADATA = "ro-crate-metadata.json"  # of every crate
BIOSCHEMAS = "https://bioschemas.org/profiles/ComputationalWorkflow/1.0-RELEASE"
PROJECT = "https://ucf-crcv.github.io/SafeLLaVA"  # of the work that is reproduced
README = """# Results of a run of the Safe-LLaVA workflow

`tables/` and `figures/` are what the run made, `costs/` what it took. `config.json` is the resolved configuration,
`workflow/` holds the rules, `provenance.json` version, commit and packages, `inputs.csv` every input with its address,
size and sha256, `logs/` what each step logged. `ro-crate-metadata.json` describes them all as a Workflow Run RO-Crate.
"""
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": ("Process Run Crate", "0.5"),
    "https://w3id.org/ro/wfrun/workflow/0.5": ("Workflow Run Crate", "0.5"),
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": ("Workflow RO-Crate", "1.0"),
}
PAPERS = {
    "https://arxiv.org/abs/2509.00192": (
        "Safe-LLaVA: A Privacy-Preserving Vision-Language Dataset and Benchmark for Biometric Safety",
        "Younggun Kim, Sirnam Swetha, Fazil Kagdi, Mubarak Shah",
        "2025",
    ),
    "https://arxiv.org/abs/2310.03744": (
        "Improved Baselines with Visual Instruction Tuning",
        "Haotian Liu, Chunyuan Li, Yuheng Li, Yong Jae Lee",
        "2024",
    ),
}
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """A file that the run began with: its address, and what its receipt says of it."""

    url: str
    path: str
    size: int
    sha256: str
    dataset: str


def read_inputs(results: Path) -> list[Input]:
    """Return every input of which the results hold a receipt, by address.

    Raises:
        SafeLlavaError: a receipt is not JSON, or lacks a key.
    """
    found: dict[str, Input] = {}
    for receipt in sorted((results / "data/fetched").rglob("*.json")):
        for one in _of_receipt(receipt, read_json(receipt)):
            found[one.url] = one
    for receipt in sorted((results / "data/snapshots").rglob("*.json")):
        for one in _of_receipt(receipt, read_json(receipt)):
            found[one.url] = one
    return [found[url] for url in sorted(found)]


def _of_receipt(path: Path, row: dict[str, Any]) -> Iterator[Input]:
    try:
        url = without_login(row["url"])
        if "files" not in row:
            yield Input(url, row["path"], row["size"], row["sha256"], row["set"])
            return
        base = url.replace(f"/resolve/{row['revision']}/", f"/resolve/{row['commit']}/")
        for name, facts in row["files"].items():
            yield Input(base + name, f"{row['repo']}/{name}", facts["size"], facts["sha256"], row["set"])
    except KeyError as error:
        raise PaperError(f"{path}: a receipt without {error}", "fetch the data again: snakemake data") from error


def without_login(text: str) -> str:
    """Return text in which no address carries a name and password."""
    return re.sub(r"(?<=://)[^/@\s\"]*@", "", text)


def run_times(results: Path) -> tuple[datetime, datetime]:
    """Return when the first step wrote its log, and when the last table or figure was written.

    Raises:
        PaperError: there are no tables.
    """
    logs = [path.stat().st_mtime for path in (results / "logs").rglob("*.log")]
    made = [path.stat().st_mtime for name in CRATE_FOLDERS for path in (results / name).rglob("*") if path.is_file()]
    if not made:
        raise PaperError(f"{results}: no tables or figures", "make them first: snakemake paper")
    end = max(made)
    return datetime.fromtimestamp(min([*logs, end]), UTC), datetime.fromtimestamp(end, UTC)


def make_crate(results: Path, config: str, workflow: Path, snakemake_logs: Path | None, work: Path) -> ROCrate:
    """Return the crate of a results folder.

    Args:
        results: the folder of everything that the run made.
        config: the resolved configuration, as JSON.
        workflow: the folder of the Snakefile.
        snakemake_logs: the folder of Snakemake's own logs.
        work: a folder for files of the crate that are made here; it has to stay until the crate is written.

    Raises:
        SafeLlavaError: there are no results, or a receipt cannot be read.
    """
    start, end = run_times(results)
    inputs = read_inputs(results)
    crate = ROCrate(version="1.1")
    crate.name = "Safe-LLaVA and PRISM: results of a workflow run"
    crate.description = "Tables and figures of a run of the Safe-LLaVA workflow, and what they were made from."
    crate.datePublished = end.date().isoformat()
    licence = {"@type": "CreativeWork", "name": "Apache-2.0", "description": "Apache License 2.0", "url": LICENCE}
    crate.license = crate.add(ContextEntity(crate, LICENCE, licence))
    authors = {"@type": "Organization", "name": "the project's contributors", "url": PROJECT}
    crate.root_dataset["author"] = crate.add(ContextEntity(crate, "#contributors", authors))
    rules = _add_workflow(crate, workflow)
    facts = _add_facts(crate, config, inputs, work)
    files = [_add_file(crate, path, results) for name in CRATE_FOLDERS for path in _files(results / name)]
    for path in _files(results / "logs"):
        _add_file(crate, path, results)
    for path in _files(snakemake_logs) if snakemake_logs else []:
        if path.stat().st_mtime >= start.timestamp():
            crate.add_file(path, f"logs/snakemake/{path.name}", properties=_described(path, "Log of Snakemake"))
    action = crate.add_action(
        rules,
        identifier="#run",
        object=[*(_add_input(crate, one, start) for one in inputs), facts[0]],
        result=files,
        properties={
            "name": "The run of the workflow that made these tables and figures",
            "description": "Snakemake ran the rules of workflow/ with the configuration in config.json",
            "startTime": start.isoformat(timespec="seconds"),
            "endTime": end.isoformat(timespec="seconds"),
            "actionStatus": "http://schema.org/CompletedActionStatus",
        },
    )
    crate.root_dataset["mentions"] = action
    _add_profiles_and_papers(crate)
    return crate


def _add_workflow(crate: ROCrate, folder: Path) -> Any:
    version = package_versions(["snakemake"]).get("snakemake", "unknown")
    main = crate.add_workflow(
        folder / "Snakefile",
        "workflow/Snakefile",
        main=True,
        lang="snakemake",
        lang_version=version,
        properties={"name": "Safe-LLaVA workflow", "encodingFormat": "text/plain", "version": __version__},
    )
    main["conformsTo"] = crate.add(ContextEntity(crate, BIOSCHEMAS, {"@type": "CreativeWork", "name": "Bioschemas"}))
    main["hasPart"] = [
        crate.add_file(path, f"workflow/rules/{path.name}", properties=_described(path, "Rules of Snakemake"))
        for path in _files(folder / "rules")
    ]
    return main


def _add_facts(crate: ROCrate, config: str, inputs: Sequence[Input], work: Path) -> list[Any]:
    """Add what describes the run: configuration, versions and commit, and the inputs with their checksums."""
    write_text(work / "config.json", without_login(config))
    write_json(work / "provenance.json", record())
    lines = ["url,path,size,sha256,dataset"]
    lines += [",".join(map(str, (one.url, one.path, one.size, one.sha256, one.dataset))) for one in inputs]
    write_text(work / "inputs.csv", "\n".join(lines) + "\n")
    write_text(work / "README.md", README)
    readme = _described(work / "README.md", "What lies here") | {"about": {"@id": "./"}}
    crate.add_file(work / "README.md", "README.md", properties=readme)
    described = {
        "config.json": "The resolved configuration",
        "provenance.json": "Version, commit and packages of the workflow",
        "inputs.csv": "Every input with address, size and sha256",
    }
    return [crate.add_file(work / name, name, properties=_described(work / name, d)) for name, d in described.items()]


def _add_file(crate: ROCrate, path: Path, results: Path) -> Any:
    name = path.relative_to(results)
    return crate.add_file(path, str(name), properties=_described(path, f"{name.parent}: {path.name}"))


def _add_input(crate: ROCrate, one: Input, start: datetime) -> Any:
    properties = {"name": one.path, "contentSize": str(one.size), "sha256": one.sha256, "description": one.dataset}
    properties |= {"encodingFormat": "application/octet-stream", "sdDatePublished": start.isoformat()}
    return crate.add_file(one.url, properties=properties)


FORMATS = {
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".tex": "application/x-tex",
    ".json": "application/json",
    ".png": "image/png",
    ".pdf": "application/pdf",
    ".html": "text/html",
}


def _described(path: Path, description: str) -> dict[str, Any]:
    return {
        "name": path.name,
        "description": description,
        "encodingFormat": FORMATS.get(path.suffix, "text/plain"),
        "contentSize": str(path.stat().st_size),
    }


def _add_profiles_and_papers(crate: ROCrate) -> None:
    profiles = [
        crate.add(ContextEntity(crate, url, {"@type": "CreativeWork", "name": name, "version": version}))
        for url, (name, version) in PROFILES.items()
    ]
    crate.root_dataset["conformsTo"] = profiles
    crate.root_dataset["citation"] = [
        crate.add(
            ContextEntity(
                crate, url, {"@type": "ScholarlyArticle", "name": name, "author": authors, "datePublished": year}
            )
        )
        for url, (name, authors, year) in PAPERS.items()
    ]


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


def main(argv: Sequence[str] | None = None) -> int | None:
    """Write the crate, whole or not at all."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--results", type=Path, required=True, help="folder of everything that the run made")
    parser.add_argument("--config", type=Path, required=True, help="JSON file of the resolved configuration")
    parser.add_argument("--workflow", type=Path, required=True, help="folder of the Snakefile")
    parser.add_argument("--snakemake-logs", type=Path, help="folder of Snakemake's logs")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(argv)
    require_replaceable(options.out, METADATA, PaperError)
    config = json.dumps(json.loads(options.config.read_text(encoding="utf-8")), indent=2, sort_keys=True) + "\n"
    part = options.out.with_name(f".{options.out.name}.part")
    made = options.out.with_name(f".{options.out.name}.made")
    try:
        crate = make_crate(options.results, config, options.workflow, options.snakemake_logs, made)
        shutil.rmtree(part, ignore_errors=True)
        crate.write(part)
        shutil.rmtree(options.out, ignore_errors=True)
        part.rename(options.out)
    finally:
        for folder in (part, made):
            shutil.rmtree(folder, ignore_errors=True)
    log.info("%s: %d entities", options.out, len(list(crate.get_entities())))
    return None


if __name__ == "__main__":
    cli.run(main)
