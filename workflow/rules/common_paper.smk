# Functions of the paper stage: which tables and figures there are, and what they are made of.
from safe_llava.cluster.accounting import gpus_by_path

# Differences from the published counts come in two files: of the models run here, and of the released answers.
DIFFERENCES = ["prism_differences"] + ["prism_released_differences"] * ("prism_released" in cfg.paper.tables)
# Without a pair of models that are both asked there is nothing paired.
LEFT_OUT = [] if PRISM_PAIRS else ["prism_paired"]
LEFT_OUT += [] if BENCHMARK_PAIRS else ["benchmarks_paired"]
# Nor is a loss drawn where nothing is trained.
LEFT_OUT += [] if cfg.train.select.models else ["training"]
# Nor are annotations counted without a pair of sets.
LEFT_OUT += [] if cfg.data.audit.pairs else ["audit"]
TABLES = [table for kind in cfg.paper.tables for table in (DIFFERENCES if kind == "differences" else [kind])]
TABLES = [table for table in TABLES if table not in LEFT_OUT]
# What a run has cost is no result: it differs from run to run, lies apart from the tables, and is counted last.
COSTS = "costs" in TABLES
TABLES = [table for table in TABLES if table != "costs"]
FIGURES = [figure for figure in cfg.paper.figures if figure not in LEFT_OUT]
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
# Everything that the paper shows.
RESULTS_OF_PAPER = [
    f"{R}/tables/summary.md",
    *expand(f"{R}/tables/{{table}}.{{suffix}}", table=TABLES, suffix=["csv", "md", "tex"]),
    *expand(f"{R}/figures/{{figure}}.{{suffix}}", figure=FIGURES, suffix=cfg.paper.formats),
]


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
