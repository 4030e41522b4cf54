"""The layout check: every image that is named is there, not empty, and decodes."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data.storing import archive_folder
from safe_llava.core.errors import DataError, SafeLlavaError
from safe_llava.data import layout as step
from safe_llava.images import store as imagefiles

SOFT = "eval/PRISM/PRISM_refusal_soft.jsonl"

SAY = {"from": "gpt", "value": "It."}


def sample(number: int, image: str | None) -> dict[str, Any]:
    named = {} if image is None else {"image": image}
    return {"id": str(number), **named, "conversations": [{"from": "human", "value": "Say it."}, SAY]}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data root with five images, one of them named by two samples, and a sample without an image."""
    root = tmp_path / "data"
    names = [
        "coco/train2017/1.jpg",
        "coco/train2017/2.jpg",
        "gqa/images/3.jpg",
        "vg/VG_100K/4.jpg",
        "vg/VG_100K_2/5.png",
    ]
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path)
    rows = [sample(n, name) for n, name in enumerate([*names, names[0]])] + [sample(9, None)]
    (root / "mix.json").write_text(json.dumps(rows))
    return root


def run(root: Path, *more: str, annotations: tuple[str, ...] = ("mix.json",), kind: str = "train") -> dict[str, Any]:
    out = [*("--out", str(root / "report.csv")), *("--summary", str(root / "summary.json"))]
    files = [str(root / name) for name in annotations]
    step.main(["--annotations", *files, "--root", str(root), "--kind", kind, *out, *more])
    summary: dict[str, Any] = json.loads((root / "summary.json").read_text())
    return summary


