# The benchmarks stage: lmms-eval owns prompts and metrics, this stage that they run anywhere. Answers, and what judges
# said, lie outside the results as soon as they are there: a run that was stopped, or left failures, goes on from them.
BENCHMARK_ROOT = f"{R}/benchmarks/{{model}}/{{benchmark}}"
LIMIT = [] if cfg.benchmarks.limit is None else [f"--limit={cfg.benchmarks.limit}"]
# A server's file from which questions may be missing is named so: nobody is to hand it in.
PARTIAL = cfg.benchmarks.limit is not None or cfg.benchmarks.allow_failed > 0
SUBMISSION = f"submission{'.partial' if PARTIAL else ''}.json"


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
        benchmark=either([name for name in cfg.benchmarks.tasks if name not in (*SUBMITTED, *JUDGED)]),
    container:
        image("eval")
    resources:
        gpu=lambda wildcards: engine_gpus(wildcards.model),
        cpus_per_task=lambda wildcards: engine_cpus(wildcards.model),
        mem_mb=lambda wildcards: engine_memory(wildcards.model),
        runtime=240,
    params:
        asked=lambda wildcards: [f"--model={model_folder(wildcards.model)}"],
        row=lambda wildcards: model_row(wildcards.model, published_decoding=None, new_tokens_by_edition={}),
        task=lambda wildcards: asked_row(wildcards.benchmark),
        limit=LIMIT,
        failed=([] if not cfg.benchmarks.allow_failed else [f"--allow-failed={cfg.benchmarks.allow_failed}"]),
        judging=[],
        root=D,
        partial=lambda wildcards: CHECKPOINTS / "benchmarks" / wildcards.model / f"{wildcards.benchmark}.jsonl",
        # Questions that failed are asked again by the next run. Found by wildcards alone: Snakemake does not compare
        # what a function makes of outputs.
        retry=lambda wildcards: retry_stamp(f"{R}/benchmarks/{wildcards.model}/{wildcards.benchmark}/results.json"),
        written=lambda wildcards, output: [f"--{name.replace('_', '-')}={path}" for name, path in output.items()],
    shell:
        "python -m safe_llava.benchmarks.run {params.asked:q} --name {wildcards.model:q} "
        "--benchmark {wildcards.benchmark:q} --row <(printf %s {params.row:q}) --task <(printf %s {params.task:q}) "
        "--data {params.root:q} --partial {params.partial:q} {params.limit:q} {params.failed:q} {params.judging:q} "
        "--retry={params.retry:q} {params.written:q} > {log:q} 2>&1"


# Where labels are not public, the file that a server scores comes beside the results.
use rule benchmarks_run as benchmarks_submit with:
    output:
        results=f"{BENCHMARK_ROOT}/results.json",
        samples=f"{BENCHMARK_ROOT}/samples.jsonl",
        units=f"{BENCHMARK_ROOT}/units.csv",
        submission=f"{BENCHMARK_ROOT}/{SUBMISSION}",
    wildcard_constraints:
        benchmark=either(SUBMITTED),


# Where a judge reads the answers, a GPU is needed for these, and network and key for the judge. One machine may not have
# both: the answers are asked for here …
use rule benchmarks_run as benchmarks_answers with:
    output:
        answers_only=f"{BENCHMARK_ROOT}/answers.json",
    wildcard_constraints:
        benchmark=either(JUDGED),
    params:
        task=lambda wildcards: asked_row(wildcards.benchmark, **UNSCORED),
        failed=[],
        retry=lambda wildcards: retry_stamp(f"{R}/benchmarks/{wildcards.model}/{wildcards.benchmark}/answers.json"),


# … and judged here. Calls of the judge that failed are made again by the next run, which needs no GPU for that.
use rule benchmarks_run as benchmarks_judged with:
    input:
        answers=f"{BENCHMARK_ROOT}/answers.json",
        dataset=lambda wildcards: receipts(cfg.benchmarks.tasks[wildcards.benchmark].dataset),
    log:
        f"{R}/logs/benchmarks/judge/{{model}}/{{benchmark}}.log",
    benchmark:
        f"{R}/usage/benchmarks/judge/{{model}}/{{benchmark}}.tsv"
    wildcard_constraints:
        benchmark=either(JUDGED),
    resources:
        # Jobs that ask a judge go one after another: each keeps to its judge's limits by itself.
        judge_api=1,
        mem_mb=4000,
    params:
        asked=lambda wildcards, input: [f"--answered={input.answers}"],
        judging=lambda wildcards: judging_arguments(wildcards.benchmark),


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
        image("paper")
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
        image("paper")
    params:
        units=[f"{name}={path}" for name, path in BENCHMARK_UNITS],
        pairs=[word for pair in BENCHMARK_PAIRS for word in ("--pair", pair.safe, pair.original)],
        metrics=[f"{name}={metric}" for name in SCORED for metric in cfg.benchmarks.tasks[name].metrics],
        limit=LIMIT,
    shell:
        "python -m safe_llava.benchmarks.compare --units {params.units:q} {params.pairs:q} "
        "--metrics {params.metrics:q} {params.limit:q} --out {output.table:q} > {log:q} 2>&1"


# The answers that LLaVA's authors released, scored again. What no mirror has is skipped by name, and asked for again.
if cfg.benchmarks.released is not None:
    RELEASED_FILES = f"{R}/data/released/{cfg.benchmarks.released.dataset}.json"

    rule benchmarks_released_files:
        output:
            receipt=RELEASED_FILES,
        log:
            f"{R}/logs/benchmarks/released_files.log",
        container:
            image("paper")
        resources:
            mem_mb=1000,
            runtime=240,
        params:
            rows=lambda wildcards: f"[{','.join(row_json(file) for file in SETS[cfg.benchmarks.released.dataset].files)}]",
            download=DOWNLOAD,
            root=D,
            retry=lambda wildcards: retry_stamp(RELEASED_FILES),
        shell:
            "python -m safe_llava.data.fetch_set --rows <(printf %s {params.rows:q}) --root {params.root:q} "
            "{params.download:q} --retry={params.retry:q} --out {output.receipt:q} > {log:q} 2>&1"

    rule benchmarks_released_table:
        input:
            fetched=RELEASED_FILES,
        output:
            table=report(
                f"{R}/tables/benchmarks_released.csv",
                caption="../report/table_benchmarks_released.rst",
                category="benchmarks",
            ),
        log:
            f"{R}/logs/benchmarks/released_table.log",
        container:
            image("paper")
        params:
            released=lambda wildcards: row_json(cfg.benchmarks.released),
            root=D,
        shell:
            "python -m safe_llava.benchmarks.released --released <(printf %s {params.released:q}) --root {params.root:q} "
            "--fetched {input.fetched:q} --out {output.table:q} > {log:q} 2>&1"
