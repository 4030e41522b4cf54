# What all files of rules use: the typed configuration `cfg`, the folders `R` (results) and `D` (data), and the functions
# that turn a row of the configuration into inputs and parameters.
#
# Snakemake compares the parameters of a job as a set of values, without their names and their number: two that change
# places would run nothing again. So whatever changes a result is one value that names what it holds: a row as JSON, or
# the list of a step's arguments.
import functools
import gc
import inspect
import json
import os
import re
import shutil
import sys
from pathlib import Path

from snakemake.common import overwrite_function_params
from snakemake.exceptions import WorkflowError
from snakemake.path_modifier import PathModifier
from snakemake.resources import Resource

# Snakemake's modules live as long as the process; the executor plugin says how often the rest is looked through.
gc.freeze()

# This file's own clone: another workflow may use it as a module.
REPOSITORY = Path(str(workflow.current_basedir)).resolve().parents[1]
# The code that runs is the clone's own, whatever is installed beside it, or was imported from there before.
sys.path.insert(0, str(REPOSITORY / "scripts"))
PACKAGES = ("safe_llava", "snakemake_executor_plugin_slurm_steady")
OWN = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in PACKAGES}
HERE = (REPOSITORY / "scripts").resolve()
if not HERE.is_dir():
    raise WorkflowError(
        f"{workflow.current_basedir}: the steps are run from a clone, and this is none\n"
        "  remedy: git clone the repository, and give the module `snakefile: CLONE/workflow/Snakefile`"
    )
FOREIGN = {name: module for name, module in OWN.items() if HERE not in Path(module.__file__).resolve().parents}
for name in OWN if FOREIGN else ():
    del sys.modules[name]

from safe_llava.checkpoints.families import CONVERTED, check_source
from safe_llava.checkpoints.whole import other_kind
from safe_llava.config.data import resolve_set
from safe_llava.config.load import BASE_PREFIX, over_defaults, parse as parse_config
from safe_llava.config.selection import compared, config_files
from safe_llava.containers.tag import image_path
from safe_llava.core.errors import SafeLlavaError
from safe_llava.core.retry import retry_stamp
from safe_llava.formats.prism import Task

try:
    cfg = parse_config(over_defaults(config), config_files(workflow.configfiles))
    SETS = {name: resolve_set(name, row, cfg.data.pins, cfg.data.revisions) for name, row in cfg.data.sets.items()}
except SafeLlavaError as error:
    raise WorkflowError(str(error)) from None

# Where another workflow uses the rules as a module, it may call them otherwise, and put them into a folder (`prefix:`).
# Snakemake prefixes inputs and outputs; here the folders themselves are, for the arguments of steps name them too.
NAME_OF = workflow.modifier.modify_rulename
R, D = (workflow.modifier.path_modifier.replace_prefix(f"{path}/").rstrip("/") for path in (cfg.results, cfg.data.root))
workflow.modifier.path_modifier = PathModifier(None, None, workflow)
cfg = cfg.model_copy(update={"results": R, "data": cfg.data.model_copy(update={"root": D})})
TASKS = [str(task) for task in Task]
FILES = {file.path: file for resolved in SETS.values() for file in resolved.files}
ARCHIVES = {path: file for path, file in FILES.items() if file.unpack is not None}
COVERS = {path: file for path, file in FILES.items() if file.covers is not None}
SNAPSHOTS = {name: resolved.snapshot for name, resolved in SETS.items() if resolved.snapshot is not None}
CHECKED = [name for name, row in cfg.data.sets.items() if row.kind in ("annotations", "prism")]
TRAINED = [name for name in cfg.train.models if not name.startswith(BASE_PREFIX)]
CHECKPOINTS = Path(R) / cfg.train.checkpoint_root

# Pairs of models that are compared: both are evaluated. Benchmarks whose labels are not public have no score.
SUBMITTED = [name for name, task in cfg.benchmarks.tasks.items() if task.submission]
SCORED = [name for name in cfg.benchmarks.select.tasks if name not in SUBMITTED]
PRISM_PAIRS = compared(cfg, cfg.prism.select.models)
BENCHMARK_PAIRS = compared(cfg, cfg.benchmarks.select.models) if SCORED else []
# A judge reads the answers to some, in a step of its own.
JUDGED = [name for name, task in cfg.benchmarks.tasks.items() if task.judged]
BENCHMARK_RESULTS = expand(
    f"{R}/benchmarks/{{model}}/{{benchmark}}/results.json",
    model=cfg.benchmarks.select.models,
    benchmark=cfg.benchmarks.select.tasks,
)
BENCHMARK_UNITS = [
    (f"{name}/{benchmark}", f"{R}/benchmarks/{name}/{benchmark}/units.csv")
    for name in dict.fromkeys(name for pair in BENCHMARK_PAIRS for name in (pair.safe, pair.original))
    for benchmark in SCORED
]
# The targets ask for these by name: no table outlives what it was made of, and no score the answers.
BENCHMARK_SOURCES = [
    *BENCHMARK_RESULTS,
    *(path for _, path in BENCHMARK_UNITS),
    *expand(
        f"{R}/benchmarks/{{model}}/{{benchmark}}/answers.json",
        model=cfg.benchmarks.select.models,
        benchmark=[name for name in cfg.benchmarks.select.tasks if name in JUDGED],
    ),
]

QUIET = "all" in {str(one) for one in workflow.output_settings.quiet or []}
# Steps run with the interpreter that runs Snakemake, unless a container image brings its own.
IN_CONTAINERS = any(str(method) == "apptainer" for method in workflow.deployment_settings.deployment_method)
NO_APPTAINER = IN_CONTAINERS and not any(map(shutil.which, ("apptainer", "singularity")))
# SLURM, Apptainer and the keys are on the machine itself: what needs them runs in no container, and says so. Its
# `python` need not be the one that has Snakemake, where the other rules have containers.
ON_THE_HOST = lambda wildcards: None
HOST_PYTHON = str(Path(sys.executable).parent / "python")