def report(root: Path) -> list[dict[str, str]]:
    with (root / "report.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("decode", ["all", "sample", "none"])
def test_a_whole_layout_passes(data: Path, decode: str) -> None:
    summary = run(data, "--decode", decode)
    assert summary["images"] == 5
    assert summary["files"]["mix.json"]["parts"] == {"text only": 1, "with image": 6}
    assert summary["files"]["mix.json"]["samples"] == 7
    assert report(data) == []


def test_what_is_wrong_is_listed_with_its_cost(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    (data / "coco/train2017/1.jpg").unlink()
    (data / "gqa/images/3.jpg").write_bytes(b"")
    (data / "vg/VG_100K/4.jpg").write_bytes(b"no image")
    with pytest.raises(DataError) as caught:
        run(data, "--decode", "all")
    assert "1 images are missing and 2 empty or undecodable of 5" in caught.value.message
    assert "cost 4 samples" in caught.value.message
    assert "coco/train2017" in caught.value.message
    assert "report.csv" in caught.value.remedy
    assert not (data / "summary.json").exists()
    assert caplog.text.count("samples of mix.json") == 3, "the log keeps what a deleted report would lose"
    found = {row["image"]: (row["problem"], row["samples"], row["expected_at"]) for row in report(data)}
    assert found == {
        "coco/train2017/1.jpg": ("missing", "2", "coco/train2017/1.jpg"),
        "gqa/images/3.jpg": ("empty", "1", "gqa/images/3.jpg"),
        "vg/VG_100K/4.jpg": ("undecodable", "1", "vg/VG_100K/4.jpg"),
    }


def test_a_missing_folder_is_named_as_such(data: Path) -> None:
    (data / "vg/VG_100K").rename(data / "vg/elsewhere")
    with pytest.raises(DataError, match="VG_100K: 1"):
        run(data)
    assert report(data)[0]["detail"] == "its folder is missing"


def test_tolerance_lets_so_many_pass(data: Path) -> None:
    (data / "coco/train2017/1.jpg").unlink()
    (data / "gqa/images/3.jpg").write_bytes(b"")
    for flags in (["--tolerance-missing", "1"], ["--tolerance-undecodable", "1"]):
        with pytest.raises(DataError):
            run(data, *flags)
    summary = run(data, "--tolerance-missing", "1", "--tolerance-undecodable", "1")
    assert (summary["missing"], summary["empty"], summary["samples_lost"]) == (1, 1, 3)


def test_a_truncated_picture_is_found(data: Path) -> None:
    Image.effect_noise((200, 200), 90).save(data / "gqa/images/3.jpg")
    content = (data / "gqa/images/3.jpg").read_bytes()
    (data / "gqa/images/3.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="1 empty or undecodable"):
        run(data, "--decode", "all")


def test_the_draw_is_fixed_and_of_its_size(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "SAMPLE_SIZE", 2)
    looked: list[list[Path]] = []
    for _ in range(2):
        looked.append([])
        monkeypatch.setattr(step, "fault_of", lambda path: looked[-1].append(path) or "")
        run(data, "--decode", "sample")
    assert len(looked[0]) == 2
    assert looked[0] == looked[1]


def test_folders_are_listed_once_whatever_they_hold(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, scanned = os.scandir, []
    monkeypatch.setattr(os, "scandir", lambda folder: scanned.append(Path(folder)) or real(folder))
    run(data)
    assert sorted(scanned) == sorted({(data / row).parent for row in step.read_train(data / "mix.json", data).counts})


def test_samples_that_teach_nothing_are_said_and_change_no_summary(
    data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = run(data)["files"]["mix.json"].keys()
    rows = json.loads((data / "mix.json").read_text())
    rows[0]["conversations"][-1]["value"] = ""
    (data / "mix.json").write_text(json.dumps(rows))
    assert run(data)["files"]["mix.json"].keys() == before
    assert "mix.json: 1 samples teach nothing" in caplog.text


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ({}, "sample 1: `id`"),
        ([], "not a list of samples"),
        ([{"id": "1"}], "`conversations` is not a list"),
        ([sample(1, None), sample(2, "../secret.jpg")], "sample 2 .*: `image` is '../secret.jpg'"),
        ([sample(1, "/etc/x.jpg")], "sample 1 .*: `image` is '/etc/x.jpg'"),
    ],
)
def test_annotations_of_another_form_are_refused(data: Path, rows: object, fault: str) -> None:
    (data / "mix.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=fault):
        run(data)


def test_cut_annotations_are_refused(data: Path) -> None:
    (data / "mix.json").write_text((data / "mix.json").read_text()[:-20])
    with pytest.raises(DataError, match=r"mix\.json: not JSON"):
        run(data)


# -------------------------------------------------------------------- PRISM


@pytest.fixture
def prism(tmp_path: Path) -> Path:
    """A data root with one question for each attribute, and one for the folder that was dropped."""
    root = tmp_path / "data"
    rows = []
    for attribute in (*step.ATTRIBUTE_FOLDERS, "Hair"):
        name = f"{attribute}/a_person,_outdoors/000001.jpg"
        path = root / "eval/PRISM/biometric_images" / name
        if attribute != "Hair":
            path.parent.mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(path)
        rows.append({"question_id": name, "image": name, "text": "What is it?\nAnswer"})
    (root / SOFT).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def test_prism_counts_questions_by_attribute_and_passes_over_hair(prism: Path) -> None:
    summary = run(prism, "--images", "eval/PRISM/biometric_images", annotations=(SOFT,), kind="prism")
    assert summary["images"] == 5
    assert summary["files"]["PRISM_refusal_soft.jsonl"]["parts"] == dict.fromkeys(step.ATTRIBUTE_FOLDERS, 1)


def test_prism_images_named_by_several_tasks_count_once(prism: Path) -> None:
    (prism / "eval/PRISM/hard.jsonl").write_bytes((prism / SOFT).read_bytes())
    (prism / "eval/PRISM/biometric_images/Age/a_person,_outdoors/000001.jpg").unlink()
    with pytest.raises(DataError, match="1 images are missing and 0 empty or undecodable of 5; they cost 2 samples"):
        run(prism, "--images", "eval/PRISM/biometric_images", annotations=(SOFT, "eval/PRISM/hard.jsonl"), kind="prism")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"question_id": "Height/x.jpg", "image": "x.jpg", "text": "?"}, "'Height' is no attribute"),
        ({"question_id": "Age/x.jpg", "image": "x.jpg"}, "row 1: text"),
        ({"question_id": "Age/x.jpg", "image": "../x.jpg", "text": "?"}, "`image` is '../x.jpg'"),
    ],
)
def test_questions_of_another_form_are_refused(prism: Path, row: dict[str, str], fault: str) -> None:
    (prism / SOFT).write_text(json.dumps(row))
    with pytest.raises(SafeLlavaError, match=fault):
        run(prism, annotations=(SOFT,), kind="prism")


def test_folders_pair_with_files(prism: Path) -> None:
    with pytest.raises(DataError, match="2 folders for 1 files"):
        run(prism, "--images", "a", "b", annotations=(SOFT,), kind="prism")


def test_prism_asks_for_a_folder_of_each_attribute_and_for_none_of_hair(prism: Path) -> None:
    rows = [json.loads(line) for line in (prism / SOFT).read_text().splitlines()]
    (prism / SOFT).write_text("".join(json.dumps(row) + "\n" for row in rows if not row["image"].startswith("Weight")))
    images = prism / "eval/PRISM/biometric_images"
    assert not (images / "Hair").exists()
    run(prism, "--images", "eval/PRISM/biometric_images", annotations=(SOFT,), kind="prism")
    (images / "Weight").rename(images / "Mass")
    with pytest.raises(DataError, match="1 images are missing"):
        run(prism, "--images", "eval/PRISM/biometric_images", annotations=(SOFT,), kind="prism")
    assert [(row["image"], row["detail"]) for row in report(prism)] == [
        ("Weight", "the folder of an attribute of PRISM")
    ]


