"""The benchmark itself, on a data set small enough for a test."""

from __future__ import annotations

import json
from pathlib import Path

from safe_llava.speed import data as bench


def test_both_benchmarks_run_in_small(tmp_path: Path) -> None:
    flags = ["--work", str(tmp_path / "work"), "--out", str(tmp_path / "out.json"), "--rounds", "1"]
    bench.main(["decode", *flags, "--images", "6", "--workers", "2"])
    found = json.loads((tmp_path / "out.json").read_text())
    assert [line["storage"] for line in found["rounds"]] == list(bench.DECODED)
    assert all(line["images_per_s"] > 0 for line in found["rounds"])
    assert not (tmp_path / "work").exists()


def test_the_synthetic_set_has_the_shape_of_the_real_one(tmp_path: Path) -> None:
    images = bench.write_annotations(tmp_path, 0.001)
    assert sum(len(names) for names in images.values()) == 1182
    folders = {name for names in bench.FOLDERS.values() for name in names}
    assert set(images) == {bench.CAPTION_IMAGES, *bench.COCO, *folders}
    rows = json.loads((tmp_path / "finetune.json").read_text())
    named = {row["image"] for row in rows if "image" in row}
    assert named == {f"{to}/{name}" for to, names in images.items() if to != bench.CAPTION_IMAGES for name in names}
    assert all(row["conversations"] for row in rows)
