# The benchmarks stage: lmms-eval owns prompts and metrics, this stage that they run anywhere. Answers, and what judges
# said, lie outside the results as soon as they are there: a run that was stopped, or left failures, goes on from them.
BENCHMARK_ROOT = f"{R}/benchmarks/{{model}}/{{benchmark}}"


rule benchmarks_run:
    input:
        model=lambda wildcards: model_ready(wildcards.model),
        dataset=lambda wildcards: receipts(cfg.benchmarks.tasks[wildcards.benchmark].dataset),
    output:
        results=f"{BENCHMARK_ROOT}/results.json",
        samples=f"{BENCHMARK_ROOT}/samples.jsonl",
        units=f"{BENCHMARK_ROOT}/units.csv",
    log:
        f"{R}/logs/benchmarks/{{model}}/{{benchmark}}.log",
    benchmark:
        f"{R}/usage/benchmarks/{{model}}/{{benchmark}}.tsv"
    wildcard_constraints:
        benchmark=either([name for name in cfg.benchmarks.tasks if name not in SUBMITTED]),
    container:
        cfg.images.eval
    resources:
        gpu=lambda wildcards: int(cfg.models[wildcards.model].accelerator == "gpu"),
        mem_mb=lambda wildcards: (64000 if cfg.models[wildcards.model].accelerator == "gpu" else 4000),
        runtime=720,
        # Jobs that ask a judge go one after another: each keeps to its judge's limits by itself.
        judge_api=lambda wildcards: int(cfg.benchmarks.judge_of(wildcards.benchmark) is not None),
    params:
        folder=lambda wildcards: model_folder(wildcards.model),
        row=lambda wildcards: model_row(wildcards.model, published_decoding=None, new_tokens_by_edition={}),
        # What stands beside the score in the table is no reason to ask again.
        task=lambda wildcards: row_json(
            cfg.benchmarks.tasks[wildcards.benchmark],
            description=wildcards.benchmark,
            note="",
            comparable=True,
            noise={},
            judge=None,
            published_judge=None,
            published=dict.fromkeys(cfg.benchmarks.tasks[wildcards.benchmark].published, 0.0),
        ),
        limit=([] if cfg.benchmarks.limit is None else [f"--limit={cfg.benchmarks.limit}"]),
        failed=([] if not cfg.benchmarks.allow_failed else [f"--allow-failed={cfg.benchmarks.allow_failed}"]),
        judging=lambda wildcards: judging_arguments(wildcards.benchmark),
        submission=[],
        root=D,
        partial=lambda wildcards: CHECKPOINTS / "benchmarks" / wildcards.model / f"{wildcards.benchmark}.jsonl",
        # Questions that failed, and calls of a judge that did, are asked again by the next run. Found by wildcards
        # alone: Snakemake does not compare what a function makes of outputs.
        retry=lambda wildcards: retry_stamp(f"{R}/benchmarks/{wildcards.model}/{wildcards.benchmark}/results.json"),
    shell:
        "python -m safe_llava.benchmarks.run --model {params.folder:q} --name {wildcards.model:q} "
        "--benchmark {wildcards.benchmark:q} --row <(printf %s {params.row:q}) --task <(printf %s {params.task:q}) "
        "--data {params.root:q} --partial {params.partial:q} {params.limit:q} {params.failed:q} {params.judging:q} "
        "{params.submission:q} --retry={params.retry:q} --out {output.results:q} --samples {output.samples:q} "
        "--units {output.units:q} > {log:q} 2>&1"


# Where labels are not public, the file that a server scores comes beside the results.
use rule benchmarks_run as benchmarks_submit with:
    output:
        results=f"{BENCHMARK_ROOT}/results.json",
        samples=f"{BENCHMARK_ROOT}/samples.jsonl",
        units=f"{BENCHMARK_ROOT}/units.csv",
        submission=f"{BENCHMARK_ROOT}/submission.json",
    wildcard_constraints:
        benchmark=either(SUBMITTED),
    params:
        submission=lambda wildcards, output: [f"--submission={output.submission}"],


rule benchmarks_table:
    input:
        results=expand(
            f"{R}/benchmarks/{{model}}/{{benchmark}}/results.json",
            model=cfg.benchmarks.select.models,
            benchmark=cfg.benchmarks.select.tasks,
        ),
    output:
        table=report(
            f"{R}/tables/benchmarks.csv",
            caption="../report/table_benchmarks.rst",
            category="benchmarks",
        ),
    log:
        f"{R}/logs/benchmarks/table.log",
    container:
        cfg.images.paper
    params:
        compare=[] if cfg.benchmarks.compare is None else ["--compare", *cfg.benchmarks.compare],
        # A function: the braces of a prompt's template are no wildcards. What is asked is not said in the table.
        tasks=lambda wildcards: json.dumps(
            {
                name: json.loads(row_json(cfg.benchmarks.tasks[name], overrides={}))
                for name in cfg.benchmarks.select.tasks
            }
        ),
    shell:
        "python -m safe_llava.benchmarks.table --results {input.results:q} --published <(printf %s {params.tasks:q}) "
        "{params.compare:q} --out {output.table:q} > {log:q} 2>&1"


# Two models on the same questions: the pairs of paper.compare that are both evaluated.
rule benchmarks_paired:
    input:
        units=[path for _, path in BENCHMARK_UNITS],
    output:
        table=report(
            f"{R}/tables/benchmarks_paired.csv",
            caption="../report/table_benchmarks_paired.rst",
            category="benchmarks",
        ),
    log:
        f"{R}/logs/benchmarks/paired.log",
    container:
        cfg.images.paper
    params:
        units=[f"{name}={path}" for name, path in BENCHMARK_UNITS],
        pairs=[word for pair in BENCHMARK_PAIRS for word in ("--pair", pair.safe, pair.original)],
        metrics=[f"{name}={metric}" for name in SCORED for metric in cfg.benchmarks.tasks[name].metrics],
    shell:
        "python -m safe_llava.benchmarks.compare --units {params.units:q} {params.pairs:q} "
        "--metrics {params.metrics:q} --out {output.table:q} > {log:q} 2>&1"
