"""The benchmark page says what its raw logs say."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path
from typing import Any

import pytest

from safe_llava.speed.checkpoints import PAIRS
from safe_llava.speed.training import means

NOTES = Path(__file__).parents[2] / "docs" / "benchmarks.md"
KINDS = ("finetune-", "passes-", "peer-", "pretrain-")  # the other logs are of other pages
LOGS = sorted(file for file in (NOTES.parent / "benchmarks").glob("*.jsonl") if file.name.startswith(KINDS))


def read(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    first, *steps, last = (json.loads(line) for line in file.read_text().splitlines())
    return first, steps, last


def cells(name: str) -> list[str]:
    """The cells of the one row of the page that names a log."""
    (line,) = [line for line in NOTES.read_text().splitlines() if line.startswith("|") and f"`{name}`" in line]
    return [cell.strip(" *") for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("file", LOGS, ids=lambda file: file.stem)
def test_the_means_follow_from_the_steps(file: Path) -> None:
    first, steps, last = read(file)
    assert means(steps, first["arguments"]["warmup"], first["global_batch"], first["devices"]) == last
    assert len(steps) == first["arguments"]["steps"]


@pytest.mark.parametrize("file", LOGS, ids=lambda file: file.stem)
def test_every_log_has_a_row_with_its_figures(file: Path) -> None:
    first, _, last = read(file)
    row = cells(file.name)
    figures = [float(value) for cell in row for value in re.findall(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w.-])", cell)]
    if first["arguments"].get("passes_only"):
        speed = round(first["global_batch"] / last["median_step_s"], 1)
    else:
        speed = round(last["samples_per_s_per_device"], 1)
        assert round(last["tokens_per_s_per_device"]) in figures
        assert round(100 * last["mfu"], 1) in figures
    assert speed in figures
    assert round(last["memory_gib"], 1) in figures


def test_the_aims_are_reached() -> None:
    for name, aim in (("pretrain-1xh200", 32.3), ("finetune-2xh200", 15.9)):
        first, _, last = read(NOTES.parent / "benchmarks" / f"{name}.jsonl")
        assert "H200" in first["device"] and first["arguments"]["size"] == "7b"
        assert last["samples_per_s_per_device"] >= aim
    assert read(NOTES.parent / "benchmarks" / "finetune-2xh200.jsonl")[0]["devices"] == 2


def lifecycle(name: str) -> dict[str, dict[str, Any]]:
    """The lines of a lifecycle's log, by their kinds."""
    lines = (NOTES.parent / "benchmarks" / f"lifecycle-{name}.txt").read_text().splitlines()
    return {row["kind"]: row for row in map(json.loads, lines)}


def test_the_life_of_a_model_is_told_as_its_logs_say() -> None:
    before, now, page = lifecycle("1xh200-2e84161"), lifecycle("1xh200"), NOTES.read_text()
    assert before["stopped"]["code"] == now["stopped"]["code"] == 75
    assert before["conditions"]["arguments"] == now["conditions"]["arguments"]
    for what, kind, key in (
        ("SIGTERM to exit 75, s", "stopped", "seconds"),
        ("the same command to the end of its first step, s", "resumed", "first_step_s"),
    ):
        old, new = before[kind][key], now[kind][key]
        assert f"| {what} | {old:.1f} | {new:.1f} | {old / new:.1f} |" in page
    bytes_before, size = (said["stopped"]["checkpoint_bytes"] for said in (before, now))
    # Half of the 32 layers of Llama 7B, its embeddings and head, and the projector.
    trained = 16 * (4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096) + 2 * 32_000 * 4096 + 4096 + 1025 * 4096 + 4097 * 4096
    assert size / trained <= 12.2
    assert f"| {bytes_before:,} | {size:,} ({size / trained:.1f} a trained parameter) |" in page
    assert before["stopped"]["seconds"] / now["stopped"]["seconds"] >= 5
    assert before["resumed"]["first_step_s"] / now["resumed"]["first_step_s"] >= 2


def test_the_peer_is_as_many_times_slower_as_the_page_says() -> None:
    logs = NOTES.parent / "benchmarks"
    for ours, peer, stage in (
        ("pretrain-1xh200-24steps", "peer-pretrain-1xh200", "(pretraining)"),
        ("finetune-half-1xh200", "peer-finetune-half-1xh200", "(finetuning)"),
    ):
        speeds = [read(logs / f"{name}.jsonl")[2]["tokens_per_s_per_device"] for name in (ours, peer)]
        assert f"{speeds[0] / speeds[1]:.2f} times {stage}" in re.sub(r"\s+", " ", NOTES.read_text())
    offloaded, without = (
        read(logs / f"finetune-half-1xh200{name}.jsonl")[2]["tokens_per_s_per_device"] for name in ("-offload", "")
    )
    assert offloaded / without >= 1 / 3
    assert f"{offloaded / without:.2f} of the speed without" in NOTES.read_text()


def test_an_interrupted_training_ended_like_an_undisturbed_one() -> None:
    said, page = lifecycle("1xh200-crc32"), re.sub(r"\s+", " ", NOTES.read_text())
    assert f"took {said['stopped']['seconds']:.1f} s from SIGTERM" in page
    assert f"{said['resumed']['first_step_s']:.1f} s to the end of the first step" in page
    assert said["answered"]["status"] == "ok"
    assert f"differ by {said['compared']['largest_difference']} at most" in page


def test_on_cpus_it_resumed_on_fewer_processes_with_the_same_losses() -> None:
    said = lifecycle("2cpu")
    assert (said["conditions"]["arguments"]["processes"], said["resumed"]["processes"]) == (2, 1)
    assert (said["stopped"]["code"], said["answered"]["status"]) == (75, "ok")
    assert f"the losses differ by {said['compared']['largest_difference']} at most" in NOTES.read_text()


def test_checkpoints_beside_plain_files_are_as_the_log_says() -> None:
    page, ratios = NOTES.read_text(), dict[str, dict[str, float]]()
    for block in (NOTES.parent / "benchmarks" / "checkpoints-2cpu.txt").read_text().split("== ")[1:]:
        where, *lines = block.splitlines()
        rows = list(map(json.loads, lines))
        seconds, said = [row for row in rows if row["kind"] == "seconds"], rows[-1]
        for way, plain in PAIRS.items():
            assert said[way] == pytest.approx(statistics.median(row[way] / row[plain] for row in seconds), abs=0.01)
        ratios[where] = said
    assert f"| seconds, over those of plain files | {' | '.join(ratios)} |" in page
    for way in PAIRS:
        assert f"| {way} | {' | '.join(f'{said[way]:.2f}' for said in ratios.values())} |" in page
