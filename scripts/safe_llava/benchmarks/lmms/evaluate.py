"""lmms-eval's own task and evaluator, in this process and without network."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import ImageFile

from safe_llava.benchmarks.lmms.results import check_metrics, normalise_results, unit_name
from safe_llava.benchmarks.scoring.submission import keep_submission
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core.errors import BenchmarkError, SafeLlavaError
from safe_llava.core.secrets import is_secret
from safe_llava.engine.base import Engine
from safe_llava.engine.store import ReplyStore

if TYPE_CHECKING:
    from lmms_eval.api.task import Task

    from safe_llava.benchmarks.lmms.judging import Judging
    from safe_llava.benchmarks.lmms.plugin import SafeLlava
    from safe_llava.benchmarks.scoring.units import Units

HUB_FOLDER = Path("hub/datasets")  # under the data root: <organisation>/<name> of every hub data set
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "PYTHON_DOTENV_DISABLED": "1",  # lmms-eval would take keys out of a .env file
}
SCRATCH = ".benchmark-"
NO_JUDGE = {"OPENAI_API_KEY": "none"}  # MM-Vet's code does not import without a key; no call is made
JUDGED_AT_ONCE = 16  # answers that a judge is asked about at once


def go_offline() -> None:
    """Keep every library of this process off the network; has to come before they are imported."""
    os.environ.update(OFFLINE)


@dataclass
class EvaluationRequest:
    """What a run needs beside its task.

    Attributes:
        engine: opens the engine, when the first question needs it.
        data: the data root.
        work: folder under which a temporary one is made, for the data sets' Arrow files.
        store: keeps answers as they come.
        facts: what answers depend on beside the question.
        limit: ask the first so many questions only.
        allow_failed: share of the questions that may lack an answer.
        ask_only: no answer is scored, and no judge is asked.
        judging: who reads the answers, where the benchmark is judged.
        keep: where the file for a server goes, where the benchmark is scored by one.
    """

    engine: Callable[[], Engine]
    data: Path
    work: Path
    store: ReplyStore | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    allow_failed: float = 0.0
    ask_only: bool = False
    judging: Judging | None = None
    keep: Path | None = None


@dataclass
class EvaluationResult:
    """What came of it: lmms-eval's own results, and ours. There are no metrics where a judge's call has failed.

    ``failures`` says why documents have no answer, by number; ``left_out`` names the units of all that are not scored
    for that, theirs and the rest of their units.
    """

    raw: dict[str, Any]
    metrics: dict[str, dict[str, float | None]] = field(default_factory=dict)
    units: dict[str, Units] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)
    engine: list[dict[str, Any]] = field(default_factory=list)
    judge_failures: list[str] = field(default_factory=list)
    submitted: int | None = None


def evaluate(task: BenchmarkTask, asked: EvaluationRequest) -> EvaluationResult:
    """Run a benchmark with lmms-eval's ``simple_evaluate``.

    Raises:
        BenchmarkError: the data set is not there, the task lacks a metric of the row or does not run offline, or a file
            for a server is not as it has to be; MissingAnswersError where questions have no answer.
    """
    go_offline()
    with contextlib.ExitStack() as stack:
        lost = stack.enter_context(_judged(task, asked))
        from lmms_eval.tasks import TaskManager, get_task_dict

        manager = TaskManager(include_defaults=False, include_path=str(task_folder(task.lmms_task)))
        folder = stack.enter_context(working_folder(asked.data, asked.work))
        config = manager._get_config(task.lmms_task)
        check_data(config, asked.data, task)
        with explained(task, asked.data):
            (loaded,) = get_task_dict([asked_task(task, config, folder / "cache")], manager).values()
            if not asked.ask_only:
                check_metrics(task, loaded.aggregation())
            found, cli_args = _run(task, asked, loaded, manager, folder)
            if asked.ask_only:
                return found
            found.judge_failures = judge_failures(task, asked.judging, found.raw, lost)
            if task.submission and asked.keep is not None:
                found.submitted = keep_submission(folder / "out", task, asked.keep, len(_samples(found, task)))
            elif not found.judge_failures:
                found.metrics, units = normalise_results(found.raw, task, aggregation(loaded, cli_args))
                left_out = tuple(dict.fromkeys(found.left_out.values()))
                found.units = {name: replace(one, left_out=left_out) for name, one in units.items()}
        return found


def _run(
    task: BenchmarkTask, asked: EvaluationRequest, loaded: Task, manager: Any, folder: Path
) -> tuple[EvaluationResult, argparse.Namespace]:
    from lmms_eval.evaluator import simple_evaluate

    from safe_llava.benchmarks.lmms.plugin import Asking, SafeLlava

    # lmms-eval tells Pillow to fill up half an image with grey; here that question has failed.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    found = EvaluationResult({})

    def leave_out(failures: Mapping[int, str]) -> None:
        if asked.limit is not None:
            without(loaded, cut_apart(loaded, task), task)
        found.failures.update(failures)
        found.left_out |= without(loaded, set(failures), task)

    asking = Asking(asked.facts, task.pictures, asked.allow_failed, leave_out)
    loaded.process_results = nothing_for_nothing(loaded.process_results)
    model: SafeLlava = SafeLlava(engine=asked.engine, store=asked.store, asking=asking)
    cli_args = argparse.Namespace(output_path=str(folder / "out"), process_with_media=False)
    at_once = min(asked.judging.judge.max_concurrency, JUDGED_AT_ONCE) if asked.judging else 1
    found.raw = dict(
        simple_evaluate(
            model=model,
            tasks=[loaded],
            task_manager=manager,
            limit=asked.limit,
            bootstrap_iters=0,
            predict_only=asked.ask_only,
            distributed_executor_backend="torchrun",  # one process: nothing is distributed
            process_docs_parallel=at_once,
            cli_args=cli_args,
        )
    )
    return replace(found, engine=[one.describe() for one in model.engines]), cli_args


def nothing_for_nothing(process_results: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Return a task's scoring in which an empty reply scores 0.

    VQA's rules drop articles, so that an empty reply equals the annotators' "A".
    """

    def scored(doc: Any, results: Any, **more: Any) -> dict[str, Any]:
        found = process_results(doc, results, **more)
        replies = results[0] if results and isinstance(results[0], list) else results
        if any(reply and str(reply).strip() for reply in replies):
            return found
        return {name: 0.0 if isinstance(value, int | float) else value for name, value in found.items()}

    return scored


