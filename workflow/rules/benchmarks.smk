# The benchmarks stage: lmms-eval owns prompts and metrics, this stage that they run anywhere.


rule benchmarks_run:
    input:
        model=lambda wildcards: model_ready(wildcards.model),
        dataset=lambda wildcards: receipts(cfg.benchmarks.tasks[wildcards.benchmark].dataset),
    output:
        results=f"{R}/benchmarks/{{model}}/{{benchmark}}/results.json",
        samples=f"{R}/benchmarks/{{model}}/{{benchmark}}/samples.jsonl",
    log:
        f"{R}/logs/benchmarks/{{model}}/{{benchmark}}.log",
    benchmark:
        f"{R}/usage/benchmarks/{{model}}/{{benchmark}}.tsv"
    container:
        cfg.images.eval
    resources:
        gpu=lambda wildcards: int(cfg.models[wildcards.model].accelerator == "gpu"),
        mem_mb=lambda wildcards: (64000 if cfg.models[wildcards.model].accelerator == "gpu" else 4000),
        runtime=720,
    params:
        folder=lambda wildcards: model_folder(wildcards.model),
        row=lambda wildcards: model_row(wildcards.model, published_decoding=None, new_tokens_by_edition={}),
        # What stands beside the score in the table is no reason to ask again.
        task=lambda wildcards: row_json(
            cfg.benchmarks.tasks[wildcards.benchmark],
            description=wildcards.benchmark,
            note="",
            comparable=True,
            published=dict.fromkeys(cfg.benchmarks.tasks[wildcards.benchmark].published, 0.0),
        ),
        limit=([] if cfg.benchmarks.limit is None else [f"--limit={cfg.benchmarks.limit}"]),
        root=D,
    shell:
        "python -m safe_llava.benchmarks.run --model {params.folder:q} --name {wildcards.model:q} "
        "--benchmark {wildcards.benchmark:q} --row <(printf %s {params.row:q}) --task <(printf %s {params.task:q}) "
        "--data {params.root:q} {params.limit:q} --out {output.results:q} --samples {output.samples:q} > {log:q} 2>&1"


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
        tasks=json.dumps(
            {name: json.loads(row_json(cfg.benchmarks.tasks[name])) for name in cfg.benchmarks.select.tasks}
        ),
    shell:
        "python -m safe_llava.benchmarks.table --results {input.results:q} --published <(printf %s {params.tasks:q}) "
        "{params.compare:q} --out {output.table:q} > {log:q} 2>&1"