@functools.cache
def container_image(name):
    """The container image of an environment: train, eval or paper."""
    return image_path(name, cfg.images, REPOSITORY)


# Snakemake itself calls this for every resource of every job.
overwrite_function_params(Resource.evaluate, inspect.signature(Resource("", 0).evaluate).parameters)
OF_WILDCARDS = inspect.signature(lambda wildcards: None).parameters


def either(names):
    """A regular expression that matches exactly these names."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def noted(function):
    """A function whose parameters are noted: Snakemake looks for them several times a job, longer than the call takes."""
    overwrite_function_params(function, inspect.signature(function).parameters)
    return function


def note_default_resources():
    """Note the parameters of what Snakemake itself makes: a function for each default resource of a rule."""
    for resource in [one for rule in workflow.rules for one in rule.resources.values() if one.is_evaluable()]:
        if inspect.isfunction(evaluator := getattr(resource, "_evaluator", None)):
            noted(evaluator)


def of(wildcard, function, **fixed):
    """An input, parameter or resource function: what a function makes of the value of one wildcard."""
    made = lambda wildcards: function(wildcards[wildcard], **fixed)
    overwrite_function_params(made, OF_WILDCARDS)
    return made


wildcard_constraints:
    file=either(FILES),
    archive=either(ARCHIVES),
    covers=either(COVERS),
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


def jobs_of(jobs, *names):
    """The jobs of some of these rules, whatever a workflow calls them that uses this one as a module."""
    names = set(map(NAME_OF, names))
    return [job for job in jobs if job.rule.name in names]


def row_json(row, **changes):
    """A row of the configuration as the JSON that a step reads; what has its default is left out."""
    return row.model_copy(update=changes).model_dump_json(exclude_defaults=True)


# The data itself is nobody's output, or Snakemake would delete it before it runs a step again: the output of a step
# is the receipt, which says what was verified, and is equal whenever the bytes are equal.
def fetched(path):
    """The receipt of a fetched file."""
    return f"{R}/data/fetched/{path}.json"


def placed(path):
    """The receipt of a file that can be used: an archive unpacked, or indexed where nothing is to be unpacked."""
    if path not in ARCHIVES:
        return f"{R}/data/covers/{path}.json" if path in COVERS else fetched(path)
    stored = {"extracted": "unpacked", "archive": "indexed"}[cfg.data.storage_of(ARCHIVES[path].set)]
    return f"{R}/data/{stored}/{path}.json"


def receipts(name):
    """The receipts of everything that a data set consists of."""
    if name in SNAPSHOTS:
        return [f"{R}/data/snapshots/{name}.json"]
    return [placed(file.path) for file in SETS[name].files]


def annotation_files(name):
    """The annotation or question files of a data set, which name its images."""
    return [f"{D}/{annotations.path}" for annotations in cfg.data.sets[name].annotations]


def layout(name):
    """The summary of a passed layout check."""
    return f"{R}/data/layout/{name}.json"


def weights_folder(name):
    """The folder of a downloaded checkpoint."""
    return f"{D}/{SNAPSHOTS[name].path}"


def source_folder(name):
    """The folder of an evaluated model as it came: trained here, the user's own, or downloaded."""
    row = cfg.models[name]
    if row.train:
        return f"{R}/train/{row.train}/model"
    return row.folder or weights_folder(row.weights)


OF_A_CHECKPOINT = {".json", ".safetensors", ".bin", ".model", ".jinja", ".txt"}


def source_ready(name):
    """The files whose presence says that an evaluated model has come."""
    row = cfg.models[name]
    if row.train:
        return [source_folder(name)]
    if row.folder is None:
        return receipts(row.weights)
    folder = Path(row.folder)
    if not (folder / "config.json").is_file() and not (folder.is_dir() and other_kind(os.listdir(folder))):
        raise WorkflowError(
            f"models.{name}.folder: {row.folder} holds no checkpoint (no config.json)\n"
            "  remedy: put the checkpoint there, name its place with `folder`, or give `folder: null`, `hub` and `revision`"
        )
    try:
        check_source(folder, row)
    except SafeLlavaError as error:
        raise WorkflowError(f"models.{name}.folder: {error}") from error
    # Whoever puts other weights there means them to be asked.
    return sorted(str(path) for path in folder.iterdir() if path.suffix in OF_A_CHECKPOINT)


def model_folder(name):
    """The folder of an evaluated model as it is loaded."""
    return f"{R}/prism/models/{name}" if cfg.models[name].family in CONVERTED else source_folder(name)


def model_ready(name):
    """The files whose presence says that an evaluated model can be loaded."""
    return [model_folder(name)] if cfg.models[name].family in CONVERTED else source_ready(name)


def model_row(name, **changes):
    """An evaluated model's row without what is only said about it."""
    return row_json(cfg.models[name], description=name, published_as=None, **changes)


def engine_gpus(name):
    """GPUs for an evaluated model."""
    return int(cfg.models[name].accelerator == "gpu")


# What asking a model takes: a GPU has eight threads that open and prepare images; the memory is that of a 13B model's
# weights on their way to the GPU, and images.
ENGINE = dict(
    gpu=of("model", engine_gpus),
    cpus_per_task=of("model", lambda name: 8 if engine_gpus(name) else 1),
    mem_mb=of("model", lambda name: 64000 if engine_gpus(name) else 4000),
    runtime=240,
)
