"""What a run will cost: from measured figures, unknown where nobody measured, and never 0 for it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cluster.conftest import configured
from safe_llava.cluster.costs import CostItem, main, page_of, planned, sums
from safe_llava.cluster.estimates.estimate import (
    answering_hours,
    benchmark_hours,
    model_size,
    training_hours,
)
from safe_llava.cluster.estimates.measured import Measured
from safe_llava.config.schema import Config
from safe_llava.data.planning.volume import PlanLine


def line(name: str, to_write: int | None) -> PlanLine:
    return PlanLine(name, "images", "unknown", to_write, 1, to_write, to_write, 1, "1 file")


LINES = [line("coco", 40_000_000_000), line("prism-v2", None)]


def test_a_7b_model_takes_the_hours_that_its_speed_gives(paper: Config, measured: Measured) -> None:
    pretrain = training_hours(paper, measured, "llava-v1.5-7b", "pretrain")
    finetune = training_hours(paper, measured, "llava-v1.5-7b", "finetune")
    assert pretrain.value == pytest.approx(558_128 / 36.48 / 3600)
    assert finetune.value == pytest.approx(665_298 / 16.805 / 3600)
    assert {pretrain.basis, finetune.basis} == {"estimated"}


def test_13b_is_reckoned_by_its_parameters_and_says_so(paper: Config, measured: Measured) -> None:
    small = training_hours(paper, measured, "llava-v1.5-7b", "finetune").value
    large = training_hours(paper, measured, "llava-v1.5-13b", "finetune")
    assert small is not None
    assert large.value == pytest.approx(small * 13_015_864_320 / 6_738_415_616)
    assert "1.93 times" in large.how


@pytest.mark.parametrize(
    ("name", "stage", "known"),
    [
        ("safe-llava-v1.5-0.5b", "finetune", False),
        ("safe-llava-v1.5-7b-lora", "finetune", False),
        ("safe-llava-v1.5-7b-lora", "pretrain", True),
    ],
)
def test_what_was_never_measured_is_unknown(
    paper: Config, measured: Measured, name: str, stage: str, known: bool
) -> None:
    amount = training_hours(paper, measured, name, stage)  # type: ignore[arg-type]
    assert (amount.value is not None) == known
    assert (amount.basis == "unknown") != known


def test_unknown_numbers_of_samples_and_fewer_steps_count(paper: Config, measured: Measured, tmp_path: Path) -> None:
    rows = "train: {models: {llava-v1.5-7b: {pretrain: {max_steps: 10}}}}\n"
    config = configured(rows, tmp_path)
    assert training_hours(config, measured, "llava-v1.5-7b", "pretrain").value == pytest.approx(2560 / 36.48 / 3600)
    sets = dict(paper.data.sets)
    own = sets["original-pretrain"]
    sets["original-pretrain"] = own.model_copy(
        update={"annotations": [row.model_copy(update={"samples": "unknown"}) for row in own.annotations]}
    )
    unknown = paper.model_copy(update={"data": paper.data.model_copy(update={"sets": sets})})
    assert training_hours(unknown, measured, "llava-v1.5-7b", "pretrain").value is None


def test_an_edition_as_measured_is_measured_and_another_is_estimated(paper: Config, measured: Measured) -> None:
    second = answering_hours(paper, measured, "LLaVA", "v2")
    assert (second.value, second.basis) == (pytest.approx((133.25 + 171.9) / 3600), "measured")
    first = answering_hours(paper, measured, "LLaVA", "v1")
    assert (first.value, first.basis) == (pytest.approx((133.25 * 1240 / 28600 + 171.9) / 3600), "estimated")
    assert answering_hours(paper, measured, "Qwen25", "v2").value is None


def test_a_limit_shortens_a_benchmark(paper: Config, measured: Measured, tmp_path: Path) -> None:
    whole = benchmark_hours(paper, measured, "LLaVA", "pope").value
    part = benchmark_hours(configured("benchmarks: {limit: 900}\n", tmp_path), measured, "LLaVA", "pope").value
    assert whole is not None and part == pytest.approx(whole / 10)
    assert benchmark_hours(paper, measured, "LLaVA", "pope-adversarial").value is None


def test_the_size_of_a_stage_is_what_is_trained(paper: Config, measured: Measured) -> None:
    row = paper.train.models["llava-v1.5-7b"]
    projector = 1024 * 4096 + 4096 + 4096 * 4096 + 4096
    pretrain, finetune = model_size(measured, row, "pretrain"), model_size(measured, row, "finetune")
    assert pretrain is not None and finetune is not None
    assert pretrain.trained == projector
    assert finetune.trained == projector + 6_738_415_616
    assert finetune.parameters == projector + 6_738_415_616 + 303_507_456


def test_sums_leave_the_unknown_out_and_say_so(paper: Config, measured: Measured) -> None:
    items = planned(paper, measured, LINES)
    total = {item.stage: item for item in sums(items)}
    assert total["train"].gpu_hours == pytest.approx(2 * (558_128 / 36.48 + 665_298 / 16.805) / 3600)
    assert total["data"].disk_gb == pytest.approx(40.0)
    assert "disk, GB of 1" in total["data"].how
    assert total["benchmarks"].judge_dollars is None
    assert total["all"].basis == "unknown"


def test_no_money_is_said_for_gpus_without_a_price(paper: Config, measured: Measured, tmp_path: Path) -> None:
    items = planned(paper, measured, LINES)
    assert all(item.gpu_dollars is None for item in items if item.gpu_hours)
    assert "GPUs, $" not in page_of(items, paper, measured)
    priced = configured("costs: {gpu_hour: 2.5}\n", tmp_path)
    items = planned(priced, measured, LINES)
    assert all(item.gpu_dollars == pytest.approx(2.5 * item.gpu_hours) for item in items if item.gpu_hours)
    assert all(item.gpu_dollars is None for item in items if item.gpu_hours is None)
    assert "GPUs, $" in page_of(items, priced, measured)


JUDGED = """
data: {root: %s}
prism:
  select: {judges: [%s], editions: [v2], models: [LLaVA]}
  judges: {gpt-ours: {batch: %s}}
