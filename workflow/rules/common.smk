# What all the files of rules use: the typed configuration `cfg`, the folders `R` (results) and `D` (data), and the
# functions that turn a row of the configuration into inputs and parameters.
import json
import os
import re
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

REPOSITORY = Path(workflow.basedir).parent
# The code that runs is the clone's own, whatever is installed beside it.
sys.path.insert(0, str(REPOSITORY / "scripts"))

from safe_llava.config.load import BASE_PREFIX, parse as parse_config
from safe_llava.config.secrets import missing_keys
from safe_llava.core.errors import SafeLlavaError
from safe_llava.prism.judge_rules import rules_version
from safe_llava.config.data import resolve_set
from snakemake_executor_plugin_slurm_steady.script import TRAP

try:
    cfg = parse_config(config, workflow.configfiles)
    SETS = {name: resolve_set(name, row, cfg.data.pins) for name, row in cfg.data.sets.items()}
except SafeLlavaError as error:
    raise WorkflowError(str(error)) from None

R = cfg.results
D = cfg.data.root
TASKS = ["refusal_soft", "refusal_hard", "implicit_leakage"]
FILES = {file.path: file for resolved in SETS.values() for file in resolved.files}
ARCHIVES = {path: file for path, file in FILES.items() if file.unpack is not None}
SNAPSHOTS = {name: resolved.snapshot for name, resolved in SETS.items() if resolved.snapshot is not None}
CHECKED = [name for name, row in cfg.data.sets.items() if row.kind in ("annotations", "prism")]
TRAINED = [name for name in cfg.train.models if not name.startswith(BASE_PREFIX)]
CHECKPOINTS = Path(R) / cfg.train.checkpoint_root

# Steps run with the interpreter that runs Snakemake, unless an image brings its own. Under SLURM each shell says how
# it ended (TRAP). A prefix replaces Snakemake's own, which stops at the first error.
IN_IMAGE = any(str(method) == "apptainer" for method in workflow.deployment_settings.deployment_method)
shell.prefix(
    "set -euo pipefail; "
    + TRAP
    + f"export PYTHONPATH={str(REPOSITORY / 'scripts')!r}; "
    + ("" if IN_IMAGE else f"export PATH={str(Path(sys.executable).parent)!r}:$PATH; ")
)


def either(names):
    """A regular expression that matches exactly these names."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


wildcard_constraints:
    file=either(FILES),
    archive=either(ARCHIVES),
    snapshot=either(SNAPSHOTS),
    dataset=either(CHECKED),
    trained=either(TRAINED),
    model=either(cfg.models),
    released=either(cfg.prism.released_models),
    evaluated=either([*cfg.models, *cfg.prism.released_models]),
    origin="answers|released",
    edition=either(cfg.prism.editions),
    task=either(TASKS),
    judge=either(cfg.prism.judges),
    benchmark=either(cfg.benchmarks.tasks),


def row_json(row, **changes):
    """A row of the configuration as the JSON that a step reads; what has its default is left out."""
    return row.model_copy(update=changes).model_dump_json(exclude_defaults=True)


# The data itself is nobody's output, or Snakemake would delete it before it runs a step again: the output of a step
# is the receipt, which says what was verified, and is equal whenever the bytes are equal.
def fetched(path):
    """The receipt of a fetched file."""
    return f"{R}/data/fetched/{path}.json"


def receipts(name):
    """The receipts of everything that a data set consists of."""
    if name in SNAPSHOTS:
        return [f"{R}/data/snapshots/{name}.json"]
    paths = [file.path for file in SETS[name].files]
    return [f"{R}/data/unpacked/{path}.json" if path in ARCHIVES else fetched(path) for path in paths]


def annotation_files(name):
    """The annotation or question files of a data set, which name its images."""
    return [f"{D}/{annotations.path}" for annotations in cfg.data.sets[name].annotations]


def image_folder(name):
    """The folder that the image names of an annotation set are relative to."""
    return f"{D}/{cfg.data.sets[name].annotations[0].images}"


def layout(name):
    """The summary of a passed layout check."""
    return f"{R}/data/layout/{name}.json"


def weights_folder(name):
    """The folder of a downloaded checkpoint."""
    return f"{D}/{SNAPSHOTS[name].path}"


def model_folder(name):
    """The folder of an evaluated model, trained here or downloaded."""
    row = cfg.models[name]
    return f"{R}/train/{row.train}/model" if row.train else weights_folder(row.weights)


def model_ready(name):
    """The files whose presence says that an evaluated model is there."""
    row = cfg.models[name]
    return [model_folder(name)] if row.train else receipts(row.weights)


def model_row(name, **changes):
    """An evaluated model's row without what is only said about it."""
    return row_json(cfg.models[name], description=name, published_as=None, **changes)


def data_milestone():
    """Everything that the selected models, editions and benchmarks need from outside."""
    sets, wanted = set(), set()
    for name in cfg.train.select.models:
        row = cfg.train.models[name]
        sets |= {row.pretrain.annotations, row.finetune.annotations}
        wanted |= {row.language_model, row.vision_tower}
    sets |= {cfg.prism.editions[name].dataset for name in cfg.prism.select.editions}
    for name in {*cfg.prism.select.models, *cfg.benchmarks.select.models}:
        if cfg.models[name].weights:
            wanted.add(cfg.models[name].weights)
    wanted |= {cfg.benchmarks.tasks[name].dataset for name in cfg.benchmarks.select.tasks}
    released = [fetched(released_path(name, task)) for name in cfg.prism.released_models for task in TASKS]
    return [layout(name) for name in sorted(sets)] + [p for n in sorted(wanted) for p in receipts(n)] + released


