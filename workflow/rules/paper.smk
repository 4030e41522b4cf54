# The paper stage: tables and figures from tidy score files.


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
        cfg.images.paper
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
        cfg.images.paper
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
        paired=[f"{R}/tables/prism_paired.csv"] if cfg.paper.compare else [],
    output:
        page=report(
            f"{R}/tables/summary.md",
            caption="../report/summary.rst",
            category="summary",
        ),
    log:
        f"{R}/logs/paper/summary.log",
    container:
        cfg.images.paper
    params:
        compare=[word for pair in cfg.paper.compare for word in ("--compare", pair.safe, pair.original)],
        paired=lambda wildcards, input: ["--paired", *input.paired] if input.paired else [],
    shell:
        "python -m safe_llava.paper.summary --prism {input.prism:q} --benchmarks {input.benchmarks:q} "
        "{params.paired:q} {params.compare:q} --out {output.page:q} > {log:q} 2>&1"


rule paper:
    input:
        rules.paper_summary.output.page,
        expand(
            f"{R}/tables/{{table}}.{{suffix}}",
            table=TABLES,
            suffix=["csv", "md", "tex"],
        ),
        expand(
            f"{R}/figures/{{figure}}.{{suffix}}",
            figure=FIGURES,
            suffix=cfg.paper.formats,
        ),
