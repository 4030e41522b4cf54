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
from safe_llava.core.retry import retry_stamp
from safe_llava.engine.families import CONVERTED
from safe_llava.prism.judge_rules import rules_version
from safe_llava.config.data import resolve_set

try:
    cfg = parse_config(config, workflow.configfiles)
    SETS = {name: resolve_set(name, row, cfg.data.pins, cfg.data.revisions) for name, row in cfg.data.sets.items()}
except SafeLlavaError as error:
    raise WorkflowError(str(error)) from None

R = cfg.results
D = cfg.data.root
TASKS = ["refusal_soft", "refusal_hard", "implicit_leakage"]
FILES = {file.path: file for resolved in SETS.values() for file in resolved.files}
ARCHIVES = {path: file for path, file in FILES.items() if file.unpack is not None}
COVERS = {path: file for path, file in FILES.items() if file.covers is not None}
SNAPSHOTS = {name: resolved.snapshot for name, resolved in SETS.items() if resolved.snapshot is not None}
CHECKED = [name for name, row in cfg.data.sets.items() if row.kind in ("annotations", "prism")]
TRAINED = [name for name in cfg.train.models if not name.startswith(BASE_PREFIX)]
CHECKPOINTS = Path(R) / cfg.train.checkpoint_root

# Steps run with the interpreter that runs Snakemake, unless an image brings its own.
IN_IMAGE = any(str(method) == "apptainer" for method in workflow.deployment_settings.deployment_method)
shell.prefix(
    f"export PYTHONPATH={str(REPOSITORY / 'scripts')!r}; "
    + ("" if IN_IMAGE else f"export PATH={str(Path(sys.executable).parent)!r}:$PATH; ")
)


def either(names):
    """A regular expression that matches exactly these names."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


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
    return [placed(file.path) for file in SETS[name].files]


def placed(path):
    """The receipt of a file that can be used: an archive unpacked, or indexed where nothing is to be unpacked."""
    if path not in ARCHIVES:
        return f"{R}/data/covers/{path}.json" if path in COVERS else fetched(path)
    stored = {"extracted": "unpacked", "archive": "indexed"}[cfg.data.storage_of(ARCHIVES[path].set)]
    return f"{R}/data/{stored}/{path}.json"


def archives_of(name):
    """The archives that a data set and those that it needs consist of."""
    return [file.path for part in (name, *cfg.data.sets[name].needs) for file in SETS[part].files if file.unpack]


def published_counts(name):
    """What the table says of a data set's samples and files, as the JSON that the layout check reads."""
    sources = {source.path: source for part in cfg.data.sets.values() for source in part.files}
    samples = {
        row.path: {"published": row.samples, "pinned": FILES[row.path].sha256 != "unknown"}
        for row in cfg.data.sets[name].annotations
    }
    files = {ARCHIVES[path].unpack.to: sources[path].unpack.files for path in archives_of(name) if path in sources}
    return json.dumps({"samples": samples, "files": files})


def published_audit(pair):
    """The arguments that hand over what was published about the original set of a pair."""
    numbers = [f"{attribute}={number}" for attribute, number in pair.published.items()]
    return ["--published", pair.original, *numbers] if numbers else []


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


def asks_call_by_call(judge):
    """Whether a judge is behind an API that answers at once."""
    return judge.kind != "rules" and not judge.batch


def judging_arguments(benchmark):
    """The arguments that name a benchmark's judge; none where it needs none."""
    name = cfg.benchmarks.judge_of(benchmark)
    if name is None:
        return []
    store = CHECKPOINTS / "benchmarks" / "judged" / name
    row = row_json(cfg.prism.judges[name], description=name, published_as=None)
    return [f"--judge={name}", f"--judge-row={row}", f"--judge-store={store}"]


