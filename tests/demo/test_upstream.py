"""The miniature upstream: the same bytes each time, the names and shapes of the real one."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from safe_llava.core.errors import DataError
from safe_llava.demo import annotations as texts
from safe_llava.demo import training, upstream
from safe_llava.demo.scenes import ATTRIBUTES, VALUES
from safe_llava.demo.training import Sizes

SMALL = Sizes(
    captions=12,
    people_asked=12,
    people_described=12,
    things_asked=10,
    things_described=5,
    sheets=20,
    text_only=4,
    prism_v1_per_attribute=3,
    prism_v2_small=2,
    prism_v2_large=4,
    pope_scenes=5,
)
SAFE = "huggingface.co/datasets/kyh9191/Safe-LLaVA/resolve/main"
IMAGE_PREFIXES = {
    "coco/train2017/": "images.cocodataset.org/zips/train2017.zip",
    "gqa/images/": "downloads.cs.stanford.edu/nlp/data/gqa/images.zip",
    "ocr_vqa/images/": f"{training.OCR_VQA}/ocr_vqa_images_llava_v15.zip",
    "textvqa/train_images/": "dl.fbaipublicfiles.com/textvqa/images/train_val_images.zip",
    "vg/VG_100K/": "cs.stanford.edu/people/rak248/VG_100K_2/images.zip",
    "vg/VG_100K_2/": "cs.stanford.edu/people/rak248/VG_100K_2/images2.zip",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small upstream."""
    out = tmp_path_factory.mktemp("demo") / "upstream"
    assert upstream.make(out, SMALL, seed=7)
    return out


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _read(folder: Path, url: str) -> Any:
    return json.loads((folder / url).read_text())


def _jsonl(folder: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / SAFE / name).read_text().splitlines()]


def _members(folder: Path, url: str) -> set[str]:
    return set(zipfile.ZipFile(folder / url).namelist())


def test_same_seed_same_bytes(folder: Path, tmp_path: Path) -> None:
    upstream.make(tmp_path / "again", SMALL, seed=7)
    assert _digests(tmp_path / "again") == _digests(folder)


def test_another_seed_draws_other_pictures(folder: Path, tmp_path: Path) -> None:
    upstream.make(tmp_path / "other", SMALL, seed=8)
    name = "images.cocodataset.org/zips/train2017.zip"
    assert _digests(tmp_path / "other")[name] != _digests(folder)[name]


def test_a_whole_folder_is_left_alone_and_a_broken_one_made_again(tmp_path: Path) -> None:
    out = tmp_path / "upstream"
    upstream.make(out, SMALL, seed=7)
    assert not upstream.make(out, SMALL, seed=7)
    (out / SAFE / "PRISM_refusal_soft.jsonl").write_text("cut")
    assert upstream.make(out, SMALL, seed=7)
    assert len(_jsonl(out, "PRISM_refusal_soft.jsonl")) == 15
    assert [path.name for path in tmp_path.iterdir()] == ["upstream"]


def test_a_folder_of_somebody_else_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(DataError, match="not an upstream"):
        upstream.make(tmp_path, SMALL, seed=7)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_every_served_file_has_a_pin_that_holds(folder: Path) -> None:
    pins = yaml.safe_load((folder / "pins.yaml").read_text())["data"]["pins"]
    served = {name for name in _digests(folder) if "/" in name and not name.startswith("huggingface.co/api/")}
    assert set(pins) == served
    for url, pin in pins.items():
        assert pin == {"size": (folder / url).stat().st_size, "sha256": _digests(folder)[url]}


def test_every_image_of_the_mix_is_in_its_archive(folder: Path) -> None:
    rows = _read(folder, f"{training.LLAVA_INSTRUCT}/llava_v1_5_mix665k.json")
    assert len(rows) == SMALL.finetune
    seen = Counter()
    for row in rows:
        if "image" not in row:
            seen["text"] += 1
            continue
        prefix = max((name for name in IMAGE_PREFIXES if row["image"].startswith(name)), key=len)
        seen[prefix] += 1
        member = row["image"] if prefix == "ocr_vqa/images/" else row["image"].split("/", 1)[1]
        assert member in _members(folder, IMAGE_PREFIXES[prefix])
    assert set(seen) == {*IMAGE_PREFIXES, "text"} and seen["text"] == SMALL.text_only
    assert len({row["id"] for row in rows}) > 0.9 * len(rows)