def test_prism_whose_images_lie_flat_needs_no_folders(prism: Path) -> None:
    flat = prism / "flat"
    flat.mkdir()
    Image.new("RGB", (4, 4)).save(flat / "000001.jpg")
    row = {"question_id": "Age/a/000001.jpg", "image": "000001.jpg", "text": "?"}
    (prism / SOFT).write_text(json.dumps(row))
    assert run(prism, "--images", "flat", annotations=(SOFT,), kind="prism")["images"] == 1


# --------------------------------------------------- counts, pages, archives


def test_counts_are_compared_with_the_table(data: Path) -> None:
    def table(published: object, pinned: bool) -> str:
        samples = {"mix.json": {"published": published, "pinned": pinned}}
        (data / "table.json").write_text(json.dumps({"samples": samples, "files": {"coco/train2017": 3}}))
        return str(data / "table.json")

    for published, pinned in ((7, False), ("unknown", False), (8, True)):
        run(data, "--table", table(published, pinned))
    with pytest.raises(DataError, match=r"mix\.json: 7 samples where 8 are published"):
        run(data, "--table", table(8, False))
    (data / "receipt.json").write_text(json.dumps({"to": "coco/train2017", "files": 2}))
    summary = run(data, "--table", table(7, False), "--receipts", str(data / "receipt.json"))
    assert summary["archives"] == {"coco/train2017": {"files": 2, "published": 3}}


def test_the_page_names_places_and_samples_worst_folder_first(data: Path) -> None:
    (data / "coco/train2017/1.jpg").unlink()
    (data / "vg/VG_100K/4.jpg").write_bytes(b"no <image>")
    pages = ["--log-page", str(data / "log.html"), "--page", str(data / "page.html")]
    with pytest.raises(DataError):
        run(data, "--decode", "all", *pages)
    text = (data / "log.html").read_text()
    assert not (data / "page.html").exists(), "a failed check leaves its log alone"
    assert "2 images are wrong" in text
    assert text.index("coco/train2017") < text.index("vg/VG_100K"), "that folder costs two samples"
    assert str(data / "coco/train2017/1.jpg") in text
    assert "<td>0, 5</td>" in text, "the ids of the samples"
    assert "coco/train2017/2.jpg" not in text
    found = {row["image"]: row["sample_ids"] for row in report(data)}
    assert found == {"coco/train2017/1.jpg": "0 5", "vg/VG_100K/4.jpg": "3"}
    run(data, "--decode", "all", *pages, "--tolerance-missing", "1", "--tolerance-undecodable", "1")
    assert (data / "page.html").read_text() == text


def test_the_page_of_a_whole_layout(data: Path) -> None:
    run(data, "--page", str(data / "page.html"))
    text = (data / "page.html").read_text()
    assert "Every image is there." in text
    assert "by folder" not in text


def test_archives_give_the_same_summary_and_the_same_faults(data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    archive_folder(data / "coco/train2017", other, "coco/train2017")
    archive_folder(data / "vg", other, "vg", zipfile.ZIP_DEFLATED)
    archive_folder(data / "gqa/images", other, "gqa/images")
    (other / "mix.json").write_bytes((data / "mix.json").read_bytes())
    for decode in ("all", "none"):
        assert run(other, "--decode", decode) == run(data, "--decode", decode)
        assert (other / "summary.json").read_bytes() == (data / "summary.json").read_bytes()
    path = other / "downloads" / "coco_train2017.zip"
    content = bytearray(path.read_bytes())
    content[content.index(b"1.jpg") + 8] ^= 1
    path.write_bytes(content)
    rows = json.loads((other / "mix.json").read_text())
    rows.append(sample(10, "vg/VG_100K/gone.jpg"))
    (other / "mix.json").write_text(json.dumps(rows))
    imagefiles.forget_indexes()
    with pytest.raises(DataError, match="1 images are missing and 1 empty or undecodable of 6"):
        run(other, "--decode", "all")
    found = {row["image"]: (row["problem"], row["detail"]) for row in report(other)}
    assert found["vg/VG_100K/gone.jpg"] == ("missing", "")
    problem, detail = found["coco/train2017/1.jpg"]
    assert (problem, "its CRC is another" in detail) == ("undecodable", True)


def test_a_folder_that_hides_an_archive_is_named(data: Path) -> None:
    archive_folder(data / "coco/train2017", data, "coco/packed")
    (data / "coco/packed").mkdir()
    (data / "mix.json").write_text(json.dumps([sample(1, "coco/packed/1.jpg")]))
    imagefiles.forget_indexes()
    with pytest.raises(DataError, match="1 images are missing"):
        run(data)
    assert "packed.index is not asked: remove the folder" in report(data)[0]["detail"]