@contextlib.contextmanager
def _judged(task: BenchmarkTask, asked: EvaluationRequest) -> Iterator[Callable[[], list[str]]]:
    """Hide the keys of the environment, and stand in for OpenAI's endpoint where a benchmark is judged.

    Yields what tells why requests came to nothing there.

    Raises:
        BenchmarkError: it is judged, and there is no judge.
    """
    from safe_llava.benchmarks.lmms.endpoint import Endpoint, changed_environment, stands_for_openai

    judging, hidden = asked.judging, dict.fromkeys(filter(is_secret, os.environ))
    if asked.ask_only or not task.judged:
        with changed_environment({**hidden, **(NO_JUDGE if asked.ask_only else {})}):
            yield list
        return
    if judging is None:
        raise BenchmarkError(
            f"{task.lmms_task} is read by a judge", "name one: `benchmarks.judge`, a row of prism.judges"
        )
    model = str(judging.judge.model)
    with (
        changed_environment(hidden),
        judging,
        Endpoint(judging, model) as endpoint,
        stands_for_openai(endpoint, model, judging.judge.key_env),
    ):
        yield endpoint.failures


def judge_failures(
    task: BenchmarkTask, judging: Judging | None, raw: Mapping[str, Any], lost: Callable[[], list[str]]
) -> list[str]:
    """Return why answers have no verdict: what the judge's record and the endpoint say, and what the samples show."""
    if judging is None:
        return []
    if failures := [*judging.failures.values(), *lost()]:
        return failures
    unread = []
    for sample in raw["samples"][task.lmms_task]:
        values = [value for value in sample.values() if isinstance(value, dict)]
        if any(value.get("eval_model") in ("", "Failed Request") or -1 in value.get("scores", ()) for value in values):
            unread.append(f"document {sample['doc_id']}: the task has no verdict on it")
    return unread


def _samples(found: EvaluationResult, task: BenchmarkTask) -> list[Any]:
    return list(found.raw["samples"][task.lmms_task])


def aggregation(loaded: Task, cli_args: argparse.Namespace) -> Callable[[str, list[Any]], Any]:
    """Return the task's own way from what it made of some samples to a score, by metric."""
    functions = loaded.aggregation()

    def aggregate(metric: str, values: list[Any]) -> Any:
        function = functions[metric]
        if "args" in inspect.signature(function).parameters:
            return function(values, args=cli_args)
        return function(values)

    return aggregate


def without(loaded: Task, numbers: set[int], task: BenchmarkTask) -> dict[int, str]:
    """Take documents out of what is scored, with all of their unit; return the units of those that are out."""
    docs = loaded.eval_docs_no_media
    units = {int(one.doc_id): unit_name(docs[int(one.doc_id)], int(one.doc_id), task) for one in loaded._instances}
    names = {units[number] for number in numbers if number in units}
    out = {number: name for number, name in units.items() if name in names}
    loaded._instances = [one for one in loaded._instances if int(one.doc_id) not in out]
    return out


def cut_apart(loaded: Task, task: BenchmarkTask) -> set[int]:
    """Return the numbers of the documents that are asked without the rest of their unit, where it has to be whole."""
    if task.group_size is None:
        return set()
    numbers = {int(one.doc_id) for one in loaded._instances}
    units = {number: unit_name(loaded.eval_docs_no_media[number], number, task) for number in numbers}
    sizes = Counter(units.values())
    return {number for number, unit in units.items() if sizes[unit] < task.group_size}


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
            f"check the data set `{task.dataset}` under {data / HUB_FOLDER}",
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
    folder = data / HUB_FOLDER / str(config.get("dataset_path"))
    if not any(path.is_file() for path in folder.rglob("*")):
        raise BenchmarkError(f"{folder}: no data set for {task.lmms_task}", f"fetch the data set `{task.dataset}`")


@contextlib.contextmanager
def working_folder(data: Path, work: Path) -> Iterator[Path]:
    """Work in a temporary folder in which ``<organisation>/<name>`` leads to the data sets under the data root.

    The `datasets` library takes such a folder before it asks the hub, also for what a task's code loads by itself.
    Its cache is a folder of this run: the user's would give the bytes of another data root under the same name.
    """
    import datasets

    hub, before = (data / HUB_FOLDER).resolve(), Path.cwd()
    work.mkdir(parents=True, exist_ok=True)
    for left in work.glob(f"{SCRATCH}*"):  # by a run that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=SCRATCH, dir=work) as name:
        folder = Path(name).resolve()
        for organisation in hub.iterdir() if hub.is_dir() else []:
            (folder / organisation.name).symlink_to(organisation, target_is_directory=True)
        cache, datasets.config.HF_DATASETS_CACHE = datasets.config.HF_DATASETS_CACHE, folder / "cache"
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)
            datasets.config.HF_DATASETS_CACHE = cache
