# The prism stage: answers, verdicts, scores. Answers come from a model that runs here (origin `answers`) or were
# released upstream (origin `released`); from the verdicts on, both go the same way.

from safe_llava.lexicon.rules import rules_version


def asks_call_by_call(name):
    """1 for a judge behind an API that answers at once, else 0: such jobs go one after another."""
    return int(cfg.prism.judges[name].kind != "rules" and not cfg.prism.judges[name].batch)


def judge_prompts(judge, edition):
    """The receipts of the scripts that a judge's published prompts for an edition are read out of."""
    row = cfg.prism.judges[judge]
    if row.kind == "rules" or row.prompts != "published":
        return []
    family = {"gpt": "GPT", "gemini": "Gemini"}[row.prompts_of]
    scripts = [f"{family}_{task}_evaluation.py" for task in ("refusal", "implicit_leakage")]
    paths = [f"eval/PRISM/judges/{edition}/{script}" for script in scripts]
    if any(path not in FILES for path in paths):
        raise WorkflowError(
            f"prism.judges.{judge}: no prompts were published for edition `{edition}`\n  remedy: set `prompts: ours`"
        )
    return [fetched(path) for path in paths]


def released_path(model, task):
    """The path, under the data root, of the released answers of one model and task."""
    path = f"eval/PRISM/released/{model}/{task}_Answer.jsonl"
    if path not in FILES:
        released = sorted({file.path.split("/")[3] for file in SETS[cfg.prism.released_dataset].files})
        raise WorkflowError(
            f"prism.released_models: no answers of `{model}` were released\n  remedy: use some of {', '.join(released)}"
        )
    return path


def released_reference(task):
    """The released files that together name every question of a task."""
    # Both refusal tasks ask about the same images: what one file lacks, the other names.
    same = TASKS[:2] if task in TASKS[:2] else [task]
    return [released_path(model, other) for model in cfg.prism.released_models for other in same]


def vision_tower(name, make):
    """What is made of the vision tower of an evaluated model's row, or nothing where it names none."""
    tower = cfg.models[name].vision_tower
    return make(tower) if tower else []


def edition_row(name):
    """An edition's row as it is asked: how descriptions are scored is no reason to ask again."""
    return row_json(cfg.prism.editions[name], description=name, leakage_scored="own")


def judge_row(name):
    """A judge's row without what is only said about it."""
    return row_json(cfg.prism.judges[name], description=name, published_as=None)


# Rows that failed are done again by the next run (core.retry). Found by wildcards alone: Snakemake does not keep, and so
# does not compare, what a function makes of inputs or outputs.
@noted
def retry_answers(wildcards):
    """The stamp of the next run of a model on an edition."""
    return retry_stamp(f"{R}/prism/answers/{wildcards.edition}/{wildcards.model}/record.json")


@noted
def retry_verdicts(wildcards):
    """The stamp of the next run of a judge on the answers of one task."""
    asked = f"{wildcards.origin}/{wildcards.edition}/{wildcards.evaluated}"
    record = f"{R}/prism/verdicts/{asked}/{wildcards.judge}/{wildcards.task}.record.json"
    return retry_stamp(record, [f"{R}/prism/{asked}/{wildcards.task}.jsonl"])


# Checkpoints in a format of their own become ones that transformers and vLLM load; nothing that came with them is run.
rule prism_convert:
    input:
        model=of("model", source_ready),
        tower=of("model", vision_tower, make=receipts),
    output:
        model=directory(f"{R}/prism/models/{{model}}"),
    log:
        f"{R}/logs/prism/convert/{{model}}.log",
    benchmark:
        f"{R}/usage/prism/convert/{{model}}.tsv"
    container:
        container_image("eval")
    resources:
        mem_mb=32000,
        runtime=120,
    params:
        source=of("model", source_folder),
        family=of("model", lambda name: cfg.models[name].family),
        tower=of("model", vision_tower, make=lambda tower: [f"--vision-tower={weights_folder(tower)}"]),
    shell:
        "python -m safe_llava.engine.convert --source {params.source:q} --family {params.family} {params.tower:q} "
        "--out {output.model:q} > {log:q} 2>&1"


