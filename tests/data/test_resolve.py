"""The rows of the data stage: what is refused, what they expand to, and the committed table."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from safe_llava.config.data import (
    DataConfig,
    DataSet,
    Pin,
    ResolvedFile,
    pin_key,
    resolve_files,
    resolve_set,
    resolve_snapshot,
)

TREE = {  # what the training code and PRISM's scripts expect under the data root
    "LLaVA-Pretrain/images",
    "LLaVA-Pretrain/Safe_blip_laion_cc_sbu_558k.json",
    "coco/train2017",
    "gqa/images",
    "ocr_vqa/images",
    "textvqa/train_images",
    "vg/VG_100K",
    "vg/VG_100K_2",
    "Safe_llava_v1_5_mix665k.json",
    "eval/PRISM/PRISM_refusal_soft.jsonl",
    "eval/PRISM/PRISM_refusal_hard.jsonl",
    "eval/PRISM/PRISM_implicit_leakage.jsonl",
    "eval/PRISM/biometric_images",
}


def dataset(**fields: Any) -> DataSet:
    return DataSet.model_validate({"title": "A set", "kind": "images", **fields})


def file(**fields: Any) -> dict[str, Any]:
    return {"path": "a/b.zip", "url": "https://data.example/b.zip", **fields}


@pytest.fixture(scope="module")
def config(root: Path) -> DataConfig:
    """The committed table with the committed pins."""
    table = yaml.safe_load((root / "config/datasets.yaml").read_text(encoding="utf-8"))["data"]
    lock = yaml.safe_load((root / "config/data.lock.yaml").read_text(encoding="utf-8"))["data"]
    return DataConfig.model_validate(table | lock)


def test_expansion_makes_every_combination() -> None:
    row = dataset(
        kind="answers",
        files=[
            file(
                path="{model}/{task}.jsonl",
                url="https://data.example/{revision}/{model}/{task}.jsonl",
                revision="abc",
                expand={"model": ["A", "B"], "task": ["x", "y"]},
            )
        ],
    )
    resolved = resolve_files("demo", row, {"data.example/abc/B/x.jsonl": Pin(size=3, sha256="a" * 64)})
    assert [one.path for one in resolved] == ["A/x.jsonl", "A/y.jsonl", "B/x.jsonl", "B/y.jsonl"]
    assert [one.size for one in resolved] == ["unknown", "unknown", 3, "unknown"]
    assert resolved[2].sha256 == "a" * 64


def test_an_unknown_revision_is_the_newest() -> None:
    row = dataset(files=[file(url="https://data.example/resolve/{revision}/b.zip")])
    assert resolve_files("demo", row, {})[0].url == "https://data.example/resolve/main/b.zip"


def test_a_pin_stands_for_the_published_figures() -> None:
    unpack = {"to": "a/b", "creates": "a/b", "files": 100}
    row = dataset(files=[file(md5="b" * 32, unpack=unpack)])
    (unpinned,) = resolve_files("demo", row, {})
    assert (unpinned.md5, unpinned.unpack.files if unpinned.unpack else None) == ("b" * 32, 100)
    (pinned,) = resolve_files("demo", row, {"data.example/b.zip": Pin(size=1, sha256="a" * 64)})
    assert (pinned.md5, pinned.unpack.files if pinned.unpack else None) == ("unknown", "unknown")


def test_a_snapshot_takes_the_pins_of_its_files() -> None:
    snapshot = {"repo": "org/name", "repo_type": "dataset", "path": "hub/x"}
    row = dataset(kind="benchmark", snapshot=snapshot)
    pin = Pin(size=1, sha256="a" * 64)
    key = "huggingface.co/datasets/org/name/resolve/main/data/x.parquet"
    resolved = resolve_snapshot("demo", row, {key: pin, "huggingface.co/org/name/resolve/main/y": pin})
    assert resolved is not None
    assert resolved.pins == {"data/x.parquet": pin}
    assert pin_key(resolved.url("data/x.parquet")) == key


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({}, "`files` or a `snapshot`"),
        ({"files": [file(path="../x")]}, "below the data root"),
        ({"files": [file(path="/x")]}, "below the data root"),
        ({"files": [file(url="ftp://x/y")]}, "https://"),
        ({"files": [file(md5="abc")]}, "32 hexadecimal"),
        ({"files": [file(typo=1)]}, "Extra inputs"),
        ({"kind": "prism", "files": [file()]}, "`annotations` belongs"),
    ],
)
def test_a_row_that_cannot_be_meant_is_refused(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        dataset(**fields)


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ([file(), file(url="https://data.example/c.zip")], r"a/b\.zip is already made"),
        ([file(url="https://data.example/{oops}")], "has the placeholder {oops}"),
        (
            [
                file(unpack={"to": "vg", "creates": "vg"}),
                file(path="a/c.zip", unpack={"to": "vg/VG_100K", "creates": "vg"}),
            ],
            "vg/VG_100K lies in vg",
        ),
    ],
)
def test_rows_that_are_in_each_others_way_are_refused(files: list[dict[str, Any]], fault: str) -> None:
    with pytest.raises(ValidationError, match=fault):
        DataConfig(sets={"demo": dataset(files=files)})


def test_the_committed_table_makes_the_tree_that_training_expects(config: DataConfig) -> None:
    made = set()
    for name, row in config.sets.items():
        for one in resolve_files(name, row, config.pins):
            made |= {one.path} | ({one.unpack.to} if one.unpack else set())
    assert made >= TREE


def test_the_committed_table_needs_only_what_it_has(config: DataConfig) -> None:
    for row in config.sets.values():
        assert set(row.needs) <= set(config.sets)
        own = {one.path for one in resolve_files("x", row, {})}
        assert {one.path for one in row.annotations} <= own


def test_the_committed_pins_are_those_of_the_released_answers(config: DataConfig) -> None:
    resolved = resolve_files("prism-released", config.sets["prism-released"], config.pins)
    assert len(resolved) == 27
    pinned = {pin_key(one.url): Pin(size=one.size, sha256=one.sha256) for one in resolved if one.size != "unknown"}
    assert pinned.items() <= config.pins.items()
    assert len(pinned) == 15
    assert len({one.path.split("/")[3] for one in resolved if one.size != "unknown"}) == 5


def test_the_released_answers_are_the_pinned_ones(config: DataConfig, shared: Path) -> None:
    from safe_llava.data.download.receipts import make_receipt as check

    for one in resolve_files("prism-released", config.sets["prism-released"], config.pins):
        if one.size != "unknown":
            assert check(shared / "mirror" / pin_key(one.url), one, "mirror").checked == ["size", "sha256"]


def test_a_resolved_set_survives_being_written(config: DataConfig) -> None:
    for name, row in config.sets.items():
        resolved = resolve_set(name, row, config.pins)
        assert type(resolved).model_validate_json(resolved.model_dump_json()) == resolved
        for one in resolved.files:
            assert ResolvedFile.model_validate_json(one.model_dump_json()) == one


def test_resolving_imports_nothing_heavy(root: Path) -> None:
    code = "import sys, safe_llava.config.data; print([m for m in sys.modules])"
    names = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(root / "scripts")},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "pydantic" in names
    for heavy in ("torch", "pandas", "numpy", "httpx", "huggingface_hub", "PIL"):
        assert f"'{heavy}'" not in names
