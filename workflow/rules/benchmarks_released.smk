# The answers that LLaVA's authors released, scored again. What no mirror has is skipped by name, and asked for again.

RELEASED = cfg.benchmarks.released
RELEASED_FILES = f"{R}/data/released/{RELEASED.dataset}.json"


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
