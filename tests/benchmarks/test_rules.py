"""The two rules of a judged benchmark as Snakemake runs them: which of them runs again, and when."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy
import pytest
import yaml
from safetensors.numpy import save_file

from benchmarks.conftest import MODEL_ROW
from workflow.conftest import Run, job_counts, snakemake

__all__ = ["snakemake"]
ANSWERS, JUDGED = "benchmarks_answers", "benchmarks_judged"
# Stands in for the step: reads the rule's command line as the step does, and fails as often as it is told.
STEP = """\
import json, sys
from pathlib import Path
from safe_llava.benchmarks.run import _arguments
from safe_llava.core.retry import outcome

args = _arguments(sys.argv[3:])
told = json.loads(Path(__file__).with_name("told.json").read_text())
asks = args.answers_only is not None
assert asks != bool(args.judge and args.answered), "asks, or has a judge read what was answered"
assert "published" not in json.loads(args.task.read_text()), "what is published is no part of how it is asked"
(args.answers_only or args.results).write_text(json.dumps(outcome(told["answers" if asks else "judged"], args.retry)))
for path in () if asks else (args.samples, args.units):
    path.touch()
"""


class Workflow:
    """One model and one benchmark, everything in a folder of the test's own; data and model are there already."""

    def __init__(self, folder: Path, snakemake: Run) -> None:
        self.folder, self.snakemake = folder, snakemake
        row = {key: value for key, value in MODEL_ROW.items() if key != "train"}
        config = {
            "results": str(folder / "results"),
            "models": {"mine": row | {"folder": str(folder / "model")}},
            "benchmarks": {"select": {"models": ["mine"]}},
        }
        files = {
            "mine.yaml": yaml.safe_dump(config),
            "step.py": STEP,
            "model/config.json": "{}",
            "results/data/snapshots/benchmark-mmvet.json": "{}",
        }
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
        self.write_weights(1)

    def write_weights(self, number: int) -> None:
        """Write so many weights; what is no safetensors file is refused when a run is planned."""
        save_file({"weight": numpy.zeros(number, numpy.float32)}, self.folder / "model/model.safetensors")

    def run(self, answers: int, judged: int, *more: str) -> set[str]:
        """Let so many questions of each rule fail, and return which of the rules ran."""
        (self.folder / "told.json").write_text(json.dumps({"answers": answers, "judged": judged}))
        # A function of the shell goes before a command of that name.
        step = {"BASH_FUNC_python%%": f'() {{ {sys.executable} {self.folder}/step.py "$@"; }}'}
        made = f"{self.folder}/results/benchmarks/mine/mmvet/results.json"
        command = (made, "--cores", "1", "--allowed-rules", ANSWERS, JUDGED, *more)
        done = self.snakemake(
            *command, "--configfile", f"{self.folder}/mine.yaml", env=step | {"OPENAI_API_KEY": "k" * 20}
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return set(job_counts(done.stdout + done.stderr)) - {"total"}


@pytest.fixture
def workflow(tmp_path: Path, snakemake: Run) -> Workflow:
    return Workflow(tmp_path, snakemake)


def test_what_failed_runs_again_by_the_rule_that_can_mend_it(workflow: Workflow) -> None:
    assert workflow.run(answers=1, judged=1) == {ANSWERS, JUDGED}
    assert workflow.run(answers=0, judged=1) == {ANSWERS, JUDGED}, "a question has no answer"
    assert workflow.run(answers=0, judged=0) == {JUDGED}, "a call of the judge has failed"
    assert workflow.run(answers=0, judged=0) == set()


def test_another_judge_reads_the_same_answers(workflow: Workflow) -> None:
    assert workflow.run(0, 0) == {ANSWERS, JUDGED}
    assert workflow.run(0, 0, "--config", "benchmarks-judge=local") == {JUDGED}
    assert workflow.run(0, 0, "--config", "benchmarks-judge=local", "benchmarks-limit=5") == {ANSWERS, JUDGED}


def test_how_answers_are_scored_is_no_reason_to_ask_again(workflow: Workflow) -> None:
    assert workflow.run(0, 0) == {ANSWERS, JUDGED}
    changes = ("metric=other", "more_metrics=[more]", "scale=1", "group_by=capability", "published={other: 1}")
    changed = [f"benchmarks-tasks-mmvet-{change}" for change in changes]
    assert workflow.run(0, 0, "--config", *changed) == {JUDGED}


def test_other_weights_in_the_same_folder_are_asked(workflow: Workflow) -> None:
    assert workflow.run(0, 0) == {ANSWERS, JUDGED}
    (workflow.folder / "model/README.md").write_text("nothing that a model is made of", encoding="utf-8")
    assert workflow.run(0, 0) == set()
    workflow.write_weights(2)
    assert workflow.run(0, 0) == {ANSWERS, JUDGED}
