# The paper stage: tables and figures from tidy score files.


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
        image("paper")
    params:
        kind=lambda wildcards: ("differences" if wildcards.table in DIFFERENCES else wildcards.table),
    shell:
        "python -m safe_llava.paper.table --kind {params.kind} --scores {input.scores:q} "
        "--markdown {output.markdown:q} --latex {output.latex:q} > {log:q} 2>&1"


rule paper_figure:
    input:
        lambda wildcards: FIGURE_INPUTS[wildcards.figure],
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
        image("paper")
    params:
        arguments=figure_arguments,
    shell:
        "python -m safe_llava.paper.figure --kind {wildcards.figure} {params.arguments:q} "
        "--pdf {output.pdf:q} --png {output.png:q} > {log:q} 2>&1"


# The results in one page, in words and small tables.
rule paper_summary:
    input:
        prism=f"{R}/tables/prism.csv",
        benchmarks=f"{R}/tables/benchmarks.csv",
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
        image("paper")
    params:
        compare=[
            word
            for pair in cfg.paper.compare
            if pair in (*PRISM_PAIRS, *BENCHMARK_PAIRS)
            for word in ("--compare", pair.safe, pair.original)
        ],
        paired=lambda wildcards, input: ["--paired", *input.paired] if input.paired else [],
    shell:
        "python -m safe_llava.paper.summary --prism {input.prism:q} --benchmarks {input.benchmarks:q} "
        "{params.paired:q} {params.compare:q} --out {output.page:q} > {log:q} 2>&1"


# What the run has cost so far, when everything else is there.
rule paper_costs:
    input:
        RESULTS_OF_PAPER,
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
        expand(
            f"{R}/costs/costs.{{suffix}}",
            suffix=["csv", "md", "tex"] if COSTS else [],
        ),