def released_path(model, task):
    """The path, under the data root, of the released answers of one model and task."""
    path = f"eval/PRISM/released/{model}/{task}_Answer.jsonl"
    if path not in FILES:
        released = sorted({file.path.split("/")[3] for file in SETS[cfg.prism.released_dataset].files})
        raise WorkflowError(
            f"prism.released_models: no answers of `{model}` were released\n  remedy: use some of {', '.join(released)}"
        )
    return path


def training_row(name):
    """A trained model's row; other words about it, or another number of processes, are no reason to train again."""
    row = cfg.train.models[name]
    row = row.model_copy(update={"description": name, "processes": 1, "nodes": 1})
    return row.model_dump_json(indent=2, exclude_defaults=True)


def training_inputs(name, stage):
    """What a stage of training needs to be there."""
    row = cfg.train.models[name]
    annotations = getattr(row, stage).annotations
    return [layout(annotations), *receipts(row.language_model), *receipts(row.vision_tower)]


def per_node(row):
    """Training processes on each machine."""
    return row.processes // row.nodes


def gpus(row):
    """GPUs a node for a training job; a row that trains on CPU asks for none."""
    return per_node(row) if row.accelerator == "gpu" else 0


def cpus(row):
    """CPUs on each machine: a GPU's process has eight that load samples (train.run --workers)."""
    return per_node(row) * (8 if row.accelerator == "gpu" else 1)


def gres(row):
    """GPUs of each machine, for a job of several: a number in all might be spread unevenly."""
    return f"gpu:{gpus(row)}" if gpus(row) else ""


def launcher(row):
    """What starts the launcher: nothing on one machine; on several srun, with the image inside it.

    SLURM is on the host and not in images, so the rules of several machines name no container of their own.
    """
    if row.nodes == 1:
        return ""
    # A process that stops in good order leaves the others the time to do so.
    step = f"srun --nodes={row.nodes} --ntasks-per-node=1 --cpus-per-task={cpus(row)} --wait=120 --kill-on-bad-exit=0"
    if not (IN_IMAGE and cfg.images.train):
        return step
    arguments = workflow.deployment_settings.apptainer_args
    return f"{step} apptainer exec --home {str(Path.cwd())!r} {arguments} {cfg.images.train}"


def spread(row):
    """The launcher's arguments: processes on this machine, and where those of several machines meet."""
    if row.nodes == 1:
        return f"--processes {row.processes}"
    # The shell runs on the first machine; the port is the job's own.
    return (
        f'--processes {per_node(row)} --nodes {row.nodes} --rendezvous "$(hostname):$((20000 + SLURM_JOB_ID % 20000))"'
    )


SINGLE = [name for name in TRAINED if cfg.train.models[name].nodes == 1]
SPREAD = [name for name in TRAINED if cfg.train.models[name].nodes > 1]


def released_reference(task):
    """The released files that together name every question of a task."""
    # Both refusal tasks ask about the same images: what one file lacks, the other names.
    same = TASKS[:2] if task in TASKS[:2] else [task]
    return [released_path(model, other) for model in cfg.prism.released_models for other in same]


# Differences from the published counts come in two files: of the models run here, and of the released answers.
DIFFERENCES = ["prism_differences"] + ["prism_released_differences"] * ("prism_released" in cfg.paper.tables)
TABLES = [table for kind in cfg.paper.tables for table in (DIFFERENCES if kind == "differences" else [kind])]
TRAINING_CURVES = [f"{name}/{stage}" for name in cfg.train.select.models for stage in ("pretrain", "finetune")]
EXAMPLE_EDITION = cfg.prism.select.editions[0]
FIGURE_INPUTS = {
    "prism": [f"{R}/tables/prism.csv"],
    "prism_released": [f"{R}/tables/prism_released.csv"],
    "differences": [f"{R}/tables/{DIFFERENCES[-1]}.csv"],
    "benchmarks": [f"{R}/tables/benchmarks.csv"],
    "training": [f"{R}/train/{curve}/metrics.csv" for curve in TRAINING_CURVES],
    "examples": [
        f"{R}/prism/answers/{EXAMPLE_EDITION}/{model}/{task}.jsonl"
        for model in cfg.prism.select.models
        for task in ("refusal_soft", "implicit_leakage")
    ],
}


def figure_arguments(wildcards, input):
    """The arguments of a figure beside its kind and its outputs."""
    if wildcards.figure == "examples":
        images = [f"{D}/{part.images}" for part in cfg.prism.editions[EXAMPLE_EDITION].parts]
        drawn = [
            f"--count={cfg.paper.examples.count}",
            f"--seed={cfg.paper.examples.seed}",
        ]
        return ["--answers", *input, "--images", *images, *drawn]
    labels = ["--labels", *TRAINING_CURVES] if wildcards.figure == "training" else []
    return ["--input", *input, *labels]


def check_keys(jobs):
    """Refuse to start where a judge's key is missing, before anything has been spent."""
    judges = {job.wildcards.judge for job in jobs if job.rule.name == "prism_judge"}
    missing = missing_keys({name: cfg.prism.judges[name] for name in sorted(judges)}, os.environ)
    if missing:
        raise WorkflowError(missing)