"""


def judge_line(config: Config, measured: Measured) -> CostItem:
    (found,) = [item for item in planned(config, measured, LINES) if item.what.startswith("v2: judge")]
    return found


def test_a_judge_takes_what_its_calls_take(measured: Measured, tmp_path: Path) -> None:
    found = judge_line(configured(JUDGED % (tmp_path, "gpt-ours", "false"), tmp_path), measured)
    assert found.judge_dollars is not None
    # 28,600 calls of a hundred to four hundred tokens at $0.15 a million, and 10 tokens of reply at $0.6.
    low, high = (28_600 * (tokens * 0.15 + 10 * 0.6) / 1e6 for tokens in (100, 400))
    assert low < found.judge_dollars < high
    assert "28,600 calls" in found.how
    batch = configured(JUDGED % (tmp_path, "gpt-ours", "true"), tmp_path)
    assert judge_line(batch, measured).judge_dollars == pytest.approx(found.judge_dollars / 2)


def test_published_prompts_that_are_not_there_and_prices_that_nobody_said_are_unknown(
    measured: Measured, tmp_path: Path
) -> None:
    found = judge_line(configured(JUDGED % (tmp_path, "gpt-v2", "false"), tmp_path), measured)
    assert (found.judge_dollars, found.basis) == (None, "unknown")
    assert "not fetched" in found.how
    found = judge_line(configured(JUDGED % (tmp_path, "local", "false"), tmp_path), measured)
    assert (found.judge_dollars, found.basis) == (None, "unknown")
    assert "no price" in found.how


def test_the_rules_cost_nothing(paper: Config, measured: Measured) -> None:
    assert not [item for item in planned(paper, measured, LINES) if item.stage == "prism" and "judge" in item.what]


def test_the_step_prints_the_page_and_writes_both_files(
    paper: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, table, page = tmp_path / "config.json", tmp_path / "planned.csv", tmp_path / "planned.md"
    config.write_text(paper.model_dump_json(exclude_defaults=True))
    main(["--config", str(config), "--table", str(table), "--page", str(page)])
    assert capsys.readouterr().out == page.read_text()
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    (finetune,) = [row for row in rows if row["what"] == "llava-v1.5-7b, finetune"]
    assert float(finetune["gpu_hours"]) == pytest.approx(11.0, abs=0.01)
    (other,) = [row for row in rows if row["what"] == "v2: Gemma"]
    assert (other["gpu_hours"], other["basis"]) == ("", "unknown")
