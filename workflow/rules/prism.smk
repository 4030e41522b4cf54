# The prism stage: answers, verdicts, scores. Answers come from a model that runs here (origin `answers`) or were
# released upstream (origin `released`); from the verdicts on, both go the same way.


# Checkpoints in a format of their own become ones that transformers and vLLM load; nothing that came with them is run.
rule prism_convert:
    input:
        model=lambda wildcards: source_ready(wildcards.model),
        tower=lambda wildcards: (
            receipts(cfg.models[wildcards.model].vision_tower) if cfg.models[wildcards.model].vision_tower else []
        ),
    output:
        model=directory(f"{R}/prism/models/{{model}}"),
    log:
        f"{R}/logs/prism/convert/{{model}}.log",
    benchmark:
        f"{R}/usage/prism/convert/{{model}}.tsv"
    container:
        image("eval")
    resources:
        mem_mb=32000,
        runtime=120,
    params:
        source=lambda wildcards: source_folder(wildcards.model),
        family=lambda wildcards: cfg.models[wildcards.model].family,
        tower=lambda wildcards: (
            [f"--vision-tower={weights_folder(cfg.models[wildcards.model].vision_tower)}"]
            if cfg.models[wildcards.model].vision_tower
            else []
        ),
    shell:
        "python -m safe_llava.engine.convert --source {params.source:q} --family {params.family} {params.tower:q} "
        "--out {output.model:q} > {log:q} 2>&1"


rule prism_answers:
    input:
        model=lambda wildcards: model_ready(wildcards.model),
        layout=lambda wildcards: layout(cfg.prism.editions[wildcards.edition].dataset),
    output:
        refusal_soft=f"{R}/prism/answers/{{edition}}/{{model}}/refusal_soft.jsonl",
        refusal_hard=f"{R}/prism/answers/{{edition}}/{{model}}/refusal_hard.jsonl",
        implicit_leakage=f"{R}/prism/answers/{{edition}}/{{model}}/implicit_leakage.jsonl",
        record=f"{R}/prism/answers/{{edition}}/{{model}}/record.json",
    log:
        f"{R}/logs/prism/answers/{{edition}}/{{model}}.log",
    benchmark:
        f"{R}/usage/prism/answers/{{edition}}/{{model}}.tsv"
    container:
        image("eval")
    resources:
        gpu=lambda wildcards: engine_gpus(wildcards.model),
        cpus_per_task=lambda wildcards: engine_cpus(wildcards.model),
        mem_mb=lambda wildcards: engine_memory(wildcards.model),
        runtime=240,
    params:
        folder=lambda wildcards: model_folder(wildcards.model),
        row=lambda wildcards: model_row(wildcards.model),
        # How descriptions are scored is no reason to ask again.
        edition=lambda wildcards: row_json(
            cfg.prism.editions[wildcards.edition], description=wildcards.edition, leakage_scored="own"
        ),
        partial=lambda wildcards: CHECKPOINTS / "prism" / wildcards.edition / wildcards.model,
        root=D,
        budget=[] if cfg.prism.new_tokens == "published" else [f"--new-tokens={cfg.prism.new_tokens}"],
        # Questions that failed are asked again by the next run. Found by wildcards alone: Snakemake does not keep, and so
        # does not compare, what a function makes of inputs or outputs.
        retry=lambda wildcards: retry_stamp(f"{R}/prism/answers/{wildcards.edition}/{wildcards.model}/record.json"),
    shell:
        "python -m safe_llava.prism.answers --model {params.folder:q} --name {wildcards.model:q} "
        "--row <(printf %s {params.row:q}) --edition-name {wildcards.edition:q} "
        "--edition <(printf %s {params.edition:q}) --root {params.root:q} --partial {params.partial:q} "
        "--out-refusal-soft {output.refusal_soft:q} --out-refusal-hard {output.refusal_hard:q} "
        "--out-implicit-leakage {output.implicit_leakage:q} --record {output.record:q} "
        "{params.budget:q} --retry={params.retry:q} > {log:q} 2>&1"


rule prism_released:
    input:
        answers=lambda wildcards: fetched(released_path(wildcards.released, wildcards.task)),
        reference=lambda wildcards: [fetched(path) for path in released_reference(wildcards.task)],
    output:
        answers=f"{R}/prism/released/v1/{{released}}/{{task}}.jsonl",
    log:
        f"{R}/logs/prism/released/{{released}}/{{task}}.log",
    container:
        image("paper")
    params:
        answers=lambda wildcards: f"{D}/{released_path(wildcards.released, wildcards.task)}",
        reference=lambda wildcards: [f"{D}/{path}" for path in released_reference(wildcards.task)],
    shell:
        "python -m safe_llava.prism.released --answers {params.answers:q} --reference-answers {params.reference:q} "
        "--edition v1 --model {wildcards.released:q} --task {wildcards.task} --out {output.answers:q} > {log:q} 2>&1"


rule prism_judge:
    input:
        answers=f"{R}/prism/{{origin}}/{{edition}}/{{evaluated}}/{{task}}.jsonl",
        prompts=lambda wildcards: judge_prompts(wildcards.judge, wildcards.edition),
    output:
        verdicts=f"{R}/prism/verdicts/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.jsonl",
        record=f"{R}/prism/verdicts/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.record.json",
    log:
        f"{R}/logs/prism/judge/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.log",
    benchmark:
        f"{R}/usage/prism/judge/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.tsv"
    container:
        image("paper")
    resources:
        # Jobs that ask call by call go one after another: each keeps to its judge's limits by itself.
        judge_api=lambda wildcards: int(asks_call_by_call(cfg.prism.judges[wildcards.judge])),
    params:
        judge=lambda wildcards: row_json(
            cfg.prism.judges[wildcards.judge], description=wildcards.judge, published_as=None
        ),
        # An edited lexicon judges again: it says which descriptions were refused, whoever the judge is. What a judge
        # was asked before is in its store.
        rules=rules_version(),
        store=lambda wildcards: CHECKPOINTS / "prism" / "verdicts" / wildcards.judge,
        prompts=f"{D}/eval/PRISM/judges",
        # What failed is asked about again by the next run.
        retry=lambda wildcards: retry_stamp(
            f"{R}/prism/verdicts/{wildcards.origin}/{wildcards.edition}/{wildcards.evaluated}/{wildcards.judge}/"
            f"{wildcards.task}.record.json"
        ),
    shell:
        "python -m safe_llava.prism.judge --answers {input.answers:q} --judge {wildcards.judge:q} "
        "--judge-config <(printf %s {params.judge:q}) --store {params.store:q} --prompts {params.prompts:q} "
        "--retry-of={params.retry:q} --out {output.verdicts:q} --record {output.record:q} > {log:q} 2>&1"
