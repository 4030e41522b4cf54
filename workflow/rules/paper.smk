# The paper stage: tables and figures from tidy score files.

from safe_llava.cluster.accounting import gpus_by_path

# Differences from the published counts come in two files: of the models run here, and of the released answers.
DIFFERENCES = ["prism_differences"] + ["prism_released_differences"] * ("prism_released" in cfg.paper.tables)
# Without a pair of models that are both asked there is nothing paired.
LEFT_OUT = [] if PRISM_PAIRS else ["prism_paired"]
LEFT_OUT += [] if BENCHMARK_PAIRS else ["benchmarks_paired"]
# Nor is there a score where no benchmark is run.
BENCHMARK_SCORES = (
    [f"{R}/tables/benchmarks.csv"] if cfg.benchmarks.select.models and cfg.benchmarks.select.tasks else []
)
LEFT_OUT += [] if BENCHMARK_SCORES else ["benchmarks"]
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


def figure_inputs(wildcards, input):
    """The arguments that name what a figure is drawn from."""
    return ["--answers" if wildcards.figure == "examples" else "--input", *input]


def figure_arguments(name):
    """The arguments of a figure beside its kind, its inputs and its outputs."""
    seed = f"--seed={cfg.paper.examples.seed}"
    if name == "examples":
        images = [f"{D}/{part.images}" for part in cfg.prism.editions[EXAMPLE_EDITION].parts]
        return ["--images", *images, f"--count={cfg.paper.examples.count}", seed]
    if name == "audit":
        return [seed]
    return [*(["--labels", *TRAINING_CURVES] if name == "training" else []), "--models", *MODELS_DRAWN]


localrules:
    paper_costs,
    paper_costs_table,


wildcard_constraints:
    table=either(TABLES),
    figure=either(FIGURE_INPUTS),


rule paper_table:
    input:
        scores=f"{R}/tables/{{table}}.csv",
    output:
        markdown=f"{R}/tables/{{table}}.md",
        latex=f"{R}/tables/{{table}}.tex",
    log:
        f"{R}/logs/paper/table/{{table}}.log",
    container:
        container_image("paper")
    params:
        kind=of("table", lambda name: "differences" if name in DIFFERENCES else name),
    shell:
        "python -m safe_llava.paper.table --kind {params.kind} --scores {input.scores:q} "
        "--markdown {output.markdown:q} --latex {output.latex:q} > {log:q} 2>&1"


rule paper_figure:
    input:
        of("figure", FIGURE_INPUTS.get),
    output:
        pdf=f"{R}/figures/{{figure}}.pdf",
        png=report(
            f"{R}/figures/{{figure}}.png",
            caption="../report/figure.rst",
            category="figures",
            labels={"figure": "{figure}"},
        ),
    log:
        f"{R}/logs/paper/figure/{{figure}}.log",
    container:
        container_image("paper")
    params:
        inputs=figure_inputs,
        arguments=of("figure", figure_arguments),
    shell:
        "python -m safe_llava.paper.figure --kind {wildcards.figure} {params.inputs:q} {params.arguments:q} "
        "--pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


# The results in one page, in words and small tables.
rule paper_summary:
    input:
        prism=f"{R}/tables/prism.csv",
        benchmarks=BENCHMARK_SCORES,
        paired=[f"{R}/tables/prism_paired.csv"] if PRISM_PAIRS else [],
    output:
        page=report(
            f"{R}/tables/summary.md",
            caption="../report/summary.rst",
            category="summary",
        ),
    log:
        f"{R}/logs/paper/summary.log",
    container:
        container_image("paper")
    params:
        compare=[
            word
            for pair in cfg.paper.compare
            if pair in (*PRISM_PAIRS, *BENCHMARK_PAIRS)
            for word in ("--compare", pair.safe, pair.original)
        ],
        benchmarks=lambda wildcards, input: ["--benchmarks", *input.benchmarks] if input.benchmarks else [],
        paired=lambda wildcards, input: ["--paired", *input.paired] if input.paired else [],
    shell:
        "python -m safe_llava.paper.summary --prism {input.prism:q} {params.benchmarks:q} "
        "{params.paired:q} {params.compare:q} --out {output.page:q} > {log:q} 2>&1"


# What the run has cost so far, when everything else is there.
rule paper_costs:
    input:
        RESULTS_OF_PAPER,
        BENCHMARK_SOURCES,
    output:
        costs=report(
            f"{R}/costs/costs.csv",
            caption="../report/table_costs.rst",
            category="costs",
        ),
    log:
        f"{R}/logs/paper/costs.log",
    container:
        ON_THE_HOST
    params:
        python=HOST_PYTHON,
        ledger=".snakemake/slurm-steady/jobs.jsonl",
        usage=f"{R}/usage",
        # A function: the braces of JSON are no wildcards.
        gpus=lambda wildcards: json.dumps(gpus_by_path(cfg)),
    shell:
        "{params.python:q} -m safe_llava.cluster.accounting --ledger {params.ledger:q} --usage {params.usage:q} "
        "--gpus {params.gpus:q} --out {output.costs:q} > {log:q} 2>&1"


use rule paper_table as paper_costs_table with:
    input:
        scores=f"{R}/costs/costs.csv",
    output:
        markdown=f"{R}/costs/costs.md",
        latex=f"{R}/costs/costs.tex",
    log:
        f"{R}/logs/paper/table/costs.log",
    params:
        kind="costs",


rule paper:
    input:
        RESULTS_OF_PAPER,
        BENCHMARK_SOURCES,
        expand(
            f"{R}/costs/costs.{{suffix}}",
            suffix=["csv", "md", "tex"] if COSTS else [],
        ),


# Only in `make demo`: do the two tiny models differ as their annotations do?
if cfg.demo:

    localrules:
        demo_check,

    rule demo_check:
        input:
            answers=expand(
                f"{R}/prism/answers/{{edition}}/{{model}}/refusal_soft.jsonl",
                edition=cfg.prism.select.editions,
                model=[cfg.demo.safe, cfg.demo.original],
            ),
            scores=f"{R}/tables/prism.csv",
            benchmarks=f"{R}/tables/benchmarks.csv",
        output:
            table=report(f"{R}/tables/demo.csv", caption="../report/demo.rst", category="demo"),
        log:
            f"{R}/logs/demo/check.log",
        container:
            container_image("paper")
        params:
            arguments=[
                f"--truth={R}/{cfg.demo.truth}",
                f"--benchmark={cfg.demo.benchmark}",
                f"--safe={cfg.demo.safe}",
                f"--original={cfg.demo.original}",
            ],
        shell:
            "python -m safe_llava.demo.check {params.arguments:q} --answers {input.answers:q} --scores {input.scores:q} "
            "--benchmarks {input.benchmarks:q} --out {output.table:q} > {log:q} 2>&1"
