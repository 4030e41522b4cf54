"""A stage from its command line to its files, in one process; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from safe_llava.config.train import TrainedModel
from safe_llava.core.errors import DataError, TrainError
from safe_llava.formats.metrics import StepMetrics
from safe_llava.formats.tables import write_table
from safe_llava.train import run
from safe_llava.train.loop.checkpoint import CheckpointFolder
from safe_llava.train.loop.metrics import COLUMNS, MetricsLog, read_metrics
from train.tiny import Tiny, make_row

pytestmark = pytest.mark.usefixtures("one_process")
SHORT = {"max_steps": 3}
LORA = {"rank": 2, "alpha": 4, "dropout": 0.1, "projector_learning_rate": 1e-3}


def train(
    tiny: Tiny, out: Path, row: Any, stage: str = "finetune", *extra: str, annotations: Path | None = None
) -> int:
    return run.train(run.parser().parse_args(tiny.arguments(out, row, stage, *extra, annotations=annotations)))


def test_both_stages_write_what_they_promise(tiny: Tiny, tmp_path: Path) -> None:
    row = make_row(finetune={"epochs": 1.5})
    assert train(tiny, tmp_path / "pretrain", row, "pretrain") == 0
    projector = tmp_path / "pretrain" / "projector.safetensors"
    arguments = tiny.arguments(tmp_path / "finetune", row, "finetune")
    arguments[arguments.index("--projector") + 1] = str(projector)
    assert run.train(run.parser().parse_args(arguments)) == 0

    steps = read_metrics(tmp_path / "finetune" / "metrics.csv")
    assert len(steps) == 9  # 44 samples in steps of 8: 6 an epoch, the last filled up
    assert (tmp_path / "finetune" / "metrics.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    assert steps[-1].epoch == pytest.approx(1.5)
    assert steps[-1].loss < steps[0].loss
    assert [s.seconds for s in steps] == sorted(s.seconds for s in steps)
    assert steps[0].learning_rate == 0
    assert max(s.learning_rate for s in steps) == pytest.approx(row.finetune.learning_rate)

    summary = json.loads((tmp_path / "finetune" / "summary.json").read_text())
    assert (summary["steps"], summary["samples"], summary["final_loss"]) == (9, 72, steps[-1].loss)
    # The tiny tokenizer is not of Llama's kind: the original's round lengths never add up. Each sample counts once.
    assert summary["samples_the_original_would_drop"] == 44
    provenance = summary["provenance"]
    assert provenance["seed"] == row.seed
    assert provenance["config"]["finetune"]["epochs"] == 1.5
    assert all(len(provenance["inputs"][name]["sha256"]) == 64 for name in ("annotations", "projector", "config"))
    for stage in ("pretrain", "finetune"):
        assert [path.name for path in (tmp_path / stage / "checkpoints").iterdir()] == ["finished"]
    model = tmp_path / "finetune" / "model"
    image_token = json.loads((model / "config.json").read_text())["image_token_index"]
    assert AutoTokenizer.from_pretrained(model).convert_tokens_to_ids("<image>") == image_token
    new, old = load_file(projector), load_file(tiny.root / "projector.safetensors")
    assert not torch.equal(new["linear_1.weight"], old["linear_1.weight"])


@pytest.fixture(scope="module")
def kept(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory, one_process: None) -> Path:
    """A finished run that left its checkpoints."""
    out = tmp_path_factory.mktemp("kept")
    train(tiny, out, make_row(finetune=SHORT), "finetune", "--keep-checkpoints", "--every-steps", "1")
    return out


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"finetune": {**SHORT, "learning_rate": 0.5}}, "config.finetune.learning_rate: 0.002, now 0.5"),
        ({"finetune": SHORT, "seed": 8}, "config.seed: 7, now 8"),
    ],
)
def test_a_changed_configuration_is_refused(kept: Path, tiny: Tiny, changes: dict[str, Any], key: str) -> None:
    with pytest.raises(TrainError) as caught:
        train(tiny, kept, make_row(**changes))
    assert key in caught.value.message
    assert str(kept / "checkpoints") in caught.value.remedy


def test_changed_annotations_are_refused(kept: Path, tiny: Tiny, tmp_path: Path) -> None:
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(tiny.samples[:-1]))
    with pytest.raises(TrainError, match="annotations_sha256"):
        train(tiny, kept, make_row(finetune=SHORT), annotations=annotations)


def test_what_changes_no_number_may_change(kept: Path, tiny: Tiny) -> None:
    before = (kept / "model" / "model.safetensors").read_bytes()
    checkpoints = {"every_steps": 2, "every_minutes": 1, "keep": 1}
    row = make_row(finetune=SHORT, description="other", pretrain={"epochs": 9}, checkpoints=checkpoints)
    assert train(tiny, kept, row, "finetune", "--keep-checkpoints") == 0
    assert (kept / "model" / "model.safetensors").read_bytes() == before


def test_checkpoints_come_by_the_clock_too(tiny: Tiny, tmp_path: Path) -> None:
    row = make_row(finetune=SHORT, checkpoints={"every_steps": 1000, "every_minutes": 1e-9, "keep": 2})
    train(tiny, tmp_path, row, "finetune", "--keep-checkpoints")
    assert sorted(path.name for path in (tmp_path / "checkpoints").glob("step-*")) == ["step-00000001", "step-00000002"]


def test_a_loss_that_is_no_number_names_the_samples(tiny: Tiny, tmp_path: Path) -> None:
    weights = load_file(tiny.root / "projector.safetensors")
    weights["linear_2.bias"][0] = torch.nan
    save_file(weights, tmp_path / "broken.safetensors")
    samples = [tiny.samples[k] for k in (0, 3, 4, 7)]  # 3 and 7 have no image
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(samples))
    row = make_row(finetune={"global_batch": 4, "order": "shuffled"})
    arguments = tiny.arguments(tmp_path / "run", row, "finetune", "--micro-batch", "1", annotations=annotations)
    arguments[arguments.index("--projector") + 1] = str(tmp_path / "broken.safetensors")
    with pytest.raises(TrainError) as caught:
        run.train(run.parser().parse_args(arguments))
    assert "the loss of step 1 is not finite" in caught.value.message
    assert "s0" in caught.value.message and "s4" in caught.value.message
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "metrics.csv").exists()
    assert not list((tmp_path / "run" / "checkpoints").glob("step-*"))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_picture_that_is_none_names_sample_and_file(tiny: Tiny, tmp_path: Path, workers: str) -> None:
    (tiny.images / "cover.jpg").write_bytes(b"<html>not found</html>")
    samples = [*tiny.samples[:7], {**tiny.samples[8], "id": "cover", "image": "cover.jpg"}]
    annotations = tmp_path / "annotations.json"
    annotations.write_text(json.dumps(samples))
    with pytest.raises(TrainError) as caught:
        train(tiny, tmp_path / "run", make_row(), "finetune", "--workers", workers, annotations=annotations)
    assert "sample cover" in caught.value.message
    assert "cover.jpg" in caught.value.message
    assert not (tmp_path / "run" / "model").exists()


def test_loader_processes_change_nothing(kept: Path, tiny: Tiny, tmp_path: Path) -> None:
    train(tiny, tmp_path, make_row(finetune=SHORT), "finetune", "--workers", "1")
    expected = (kept / "model" / "model.safetensors").read_bytes()
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == expected


def test_bf16_keeps_fp32_masters_and_writes_bf16(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="zero_stage 0"):
        train(tiny, tmp_path / "zero0", make_row(precision="bf16", finetune={**SHORT, "zero_stage": 0}))
    row = make_row(precision="bf16", finetune=SHORT, checkpoints={"every_steps": 2, "every_minutes": 60, "keep": 9})
    train(tiny, tmp_path / "run", row, "finetune", "--keep-checkpoints")
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002"
    trained = sum(value.numel() for name, value in weights.items() if not name.startswith("vision_tower"))
    trained -= 2 * 16  # the export has the image's row in embeddings and head
    assert (checkpoint / "rank-00000.bin").stat().st_size == 12 * trained, "fp32 weights and moments, nothing beside"
    # Resuming after step 2 ends with the same bytes: the masters came back, not their bf16 copies.
    train(tiny, tmp_path / "run", row)
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("changes", [{"lora": LORA}, {"finetune": {**SHORT, "zero_stage": 3}}], ids=["lora", "zero3"])
def test_resuming_with_adapters_and_zero3(tiny: Tiny, tmp_path: Path, changes: dict[str, Any]) -> None:
    row = make_row(**{"finetune": SHORT, "checkpoints": {"every_steps": 1, "every_minutes": 60, "keep": 9}, **changes})
    train(tiny, tmp_path, row, "finetune", "--keep-checkpoints")
    before = (tmp_path / "model" / "model.safetensors").read_bytes()
    assert not [name for name in load_file(tmp_path / "model" / "model.safetensors") if "lora" in name]
    (tmp_path / "checkpoints" / "step-00000002" / "manifest.json").unlink()
    train(tiny, tmp_path, row)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--language-model", "nowhere", "--language-model nowhere"),
        ("--images", "nowhere", "--images nowhere"),
        ("--annotations", "nowhere.json", "nowhere.json"),
        ("--projector", "nowhere.safetensors", "nowhere.safetensors"),
        ("--config", "nowhere.json", "nowhere.json"),
        ("--micro-batch", "0", "--micro-batch"),
    ],
)
def test_missing_inputs_are_named(tiny: Tiny, tmp_path: Path, option: str, value: str, message: str) -> None:
    arguments = [*tiny.arguments(tmp_path, make_row(), "finetune", "--micro-batch", "1")]
    arguments[arguments.index(option) + 1] = value
    with pytest.raises(TrainError) as caught:
        run.train(run.parser().parse_args(arguments))
    assert message in caught.value.message


def read_model_row(tiny: Tiny, folder: Path, values: object, *extra: str) -> TrainedModel:
    arguments = run.parser().parse_args(tiny.arguments(folder, make_row(), "finetune", *extra))
    arguments.config.write_text(json.dumps(values))
    return run.read_model_row(arguments)


def test_a_row_with_a_wrong_key_names_it(tiny: Tiny, tmp_path: Path) -> None:
    values = json.loads(make_row().model_dump_json())
    values["finetune"]["learning_rate"] = "fast"
    with pytest.raises(TrainError, match=r"finetune\.learning_rate"):
        read_model_row(tiny, tmp_path, values)
    with pytest.raises(TrainError, match=r"checkpoints\.keep"):
        read_model_row(tiny, tmp_path, json.loads(make_row().model_dump_json()), "--keep", "0")
    with pytest.raises(TrainError, match=r"row\.json: cannot be read"):
        read_model_row(tiny, tmp_path, ["no row"])


def test_a_stage_s_part_of_a_row_is_enough_with_what_changes_no_number(tiny: Tiny, tmp_path: Path) -> None:
    row = make_row(lora=LORA, loss_limit=5, checkpoints={"every_steps": 9, "every_minutes": 8, "keep": 7})
    saving = ("--every-steps", "9", "--every-minutes", "8", "--keep", "7", "--loss-limit", "5")
    read = read_model_row(tiny, tmp_path, row.identity("finetune"), *saving)
    assert read.identity("finetune") == row.identity("finetune")
    assert (read.checkpoints, read.loss_limit) == (row.checkpoints, 5)
    assert {"pretrain", "checkpoints", "processes"}.isdisjoint(row.identity("finetune"))
    assert "lora" not in row.identity("pretrain")


def test_finetuning_needs_a_projector(tiny: Tiny, tmp_path: Path) -> None:
    arguments = tiny.arguments(tmp_path, make_row(), "finetune")
    del arguments[arguments.index("--projector") : arguments.index("--projector") + 2]
    with pytest.raises(TrainError, match="without --projector"):
        run.train(run.parser().parse_args(arguments))


def test_annotations_that_are_none(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"id": "x"}]')
    with pytest.raises(DataError, match="sample 1"):
        train(tiny, tmp_path / "run", make_row(), annotations=tmp_path / "a.json")


def test_gpus_that_are_not_there(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(TrainError, match="has no GPU"):
        train(tiny, tmp_path, make_row(accelerator="gpu"))


def test_the_table_is_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    log = MetricsLog(file, 0)
    for step in range(1, 5):
        log.add(StepMetrics(step, step / 4, 1.0 / step, 1e-3, 0.5, 10.0, 100.0, float(step)))
    log.close()
    file.write_text(file.read_text() + "5,1.25,0.2")  # torn by a kill
    assert [item.step for item in read_metrics(file)] == [1, 2, 3, 4]
    log = MetricsLog(file, 2)
    log.add(StepMetrics(3, 0.75, 0.125, 1e-3, 0.5, 10.0, 100.0, 3.0))
    log.close()
    assert [(item.step, item.loss) for item in read_metrics(file)] == [(1, 1.0), (2, 0.5), (3, 0.125)]


def test_a_gap_in_the_table_is_said_and_what_follows_it_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "metrics.csv"
    write_table(
        file, StepMetrics, [StepMetrics(step, step / 9, 1.0, 1e-3, 0.5, 10.0, 100.0, 1.0) for step in (1, 2, 3)]
    )
    log = MetricsLog(file, 5)
    assert "2 of 5 steps are not in this table" in caplog.text
    log.add(StepMetrics(6, 6 / 9, 1.0, 1e-3, 0.5, 10.0, 100.0, 1.0))
    log.close()
    again = MetricsLog(file, 6)
    again.close()
    assert [item.step for item in again.steps] == [1, 2, 3, 6]


def test_steps_are_on_disk_before_the_checkpoint_that_has_them(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    sync, save = MetricsLog.sync, CheckpointFolder.save

    def noted_sync(log: MetricsLog) -> None:
        sync(log)
        synced.append(len(log.steps))

    def checked_save(folder: CheckpointFolder, step: int, *rest: Any) -> None:
        assert synced[-1] == step
        save(folder, step, *rest)

    monkeypatch.setattr(MetricsLog, "sync", noted_sync)
    monkeypatch.setattr(CheckpointFolder, "save", checked_save)
    row = make_row(finetune=SHORT, checkpoints={"every_steps": 2, "every_minutes": 60, "keep": 2})
    assert train(tiny, tmp_path, row) == 0
    assert synced == [2], "the results follow from memory, without a last checkpoint"


def test_the_summary_counts_steps_that_the_table_has_lost(kept: Path, tiny: Tiny, tmp_path: Path) -> None:
    shutil.copytree(kept / "checkpoints", tmp_path / "checkpoints")
    write_table(tmp_path / "checkpoints" / "metrics.csv", StepMetrics, [])
    assert train(tiny, tmp_path, make_row(finetune=SHORT)) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["steps"], summary["samples"]) == (3, 24)
    assert summary["final_loss"] == read_metrics(tmp_path / "metrics.csv")[-1].loss