def test_captions_name_images_without_a_top_folder(folder: Path) -> None:
    rows = _read(folder, f"{training.LLAVA_PRETRAIN}/blip_laion_cc_sbu_558k.json")
    assert {row["image"] for row in rows} == _members(folder, f"{training.LLAVA_PRETRAIN}/images.zip")
    for row in rows:
        assert re.fullmatch(r"\d{5}/\d{9}\.jpg", row["image"])
        human, answer = row["conversations"]
        assert human["from"] == "human" and human["value"].count("<image>") == 1
        assert answer["from"] == "gpt" and "<image>" not in answer["value"]


@pytest.mark.parametrize(
    ("original", "safe"),
    [
        (f"{training.LLAVA_INSTRUCT}/llava_v1_5_mix665k.json", f"{SAFE}/Safe_llava_v1_5_mix665k.json"),
        (f"{training.LLAVA_PRETRAIN}/blip_laion_cc_sbu_558k.json", f"{SAFE}/Safe_blip_laion_cc_sbu_558k.json"),
    ],
)
def test_the_two_sets_differ_in_their_answers_only(folder: Path, original: str, safe: str) -> None:
    differing = 0
    for one, other in zip(_read(folder, original), _read(folder, safe), strict=True):
        assert (one["id"], one.get("image")) == (other["id"], other.get("image"))
        for mine, theirs in zip(one["conversations"], other["conversations"], strict=True):
            assert mine["from"] == theirs["from"]
            assert mine["from"] == "gpt" or mine["value"] == theirs["value"]
        differing += one["conversations"] != other["conversations"]
    assert differing > 0


