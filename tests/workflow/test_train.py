"""Which changes of a trained model's row train it again: those that change a number, and only that number's stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from workflow.conftest import Run, job_counts

DEMO = ("--configfile", "config/demo.yaml")
BOTH, LAST, NONE = {"train_pretrain", "train_finetune"}, {"train_finetune"}, set[str]()


class Trained:
    """A results folder in which one model is there, as files of no content."""

    def __init__(self, snakemake: Run, folder: Path) -> None:
        self._snakemake, self._results = snakemake, folder / "results"
        for line in self._run("--summary").splitlines()[1:]:
            self._make(self._results / line.split("\t")[0])
        self._run("--touch", "--forceall", "--cores", "1")

    def _run(self, *arguments: str, train: str = "") -> str:
        settings = [f"results={self._results}", f"data={{root: {self._results}/data, ignore_space: true}}"]
        settings += [f"train={{{train}}}"] if train else []
        target = str(self._results / "train/demo-safe/model")
        done = self._snakemake(target, *arguments, *DEMO, "--config", *settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @staticmethod
    def _make(path: Path) -> None:
        if path.name == "model":
            path.mkdir(parents=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}\n")

    def jobs(self, train: str = "") -> set[str]:
        return set(job_counts(self._run("-n", train=train))) - {"total"}


@pytest.fixture(scope="module")
def trained(snakemake: Run, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(snakemake, tmp_path_factory.mktemp("trained"))


@pytest.mark.parametrize(
    ("row", "rules"),
    [
        ("seed: 43", BOTH),
        ("pretrain: {learning_rate: 1.0e-3}", BOTH),
        ("finetune: {learning_rate: 1.0e-3}", LAST),
        ("lora: {rank: 2, alpha: 4, projector_learning_rate: 1.0e-3}", LAST),
        ("checkpoints: {every_steps: 7, every_minutes: 9, keep: 1}, loss_limit: 3", NONE),
        ("processes: 4, description: the same in other words", NONE),
    ],
)
def test_a_changed_row_trains_again_what_it_changes(trained: Trained, row: str, rules: set[str]) -> None:
    assert trained.jobs(f"models: {{demo-safe: {{{row}}}}}") == rules | ({"train_config"} if rules else set())


def test_nothing_is_trained_again_where_nothing_or_the_place_of_checkpoints_is_changed(trained: Trained) -> None:
    assert trained.jobs() == set()
    assert trained.jobs("checkpoint_root: scratch") == set()


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
