"""What training takes beside its GPUs follows from what was measured, and all that say it say the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cluster.conftest import configured
from safe_llava.cluster.checks.node import Expected, node_findings
from safe_llava.cluster.costs import planned
from safe_llava.cluster.estimates.footprint import (
    GB,
    MARGIN,
    NOTICE_SECONDS,
    OTHER_DISK,
    UNKNOWN_SECONDS,
    Footprint,
    footprint,
    memory_mb,
    notice_seconds,
)
from safe_llava.cluster.estimates.measured import Measured
from safe_llava.config.schema import Config
from safe_llava.train.loop.planner import STATE_BYTES

NAME = "llava-v1.5-7b"
EMPTY = Path("/nonexistent")


def found(config: Config, measured: Measured, name: str = NAME) -> Footprint:
    taken = footprint(config, measured, name)
    assert taken is not None
    return taken


def test_a_checkpoint_has_the_bytes_a_parameter_that_were_measured(measured: Measured) -> None:
    """The measured one was of half the layers of a 7B; its manifest and the small print are a thousandth."""
    whole = measured.language_models["vicuna-7b-v1.5"]
    outside = 2 * whole.vocabulary * whole.width + whole.width
    projector = (1024 + 1 + whole.width + 1) * whole.width
    trained = outside + (whole.parameters - outside) // 2 + projector
    assert measured.checkpoint.bytes == pytest.approx(STATE_BYTES * trained, rel=1e-3)
    assert measured.checkpoint.bytes / trained < 12.2


def test_the_rate_is_that_of_the_log(root: Path, measured: Measured) -> None:
    log = (root / measured.checkpoint.source).read_text(encoding="utf-8")
    (written,) = re.findall(r"checkpoint of (\S+) GB written in (\S+) s", log)
    assert (measured.checkpoint.bytes / GB, measured.checkpoint.seconds) == (
        pytest.approx(float(written[0]), abs=0.05),
        float(written[1]),
    )
    assert measured.checkpoint.gb_per_s == pytest.approx(5.87, abs=0.01)


def test_a_7b_takes_three_checkpoints_of_81_gb_and_as_much_memory_as_one(paper: Config, measured: Measured) -> None:
    taken = found(paper, measured)
    assert taken.checkpoint == 12 * (6_738_415_616 + 20_979_712)
    assert (taken.count, taken.checkpoints, taken.staging) == (3, 3 * taken.checkpoint, taken.checkpoint)


def test_several_machines_share_the_memory_and_not_the_disk(paper: Config, measured: Measured, tmp_path: Path) -> None:
    spread = configured(f"train: {{models: {{{NAME}: {{processes: 16, nodes: 2}}}}}}\n", tmp_path)
    one, two = found(paper, measured), found(spread, measured)
    assert (two.checkpoint, 2 * two.staging) == (one.checkpoint, one.staging)


def test_readme_costs_and_preflight_say_it(
    root: Path, paper: Config, measured: Measured, facts: dict[str, object]
) -> None:
    taken = found(paper, measured)
    staging, disk = f"{taken.staging / GB:.0f} GB", f"{(taken.model + taken.checkpoints) / GB:.0f} GB"
    (row,) = [line for line in (root / "README.md").read_text().splitlines() if line.startswith("| one 7B model, both")]
    assert f"{disk} while it is finetuned, of which {taken.model / GB:.0f} GB stay" in row
    assert f"{staging} of its machine's memory" in row
    (item,) = [item for item in planned(paper, measured, []) if item.what == f"{NAME}, its files"]
    assert item.disk_gb == pytest.approx((taken.model + taken.checkpoints) / GB)
    assert f"{staging} of each machine's memory" in item.how
    lines = node_findings("train", facts, Expected(image=None, gpus=2, log="log"), paper, measured)
    (line,) = [line for line in lines if line.what == f"memory of {NAME}, finetune"]
    assert "checkpoints are written from 81.1 GB of each machine's memory" in line.said


def test_a_job_asks_for_what_lies_in_the_host(paper: Config, measured: Measured, tmp_path: Path) -> None:
    assert memory_mb(NAME, paper, measured) == 128_000 + 8 * 16_000
    large = memory_mb("llava-v1.5-13b", paper, measured)
    assert large * 1_000_000 >= found(paper, measured, "llava-v1.5-13b").offloaded + 8 * 16 * GB
    cpu = configured(f"train: {{models: {{{NAME}: {{accelerator: cpu}}}}}}\n", tmp_path)
    assert memory_mb(NAME, cpu, measured) == 4_000


def test_the_notice_suffices_for_two_checkpoints(paper: Config, measured: Measured, tmp_path: Path) -> None:
    """One may be on its way when the notice comes; the other is the last."""
    size = found(paper, measured).checkpoint / GB
    unknown_disk = notice_seconds(paper, measured, NAME, "finetune", EMPTY)
    assert unknown_disk == NOTICE_SECONDS + round(OTHER_DISK * 2 * size / measured.checkpoint.gb_per_s)
    slow = configured("train: {checkpoint_gb_per_s: 0.2}\n", tmp_path)
    assert notice_seconds(slow, measured, NAME, "finetune", EMPTY) == NOTICE_SECONDS + round(MARGIN * 2 * size / 0.2)
    assert notice_seconds(paper, measured, NAME, "pretrain", EMPTY) < NOTICE_SECONDS + 5


def test_the_notice_follows_from_the_last_checkpoint_where_there_is_one(
    paper: Config, measured: Measured, tmp_path: Path
) -> None:
    for step, text in ((1, '{"seconds": 900.0}'), (2, '{"seconds": 400.0}'), (3, "{"), (4, '{"step": 4}')):
        folder = tmp_path / f"step-{step:08d}"
        folder.mkdir()
        (folder / "manifest.json").write_text(text)
    assert notice_seconds(paper, measured, NAME, "finetune", tmp_path) == NOTICE_SECONDS + 2 * 600


def test_the_notice_of_a_model_of_unknown_size_is_ten_minutes(paper: Config, measured: Measured) -> None:
    assert notice_seconds(paper, measured, "safe-llava-v1.5-0.5b", "finetune", EMPTY) == UNKNOWN_SECONDS == 600
    assert footprint(paper, measured, "safe-llava-v1.5-0.5b") is None
