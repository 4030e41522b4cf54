# The benchmarks stage: lmms-eval owns prompts and metrics, this stage that they run anywhere. Answers, and what judges
# said, lie outside the results as soon as they are there: a run that was stopped, or left failures, goes on from them.
BENCHMARK_ROOT = f"{R}/benchmarks/{{model}}/{{benchmark}}"
LIMIT = [] if cfg.benchmarks.limit is None else [f"--limit={cfg.benchmarks.limit}"]
# A server's file from which questions may be missing is named so: nobody is to hand it in.
PARTIAL = cfg.benchmarks.limit is not None or cfg.benchmarks.allow_failed > 0
SUBMISSION = f"submission{'.partial' if PARTIAL else ''}.json"

# What of a row says how answers are scored, as constants: no reason to ask again.
UNSCORED = dict(
    judged=False,
    judge_reply=None,
    metric="none",
    more_metrics=[],
    scale=100.0,
    group_by=None,
    group_modulo=None,
    group_size=None,
)


def asked_row(benchmark, **changes):
    """A benchmark's row as it is asked: what stands beside the score in the table is no reason to ask again.

    A metric with a published score is one that the table shows, whatever that score is.
    """
    task = cfg.benchmarks.tasks[benchmark]
    beside = dict(note="", comparable=True, not_comparable={}, noise={}, judge=None, published_judge=None, published={})
    asked = dict(description=benchmark, more_metrics=task.metrics[1:])
    return row_json(task, **(asked | beside | changes))


def judging_arguments(benchmark):
    """The arguments that name a benchmark's judge; none where nobody is named."""
    name = cfg.benchmarks.judge_of(benchmark)
    if name is None:
        return []
    store = CHECKPOINTS / "benchmarks" / "judged" / name
    return [f"--judge={name}", f"--judge-row={judge_row(name)}", f"--judge-store={store}"]


def scored_rows(wildcards):
    """The rows of the selected benchmarks as JSON; what is asked is not said in the table."""
    rows = {name: row_json(cfg.benchmarks.tasks[name], overrides={}) for name in cfg.benchmarks.select.tasks}
    return json.dumps({name: json.loads(row) for name, row in rows.items()})


def questions(name):
    """The receipts of a benchmark's questions."""
    return receipts(cfg.benchmarks.tasks[name].dataset)


@noted
def retry_benchmark(wildcards, file="results.json"):
    """The stamp of the next run, which asks again what failed: by wildcards alone, as prism.smk says."""
    return retry_stamp(f"{R}/benchmarks/{wildcards.model}/{wildcards.benchmark}/{file}")


rule benchmarks_run:
    input:
        model=of("model", model_ready),
        dataset=of("benchmark", questions),
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
        container_image("eval")
    resources:
        **ENGINE,
    params:
        asked=of("model", lambda name: [f"--model={model_folder(name)}"]),
        row=of("model", model_row, published_decoding=None, new_tokens_by_edition={}),
        task=of("benchmark", asked_row),
        limit=LIMIT,
        failed=([] if not cfg.benchmarks.allow_failed else [f"--allow-failed={cfg.benchmarks.allow_failed}"]),
        judging=[],
        root=D,
        partial=noted(lambda wildcards: CHECKPOINTS / "benchmarks" / wildcards.model / f"{wildcards.benchmark}.jsonl"),
        retry=retry_benchmark,
        written=noted(lambda wildcards, output: [f"--{name.replace('_', '-')}={path}" for name, path in output.items()]),
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
        task=of("benchmark", asked_row, **UNSCORED),
        failed=[],
        retry=noted(lambda wildcards: retry_benchmark(wildcards, "answers.json")),


# … and judged here. Calls of the judge that failed are made again by the next run, which needs no GPU for that.
use rule benchmarks_run as benchmarks_judged with:
    input:
        answers=f"{BENCHMARK_ROOT}/answers.json",
        dataset=of("benchmark", questions),
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
        asked=noted(lambda wildcards, input: [f"--answered={input.answers}"]),
        judging=of("benchmark", judging_arguments),


rule benchmarks_table:
    input:
        results=BENCHMARK_RESULTS,
    output:
        table=report(
            f"{R}/tables/benchmarks.csv",
            caption="../report/table_benchmarks.rst",
            category="benchmarks",
        ),
    log:
        f"{R}/logs/benchmarks/table.log",
    container:
        container_image("paper")
    params:
        compare=[] if cfg.benchmarks.compare is None else ["--compare", *cfg.benchmarks.compare],
        tasks=scored_rows,
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
        container_image("paper")
    params:
        arguments=[
            *("--units", *(f"{name}={path}" for name, path in BENCHMARK_UNITS)),
            *(word for pair in BENCHMARK_PAIRS for word in ("--pair", pair.safe, pair.original)),
            *("--metrics", *(f"{name}={metric}" for name in SCORED for metric in cfg.benchmarks.tasks[name].metrics)),
            *LIMIT,
        ],
    shell:
        "python -m safe_llava.benchmarks.compare {params.arguments:q} --out {output.table:q} > {log:q} 2>&1"


# The answers that LLaVA's authors released, scored again. What no mirror has is skipped by name, and asked for again.
if cfg.benchmarks.released:
    RELEASED = cfg.benchmarks.released
    RELEASED_FILES = f"{R}/data/released/{RELEASED.dataset}.json"

    localrules:
        benchmarks_released_files,
        benchmarks_released_table,

    rule benchmarks_released_files:
        output:
            receipt=RELEASED_FILES,
        log:
            f"{R}/logs/benchmarks/released_files.log",
        container:
            container_image("paper")
        resources:
            mem_mb=1000,
            runtime=240,
        params:
            rows=lambda wildcards: f"[{','.join(resolved_row(file.path) for file in SETS[RELEASED.dataset].files)}]",
            root=D,
            retry=lambda wildcards: retry_stamp(RELEASED_FILES),
        shell:
            "python -m safe_llava.data.fetch_set --rows <(printf %s {params.rows:q}) --root {params.root:q} "
            "--retry={params.retry:q} --out {output.receipt:q} > {log:q} 2>&1"

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
            container_image("paper")
        params:
            released=lambda wildcards: row_json(RELEASED),
            root=D,
        shell:
            "python -m safe_llava.benchmarks.released --released <(printf %s {params.released:q}) --root {params.root:q} "
            "--fetched {input.fetched:q} --out {output.table:q} > {log:q} 2>&1"
