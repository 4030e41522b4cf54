"""PRISM inside lmms-eval gives what the workflow's tables say of the demo's two models."""

from __future__ import annotations

import csv
from functools import partial
from pathlib import Path
from typing import Any

import lmms_eval.evaluator
import pytest
from lmms_eval.tasks import TaskManager

from demo.test_end_to_end import finished  # noqa: F401  (a fixture)
from safe_llava.benchmarks.lmms.plugin import Asking, SafeLlava
from safe_llava.config.load import load
from safe_llava.config.selection import config_files
from safe_llava.engine import open_engine
from safe_llava.formats.prism import Task
from safe_llava.prism.lmms import __file__ as package

pytestmark = pytest.mark.demo


@pytest.mark.parametrize("name", ["demo-safe", "demo-original"])
def test_lmms_eval_gives_the_rates_of_the_tables(
    finished: Path,  # noqa: F811  (the fixture)
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.setenv("PRISM_ROOT", str(finished / "data" / "eval" / "PRISM"))
    row = load(config_files([root / "config" / "demo.yaml"])).models[name]
    model: Any = SafeLlava(
        engine=partial(open_engine, finished / "train" / name / "model", row, "cpu", 1), asking=Asking({})
    )

    found = lmms_eval.evaluator.simple_evaluate(
        model=model,
        tasks=["prism"],
        task_manager=TaskManager(include_defaults=False, include_path=str(Path(package).parent / "tasks")),
        bootstrap_iters=0,
        distributed_executor_backend="torchrun",
    )["results"]

    compared = {"v1": 0, "v2": 0}
    prefix = {"v1": "prism_v1", "v2": "prism"}
    with (finished / "tables" / "prism.csv").open(encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            if (line["model"], line["judge"]) == (name, "rules") and line["rate"]:
                task = f"{prefix[line['edition']]}_{Task(line['task'])}"
                assert found[task][f"{line['attribute']},none"] == pytest.approx(float(line["rate"]), abs=0.005)
                compared[line["edition"]] += 1
    assert min(compared.values()) >= 15
