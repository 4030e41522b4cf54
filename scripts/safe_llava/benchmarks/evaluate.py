"""lmms-eval's own task and evaluator, in this process and without network."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.config.models import EvaluatedModel
from safe_llava.core.errors import BenchmarkError, SafeLlavaError
from safe_llava.engine.base import Engine

HUB = Path("hub/datasets")  # under the data root: <organisation>/<name> of every hub data set
OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def go_offline() -> None:
    """Keep every library of this process off the network; has to come before they are imported."""
    os.environ.update(OFFLINE)


def benchmark_row(row: EvaluatedModel) -> EvaluatedModel:
    """Return a model's row without what belongs to PRISM's protocol: the cut of answers and the size of images."""
    return row.model_copy(update={"cut_at_newline": False, "image_size": None})


def evaluate(task: BenchmarkTask, engine: Engine, data: Path, work: Path, limit: int | None = None) -> dict[str, Any]:
    """Run a benchmark and return what lmms-eval's ``simple_evaluate`` returns.

    Args:
        task: the benchmark's row.
        engine: who answers.
        data: the data root.
        work: folder under which a temporary one is made, for the data sets' Arrow files.
        limit: ask the first so many questions only.

    Raises:
        BenchmarkError: the data set is not there, the task does not run offline, or a question has no answer.
    """
    go_offline()
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from safe_llava.benchmarks.plugin import SafeLlava

    manager = TaskManager(include_defaults=False, include_path=str(task_folder(task.lmms_task)))
    with working_folder(data, work) as folder:
        config = manager._get_config(task.lmms_task)
        check_data(config, data, task)
        with explained(task, data):
            results = simple_evaluate(
                model=SafeLlava(engine=engine),
                tasks=[asked_task(task, config, folder / "cache")],
                task_manager=manager,
                limit=limit,
                bootstrap_iters=0,
                distributed_executor_backend="torchrun",  # one process: nothing is distributed
                process_docs_parallel=1,
                cli_args=argparse.Namespace(output_path=str(folder / "out"), process_with_media=False),
            )
    return dict(results)


def asked_task(task: BenchmarkTask, config: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Return what lmms-eval is given as its task: its name, what the row sets otherwise, and where its cache lies."""
    # A token is asked for by most tasks and needed by none once the data are here.
    kwargs = {key: value for key, value in (config.get("dataset_kwargs") or {}).items() if key != "token"}
    return {"task": task.lmms_task, "dataset_kwargs": {**kwargs, "cache_dir": str(cache)}, **task.overrides}


@contextlib.contextmanager
def explained(task: BenchmarkTask, data: Path) -> Iterator[None]:
    """Turn whatever a task's own code meets, often wrapped by its retries, into an error that names the data set.

    Raises:
        BenchmarkError: the block failed; errors of ours pass as they are.
    """
    try:
        yield
    except SafeLlavaError:
        raise
    except Exception as error:
        cause = error.__cause__ or error
        raise BenchmarkError(
            f"{task.lmms_task} does not run: {type(cause).__name__}: {cause}",
            f"check the data set `{task.dataset}` under {data / HUB}",
        ) from error


def task_folder(name: str) -> Path:
    """Return the folder of lmms-eval that defines a task: reading all of its folders takes seconds.

    Raises:
        BenchmarkError: no file of lmms-eval defines the task.
    """
    from lmms_eval import tasks

    line = re.compile(rf"^task:[ \t]*[\"']?{re.escape(name)}[\"']?[ \t]*$", re.MULTILINE)
    for path in sorted(Path(tasks.__file__).parent.rglob("*.yaml")):
        if line.search(path.read_text(encoding="utf-8")):
            return path.parent
    raise BenchmarkError(f"lmms-eval has no task `{name}`", "set `lmms_task` to a name that `lmms-eval tasks` lists")


def check_data(config: dict[str, Any], data: Path, task: BenchmarkTask) -> None:
    """Check that the data set which a task reads is under the data root.

    Raises:
        BenchmarkError: it is not.
    """
    folder = data / HUB / str(config.get("dataset_path"))
    if not any(path.is_file() for path in folder.rglob("*")):
        raise BenchmarkError(f"{folder}: no data set for {task.lmms_task}", f"fetch the data set `{task.dataset}`")


@contextlib.contextmanager
def working_folder(data: Path, work: Path) -> Iterator[Path]:
    """Work in a temporary folder in which ``<organisation>/<name>`` leads to the data sets under the data root.

    The `datasets` library takes such a folder before it asks the hub, also for what a task's code loads by itself.
    """
    hub, before = (data / HUB).resolve(), Path.cwd()
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=work) as name:
        folder = Path(name).resolve()
        for organisation in hub.iterdir() if hub.is_dir() else []:
            (folder / organisation.name).symlink_to(organisation, target_is_directory=True)
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)
