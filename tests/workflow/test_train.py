"""Which changes of a trained model's row train it again: those that change a number, and only that number's stage."""

from __future__ import annotations

import pytest

from workflow.conftest import Finished, Run

DEMO = ("--configfile", "config/demo.yaml")
BOTH, LAST, NONE = {"train_pretrain", "train_finetune"}, {"train_finetune"}, set[str]()


@pytest.fixture(scope="module")
def trained(snakemake: Run, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(snakemake, tmp_path_factory.mktemp("trained"), "train/demo-safe/model")


@pytest.mark.parametrize(
    ("row", "rules"),
    [
        ("seed: 43", BOTH),
        ("pretrain: {learning_rate: 1.0e-3}", BOTH),
        ("finetune: {learning_rate: 1.0e-3}", LAST),
        # Two values that change places: Snakemake by itself compares a set of values.
        ("language_model: demo-clip, vision_tower: demo-llama", BOTH),
        ("pretrain: {warmup_ratio: 0.0, weight_decay: 0.03}", BOTH),
        ("lora: {rank: 2, alpha: 4, projector_learning_rate: 1.0e-3}", LAST),
        ("checkpoints: {every_steps: 7, every_minutes: 9, keep: 1}, loss_limit: 3", NONE),
        ("processes: 4, description: the same in other words", NONE),
    ],
)
def test_a_changed_row_trains_again_what_it_changes(trained: Finished, row: str, rules: set[str]) -> None:
    again = trained.jobs(train=f"{{models: {{demo-safe: {{{row}}}}}}}")
    assert set(again) == rules | ({"train_config"} if rules else set())


def test_nothing_is_trained_again_where_nothing_or_the_place_of_checkpoints_is_changed(trained: Finished) -> None:
    assert trained.jobs() == {}
    assert trained.jobs(train="{checkpoint_root: scratch}") == {}
    assert trained.jobs(train="{checkpoint_gb_per_s: 0.1}") == {}  # which sets the notice, a resource


@pytest.mark.parametrize("nodes", [1, 2])
def test_what_changes_no_number_reaches_the_training(snakemake: Run, nodes: int) -> None:
    row = f"processes: 2, nodes: {nodes}, checkpoints: {{keep: 1}}, loss_limit: 3"
    config = ("--config", "results=/nonexistent/results", f"train={{models: {{demo-safe: {{{row}}}}}}}")
    done = snakemake("-n", "-p", "/nonexistent/results/train/demo-safe/pretrain/metrics.csv", *DEMO, *config)
    assert done.returncode == 0, done.stderr
    (command,) = [line for line in done.stdout.splitlines() if "-m safe_llava.train.launch" in line]
    assert "--config /nonexistent/results/train/demo-safe/pretrain/config.json" in command
    assert "--checkpoints /nonexistent/results/checkpoints/demo-safe/pretrain" in command
    assert "--every-steps 50 --every-minutes 1.0 --keep 1 --loss-limit 3.0" in command
    assert ("srun" in command) == (nodes == 2)