def judge_prompts(judge, edition):
    """The receipts of the scripts that a judge's published prompts for an edition are read out of."""
    row = cfg.prism.judges[judge]
    if row.kind == "rules" or row.prompts != "published":
        return []
    family = {"gpt": "GPT", "gemini": "Gemini"}[row.prompts_of]
    scripts = [f"{family}_{task}_evaluation.py" for task in ("refusal", "implicit_leakage")]
    paths = [f"eval/PRISM/judges/{edition}/{script}" for script in scripts]
    if any(path not in FILES for path in paths):
        raise WorkflowError(
            f"prism.judges.{judge}: no prompts were published for edition `{edition}`\n  remedy: set `prompts: ours`"
        )
    return [fetched(path) for path in paths]


def source_folder(name):
    """The folder of an evaluated model as it came: trained here, the user's own, or downloaded."""
    row = cfg.models[name]
    if row.train:
        return f"{R}/train/{row.train}/model"
    return row.folder or weights_folder(row.weights)


def source_ready(name):
    """The files whose presence says that an evaluated model has come."""
    row = cfg.models[name]
    if row.train:
        return [source_folder(name)]
    if row.folder is None:
        return receipts(row.weights)
    if not Path(row.folder, "config.json").is_file():
        raise WorkflowError(
            f"models.{name}.folder: {row.folder} holds no checkpoint (no config.json)\n"
            "  remedy: put the checkpoint there, or name its place with `folder`, or its repository with `hub`"
        )
    return [f"{row.folder}/config.json"]


def model_folder(name):
    """The folder of an evaluated model as it is loaded."""
    return f"{R}/prism/models/{name}" if cfg.models[name].family in CONVERTED else source_folder(name)


def model_ready(name):
    """The files whose presence says that an evaluated model can be loaded."""
    return [model_folder(name)] if cfg.models[name].family in CONVERTED else source_ready(name)


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
        wanted |= {row for row in (cfg.models[name].weights, cfg.models[name].vision_tower) if row}
    wanted |= {cfg.benchmarks.tasks[name].dataset for name in cfg.benchmarks.select.tasks}
    if "audit" in (*TABLES, *FIGURES):
        wanted |= set(cfg.data.audit.sets)
    released = [fetched(released_path(name, task)) for name in cfg.prism.released_models for task in TASKS]
    asked = [(judge, edition) for judge in cfg.prism.select.judges for edition in cfg.prism.select.editions]
    prompts = sorted({path for one in asked for path in judge_prompts(*one)})
    return [
        *[layout(name) for name in sorted(sets)],
        *[path for name in sorted(wanted) for path in receipts(name)],
        *released,
        *prompts,
    ]


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
    return row.model_copy(update={"description": name, "processes": 1}).model_dump_json(indent=2, exclude_defaults=True)


def training_inputs(name, stage):
    """What a stage of training needs to be there."""
    row = cfg.train.models[name]
    annotations = getattr(row, stage).annotations
    # What a model learns from is in the fetched bytes. That they are stored in another way now, or were looked through
    # again, is no reason to train again: Snakemake runs whatever is behind a job that runs, unless it is `ancient`.
    sets = (annotations, *cfg.data.sets[annotations].needs)
    paths = [file.path for part in sets for file in SETS[part].files]
    learnt = [placed(path) if path in COVERS else fetched(path) for path in paths]
    weights = [*receipts(row.language_model), *receipts(row.vision_tower)]
    return [ancient(layout(annotations)), *learnt, *weights]


def gpus(row):
    """GPUs a node for a training job; a row that trains on CPU asks for none."""
    return row.processes // row.nodes if row.accelerator == "gpu" else 0


def released_reference(task):
    """The released files that together name every question of a task."""
    # Both refusal tasks ask about the same images: what one file lacks, the other names.
    same = TASKS[:2] if task in TASKS[:2] else [task]
    return [released_path(model, other) for model in cfg.prism.released_models for other in same]


