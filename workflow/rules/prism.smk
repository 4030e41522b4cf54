# The prism stage: answers, verdicts, scores. Answers come from a model that runs here (origin `answers`) or were
# released upstream (origin `released`); from the verdicts on, both go the same way.


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
        cfg.images.eval
    resources:
        gpu=lambda wildcards: int(cfg.models[wildcards.model].accelerator == "gpu"),
        mem_mb=lambda wildcards: (64000 if cfg.models[wildcards.model].accelerator == "gpu" else 4000),
        runtime=1440,
    params:
        folder=lambda wildcards: model_folder(wildcards.model),
        row=lambda wildcards: model_row(wildcards.model),
        edition=lambda wildcards: row_json(cfg.prism.editions[wildcards.edition], description=wildcards.edition),
        partial=lambda wildcards: CHECKPOINTS / "prism" / wildcards.edition / wildcards.model,
        root=D,
    shell:
        "python -m safe_llava.prism.answers --model {params.folder:q} --name {wildcards.model:q} "
        "--row <(printf %s {params.row:q}) --edition-name {wildcards.edition:q} "
        "--edition <(printf %s {params.edition:q}) --root {params.root:q} --partial {params.partial:q} "
        "--out-refusal-soft {output.refusal_soft:q} --out-refusal-hard {output.refusal_hard:q} "
        "--out-implicit-leakage {output.implicit_leakage:q} --record {output.record:q} > {log:q} 2>&1"


rule prism_released:
    input:
        answers=lambda wildcards: fetched(released_path(wildcards.released, wildcards.task)),
        reference=lambda wildcards: [fetched(path) for path in released_reference(wildcards.task)],
    output:
        answers=f"{R}/prism/released/v1/{{released}}/{{task}}.jsonl",
    log:
        f"{R}/logs/prism/released/{{released}}/{{task}}.log",
    container:
        cfg.images.paper
    params:
        answers=lambda wildcards: f"{D}/{released_path(wildcards.released, wildcards.task)}",
        reference=lambda wildcards: [f"{D}/{path}" for path in released_reference(wildcards.task)],
    shell:
        "python -m safe_llava.prism.released --answers {params.answers:q} --reference-answers {params.reference:q} "
        "--edition v1 --model {wildcards.released:q} --task {wildcards.task} --out {output.answers:q} > {log:q} 2>&1"


rule prism_judge:
    input:
        answers=f"{R}/prism/{{origin}}/{{edition}}/{{evaluated}}/{{task}}.jsonl",
    output:
        verdicts=f"{R}/prism/verdicts/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.jsonl",
    log:
        f"{R}/logs/prism/judge/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.log",
    benchmark:
        f"{R}/usage/prism/judge/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.tsv"
    container:
        cfg.images.paper
    resources:
        mem_mb=2000,
        runtime=720,
    params:
        judge=lambda wildcards: row_json(cfg.prism.judges[wildcards.judge], description=wildcards.judge),
        # An edited lexicon judges again; other judges are pinned by their rows.
        rules=lambda wildcards: rules_version() if cfg.prism.judges[wildcards.judge].kind == "rules" else "none",
    shell:
        "python -m safe_llava.prism.judge --answers {input.answers:q} --judge {wildcards.judge:q} "
        "--judge-config <(printf %s {params.judge:q}) --out {output.verdicts:q} > {log:q} 2>&1"


rule prism_score:
    input:
        verdicts=expand(
            f"{R}/prism/verdicts/{{{{origin}}}}/{{{{edition}}}}/{{{{evaluated}}}}/{{{{judge}}}}/{{task}}.jsonl",
            task=TASKS,
        ),
    output:
        scores=f"{R}/prism/scores/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}.csv",
        over_refusal=f"{R}/prism/scores/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}.over_refusal.csv",
    log:
        f"{R}/logs/prism/score/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}.log",
    container:
        cfg.images.paper
    params:
        scored=lambda wildcards: cfg.prism.editions[wildcards.edition].leakage_scored,
    shell:
        "python -m safe_llava.prism.score --verdicts {input.verdicts:q} --leakage-scored {params.scored} "
        "--out {output.scores:q} --over-refusal {output.over_refusal:q} > {log:q} 2>&1"


rule prism_published:
    input:
        v1=str(REPOSITORY / cfg.prism.published["v1"]),
        v2=str(REPOSITORY / cfg.prism.published["v2"]),
    output:
        scores=f"{R}/prism/scores/published.csv",
    log:
        f"{R}/logs/prism/published.log",
    container:
        cfg.images.paper
    shell:
        "python -m safe_llava.prism.published --v1 {input.v1:q} --v2 {input.v2:q} --out {output.scores:q} > {log:q} 2>&1"


rule prism_table:
    input:
        scores=expand(
            f"{R}/prism/scores/answers/{{edition}}/{{model}}/{{judge}}.csv",
            edition=cfg.prism.select.editions,
            model=cfg.prism.select.models,
            judge=cfg.prism.select.judges,
        ),
        published=rules.prism_published.output.scores,
    output:
        table=report(
            f"{R}/tables/prism.csv",
            caption="../report/table_prism.rst",
            category="prism",
        ),
        differences=report(
            f"{R}/tables/prism_differences.csv",
            caption="../report/table_differences.rst",
            category="prism",
        ),
    log:
        f"{R}/logs/prism/table.log",
    container:
        cfg.images.paper
    params:
        aliases=[
            f"--published-as={name}={cfg.models[name].published_as}"
            for name in cfg.prism.select.models
            if cfg.models[name].published_as
        ],
    shell:
        "python -m safe_llava.prism.table --scores {input.scores:q} --published {input.published:q} {params.aliases:q} "
        "--out {output.table:q} --differences {output.differences:q} > {log:q} 2>&1"


# The answers released upstream, judged by the rule-based judge, beside the published counts.
rule prism_released_table:
    input:
        scores=expand(
            f"{R}/prism/scores/released/v1/{{released}}/rules.csv",
            released=cfg.prism.released_models,
        ),
        published=rules.prism_published.output.scores,
    output:
        table=report(
            f"{R}/tables/prism_released.csv",
            caption="../report/table_prism_released.rst",
            category="prism",
        ),
        differences=report(
            f"{R}/tables/prism_released_differences.csv",
            caption="../report/table_differences.rst",
            category="prism",
        ),
    log:
        f"{R}/logs/prism/released_table.log",
    container:
        cfg.images.paper
    shell:
        "python -m safe_llava.prism.table --scores {input.scores:q} --published {input.published:q} --editions v1 "
        "--out {output.table:q} --differences {output.differences:q} > {log:q} 2>&1"