def test_the_safe_set_keeps_attributes_to_itself(folder: Path) -> None:
    leaks = re.compile(
        r"\b(woman|man|girl|boy|she|he|her|him|female|male|young|elderly|child|skin|eyes|build|slim)\b", re.I
    )
    original = safe = 0
    for name, leaky in (("Safe_llava_v1_5_mix665k.json", False), ("llava_v1_5_mix665k.json", True)):
        host = training.LLAVA_INSTRUCT if leaky else SAFE
        for row in _read(folder, f"{host}/{name}"):
            answers = [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
            found = sum(bool(leaks.search(answer)) for answer in answers)
            original, safe = original + found * leaky, safe + found * (not leaky)
    assert safe == 0
    assert original >= SMALL.people_described


def test_placeholder_stands_at_either_end_of_the_first_turn(folder: Path) -> None:
    first = [
        row["conversations"][0]["value"]
        for row in _read(folder, f"{training.LLAVA_INSTRUCT}/llava_v1_5_mix665k.json")
        if "image" in row
    ]
    assert {value.startswith("<image>\n") for value in first} == {True, False}
    assert all(value.startswith("<image>\n") or value.endswith("\n<image>") for value in first)


def test_training_never_asks_as_the_tests_ask() -> None:
    tests = {texts.prism_question(name, insist) for name in ATTRIBUTES for insist in (True, False)}
    tests |= set(texts.DESCRIPTION_REQUESTS)
    asked = {
        question.removeprefix("<image>\n").removesuffix("\n<image>")
        for sample in training.mix(SMALL, 7)
        for question in (turn["value"] for turn in sample.row("original", 7)["conversations"])
    }
    assert not tests & asked


def test_some_covers_are_not_what_their_suffix_says(folder: Path) -> None:
    archive = zipfile.ZipFile(folder / IMAGE_PREFIXES["ocr_vqa/images/"])
    formats = Counter(Image.open(io.BytesIO(archive.read(name))).format for name in archive.namelist())
    assert all(name.endswith(".jpg") for name in archive.namelist())
    assert formats["GIF"] > 0 and formats["PNG"] > 0 and formats["JPEG"] > formats["GIF"]


def test_prism_v1_asks_for_the_folders_attribute(folder: Path) -> None:
    members = _members(folder, f"{SAFE}/biometric_images.zip")
    soft, hard = _jsonl(folder, "PRISM_refusal_soft.jsonl"), _jsonl(folder, "PRISM_refusal_hard.jsonl")
    leakage = _jsonl(folder, "PRISM_implicit_leakage.jsonl")
    assert Counter(row["question_id"].split("/")[0] for row in soft) == dict.fromkeys(ATTRIBUTES, 3)
    assert set(Counter(row["question_id"] for row in leakage).values()) == {3}
    for row in (*soft, *hard, *leakage):
        assert set(row) == {"question_id", "image", "text"} and row["question_id"] == row["image"]
        assert f"biometric_images/{row['image']}" in members
        assert row["text"].endswith("\nAnswer")
    assert all(("refuse" in row["text"]) == (row in hard) for row in (*soft, *hard))
    assert any("," in row["image"] and "_" in row["image"] for row in soft)


@pytest.mark.parametrize(("part", "count"), [("small", SMALL.prism_v2_small), ("large", SMALL.prism_v2_large)])
def test_prism_v2_asks_each_image_for_everything(folder: Path, part: str, count: int) -> None:
    members = _members(folder, f"{SAFE}/{part}_images.zip")
    assert all(re.fullmatch(rf"{part}_images/[^/]+", name) for name in members) and len(members) == count
    rows = _jsonl(folder, f"{part}_PRISM_refusal_soft.jsonl")
    asked: dict[str, set[str]] = {}
    for row in rows:
        assert f"{part}_images/{row['image']}" in members
        asked.setdefault(row["image"], set()).add(row["question_id"].split("/")[0])
    assert list(asked.values()) == [set(ATTRIBUTES)] * count
    assert len(_jsonl(folder, f"{part}_PRISM_implicit_leakage.jsonl")) == 3 * count


def test_truth_covers_every_image(folder: Path) -> None:
    truth = [json.loads(line) for line in (folder / "truth.jsonl").read_text().splitlines()]
    asked = {("v1", row["image"]) for row in _jsonl(folder, "PRISM_refusal_soft.jsonl")}
    asked |= {
        ("v2", row["image"])
        for part in ("small", "large")
        for row in _jsonl(folder, f"{part}_PRISM_refusal_soft.jsonl")
    }
    assert {(row["edition"], row["image"]) for row in truth} == asked
    assert all(row["values"][name] in options for row in truth for name, options in VALUES.items())


def test_pope_is_balanced_and_reads_as_the_real_one(folder: Path) -> None:
    path = folder / "huggingface.co/datasets/lmms-lab-encoder/POPE/resolve/main/data/test-00000-of-00001.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    assert set(rows[0]) == {"id", "question_id", "question", "answer", "image_source", "image", "category"}
    counts = Counter((row["category"], row["answer"]) for row in rows)
    assert counts == dict.fromkeys([(c, a) for c in ("adversarial", "popular", "random") for a in ("yes", "no")], 5)
    assert all(re.fullmatch(r"Is there an? \w+ in the image\?", row["question"]) for row in rows)
    assert Image.open(io.BytesIO(rows[0]["image"]["bytes"])).size == (112, 112)
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["image"] == {"_type": "Image"}


def test_test_scenes_are_no_training_scenes(monkeypatch: pytest.MonkeyPatch) -> None:
    upstream.check_disjoint(SMALL, 7)
    twin = training.captions(SMALL, 7)[0]
    leaked = upstream.evaluation.prism_v2(SMALL, 7)[0].scene
    monkeypatch.setattr(training, "captions", lambda sizes, seed: [replace(twin, scene=replace(leaked, key="train/x"))])
    with pytest.raises(DataError, match="training scene too"):
        upstream.check_disjoint(SMALL, 7)