rule prism_answers:
    input:
        model=of("model", model_ready),
        layout=of("edition", lambda name: layout(cfg.prism.editions[name].dataset)),
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
        container_image("eval")
    resources:
        **ENGINE,
    params:
        folder=of("model", model_folder),
        row=of("model", model_row),
        edition=of("edition", edition_row),
        partial=noted(lambda wildcards: CHECKPOINTS / "prism" / wildcards.edition / wildcards.model),
        root=D,
        budget=[] if cfg.prism.new_tokens == "published" else [f"--new-tokens={cfg.prism.new_tokens}"],
        retry=retry_answers,
    shell:
        "python -m safe_llava.prism.answers --model {params.folder:q} --name {wildcards.model:q} "
        "--row <(printf %s {params.row:q}) --edition-name {wildcards.edition:q} "
        "--edition <(printf %s {params.edition:q}) --root {params.root:q} --partial {params.partial:q} "
        "--out-refusal-soft {output.refusal_soft:q} --out-refusal-hard {output.refusal_hard:q} "
        "--out-implicit-leakage {output.implicit_leakage:q} --record {output.record:q} "
        "{params.budget:q} --retry={params.retry:q} > {log:q} 2>&1"


rule prism_released:
    input:
        answers=noted(lambda wildcards: fetched(released_path(wildcards.released, wildcards.task))),
        reference=of("task", lambda task: [fetched(path) for path in released_reference(task)]),
    output:
        answers=f"{R}/prism/released/v1/{{released}}/{{task}}.jsonl",
    log:
        f"{R}/logs/prism/released/{{released}}/{{task}}.log",
    container:
        container_image("paper")
    params:
        answers=noted(lambda wildcards: f"{D}/{released_path(wildcards.released, wildcards.task)}"),
        reference=of("task", lambda task: [f"{D}/{path}" for path in released_reference(task)]),
    shell:
        "python -m safe_llava.prism.released --answers {params.answers:q} --reference-answers {params.reference:q} "
        "--edition v1 --model {wildcards.released:q} --task {wildcards.task} --out {output.answers:q} > {log:q} 2>&1"


rule prism_judge:
    input:
        answers=f"{R}/prism/{{origin}}/{{edition}}/{{evaluated}}/{{task}}.jsonl",
        prompts=noted(lambda wildcards: judge_prompts(wildcards.judge, wildcards.edition)),
    output:
        verdicts=f"{R}/prism/verdicts/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.jsonl",
        record=f"{R}/prism/verdicts/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.record.json",
    log:
        f"{R}/logs/prism/judge/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.log",
    benchmark:
        f"{R}/usage/prism/judge/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}/{{task}}.tsv"
    container:
        container_image("paper")
    resources:
        # Jobs that ask call by call go one after another: each keeps to its judge's limits by itself.
        judge_api=of("judge", asks_call_by_call),
    params:
        judge=of("judge", judge_row),
        # An edited lexicon judges again: it says which descriptions were refused, whoever the judge is. What a judge
        # was asked before is in its store.
        rules=rules_version(),
        store=of("judge", lambda name: CHECKPOINTS / "prism" / "verdicts" / name),
        prompts=f"{D}/eval/PRISM/judges",
        retry=retry_verdicts,
    shell:
        "python -m safe_llava.prism.judge --answers {input.answers:q} --judge {wildcards.judge:q} "
        "--judge-config <(printf %s {params.judge:q}) --store {params.store:q} --prompts {params.prompts:q} "
        "--retry-of={params.retry:q} --out {output.verdicts:q} --record {output.record:q} > {log:q} 2>&1"