# Differences from the published counts come in two files: of the models run here, and of the released answers.
DIFFERENCES = ["prism_differences"] + ["prism_released_differences"] * ("prism_released" in cfg.paper.tables)
# Without a pair of models there is nothing paired.
LEFT_OUT = [] if cfg.paper.compare else ["prism_paired"]
# The same of the general benchmarks, where both models of a pair are evaluated on any that has a score.
SUBMITTED = [name for name, task in cfg.benchmarks.tasks.items() if task.submission]
SCORED = [name for name in cfg.benchmarks.select.tasks if name not in SUBMITTED]
BENCHMARK_PAIRS = [
    pair for pair in cfg.paper.compare if {pair.safe, pair.original} <= set(cfg.benchmarks.select.models) and SCORED
]
BENCHMARK_UNITS = [
    (f"{name}/{benchmark}", f"{R}/benchmarks/{name}/{benchmark}/units.csv")
    for name in dict.fromkeys(name for pair in BENCHMARK_PAIRS for name in (pair.safe, pair.original))
    for benchmark in SCORED
]
LEFT_OUT += [] if BENCHMARK_PAIRS else ["benchmarks_paired"]
# Nor are annotations counted without a pair of sets.
LEFT_OUT += [] if cfg.data.audit.pairs else ["audit"]
TABLES = [table for kind in cfg.paper.tables for table in (DIFFERENCES if kind == "differences" else [kind])]
TABLES = [table for table in TABLES if table not in LEFT_OUT]
FIGURES = [figure for figure in cfg.paper.figures if figure not in LEFT_OUT]
PUBLISHED_JUDGES = [
    f"--judge-published-as={name}={row.published_as}" for name, row in cfg.prism.judges.items() if row.published_as
]
LEAKAGE_SCORED = [f"{name}={cfg.prism.editions[name].leakage_scored}" for name in cfg.prism.select.editions]
PAIRED_MODELS = list(dict.fromkeys(name for pair in cfg.paper.compare for name in (pair.safe, pair.original)))
# A model has one colour in every figure: those that are run first, in the order of the configuration.
MODELS_DRAWN = list(
    dict.fromkeys([*cfg.prism.select.models, *cfg.benchmarks.select.models, *cfg.prism.released_models, *cfg.models])
)
TRAINING_CURVES = [f"{name}/{stage}" for name in cfg.train.select.models for stage in ("pretrain", "finetune")]
EXAMPLE_EDITION = cfg.prism.select.editions[0]
FIGURE_INPUTS = {
    "prism": [f"{R}/tables/prism.csv"],
    "prism_released": [f"{R}/tables/prism_released.csv"],
    "prism_paired": [f"{R}/tables/prism_paired.csv"],
    "prism_judges": [f"{R}/tables/prism_judges.csv"],
    "differences": [f"{R}/tables/{DIFFERENCES[-1]}.csv"],
    "benchmarks": [f"{R}/tables/benchmarks.csv"],
    "benchmarks_paired": [f"{R}/tables/benchmarks_paired.csv"],
    "training": [f"{R}/train/{curve}/metrics.csv" for curve in TRAINING_CURVES],
    "examples": [
        f"{R}/prism/answers/{EXAMPLE_EDITION}/{model}/{task}.jsonl"
        for model in cfg.prism.select.models
        for task in ("refusal_soft", "implicit_leakage")
    ],
    "audit": [
        f"{R}/tables/audit.csv",
        *(f"{R}/data/compare/{pair.safe}.csv.gz" for pair in cfg.data.audit.pairs),
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
    if wildcards.figure == "audit":
        return ["--input", *input, f"--seed={cfg.paper.examples.seed}"]
    labels = ["--labels", *TRAINING_CURVES] if wildcards.figure == "training" else []
    return ["--input", *input, *labels, "--models", *MODELS_DRAWN]


def check_keys(jobs):
    """Refuse to start where a judge's key is missing, before anything has been spent."""
    jobs = list(jobs)
    judges = {job.wildcards.judge for job in jobs if job.rule.name == "prism_judge"}
    asking = {job.wildcards.benchmark for job in jobs if job.rule.name == "benchmarks_run"}
    judges |= {name for name in map(cfg.benchmarks.judge_of, asking) if name is not None}
    missing = missing_keys({name: cfg.prism.judges[name] for name in sorted(judges)}, os.environ)
    if missing:
        raise WorkflowError(missing)
