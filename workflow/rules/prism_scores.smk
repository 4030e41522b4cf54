# The prism stage from the verdicts on: scores, tables, pairs of models, and the judges beside each other.

PUBLISHED_JUDGES = [
    f"--judge-published-as={name}={row.published_as}" for name, row in cfg.prism.judges.items() if row.published_as
]
PUBLISHED_AS = {name: cfg.models[name].published_as for name in cfg.prism.select.models}
ALLOW_FAILED = [f"--allow-failed-{rows}={fraction}" for rows, fraction in cfg.prism.allow_failed]
LEAKAGE_SCORED = [f"{name}={cfg.prism.editions[name].leakage_scored}" for name in cfg.prism.editions]
PAIRED_MODELS = list(dict.fromkeys(name for pair in PRISM_PAIRS for name in (pair.safe, pair.original)))


JUDGED_TASKS = expand(
    f"{R}/prism/verdicts/{{{{origin}}}}/{{{{edition}}}}/{{{{evaluated}}}}/{{{{judge}}}}/{{task}}.jsonl", task=TASKS
)


@noted
def retry_score(wildcards):
    """The stamp of the next run of a score: a new one where its verdicts are gone."""
    place = "/".join([wildcards.origin, wildcards.edition, wildcards.evaluated, wildcards.judge])
    verdicts = expand(JUDGED_TASKS, **dict(wildcards.items()))
    return retry_stamp(f"{R}/prism/scores/{place}.record.json", verdicts)


rule prism_score:
    input:
        verdicts=JUDGED_TASKS,
    output:
        scores=f"{R}/prism/scores/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}.csv",
        record=f"{R}/prism/scores/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}.record.json",
    log:
        f"{R}/logs/prism/score/{{origin}}/{{edition}}/{{evaluated}}/{{judge}}.log",
    container:
        container_image("paper")
    params:
        scored=of("edition", lambda name: cfg.prism.editions[name].leakage_scored),
        retry=retry_score,
    shell:
        "python -m safe_llava.prism.score --verdicts {input.verdicts:q} --leakage-scored {params.scored} "
        "--retry={params.retry:q} --out {output.scores:q} --record {output.record:q} > {log:q} 2>&1"


rule prism_published:
    input:
        v1=str(REPOSITORY / cfg.prism.published["v1"]),
        v2=str(REPOSITORY / cfg.prism.published["v2"]),
    output:
        scores=f"{R}/prism/scores/published.csv",
    log:
        f"{R}/logs/prism/published.log",
    container:
        container_image("paper")
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
        container_image("paper")
    params:
        arguments=[
            *(f"--published-as={name}={alias}" for name, alias in PUBLISHED_AS.items() if alias),
            *PUBLISHED_JUDGES,
            *ALLOW_FAILED,
        ],
    shell:
        "python -m safe_llava.prism.table --scores {input.scores:q} --published {input.published:q} "
        "{params.arguments:q} "
        "--out {output.table:q} --differences {output.differences:q} > {log:q} 2>&1"


# The answers released upstream, judged by the rule-based judge, beside the published counts. Answers that were not
# released cannot be asked for again: they are no reason to make no table.
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
        container_image("paper")
    params:
        arguments=[*PUBLISHED_JUDGES, "--allow-failed-answers=1", ALLOW_FAILED[-1]],
    shell:
        "python -m safe_llava.prism.table --scores {input.scores:q} --published {input.published:q} --editions v1 "
        "{params.arguments:q} "
        "--out {output.table:q} --differences {output.differences:q} > {log:q} 2>&1"


# Two models on the same questions: the pairs of paper.compare that are both asked.
rule prism_paired:
    input:
        verdicts=expand(
            f"{R}/prism/verdicts/answers/{{edition}}/{{model}}/{{judge}}/{{task}}.jsonl",
            edition=cfg.prism.select.editions,
            model=PAIRED_MODELS,
            judge=cfg.prism.select.judges,
            task=TASKS,
        ),
    output:
        table=report(
            f"{R}/tables/prism_paired.csv",
            caption="../report/table_prism_paired.rst",
            category="prism",
        ),
    log:
        f"{R}/logs/prism/paired.log",
    container:
        container_image("paper")
    params:
        arguments=[
            *(word for pair in PRISM_PAIRS for word in ("--pair", pair.safe, pair.original)),
            *("--leakage-scored", *LEAKAGE_SCORED),
            *ALLOW_FAILED,
        ],
    shell:
        "python -m safe_llava.prism.compare --verdicts {input.verdicts:q} {params.arguments:q} "
        "--out {output.table:q} > {log:q} 2>&1"


# The judges against each other, and the rules against labels given by hand and against the published judges.
rule prism_judges:
    input:
        verdicts=expand(
            f"{R}/prism/verdicts/answers/{{edition}}/{{model}}/{{judge}}/{{task}}.jsonl",
            edition=cfg.prism.select.editions,
            model=cfg.prism.select.models,
            judge=cfg.prism.select.judges if len(cfg.prism.select.judges) > 1 else [],
            task=TASKS,
        ),
        released=expand(
            f"{R}/prism/verdicts/released/v1/{{released}}/rules/{{task}}.jsonl",
            released=cfg.prism.released_models,
            task=TASKS,
        ),
        scores=rules.prism_released_table.input.scores,
        published=rules.prism_published.output.scores,
        labels=str(REPOSITORY / "config/hand_labels.csv"),
    output:
        table=report(
            f"{R}/tables/prism_judges.csv",
            caption="../report/table_prism_judges.rst",
            category="prism",
        ),
    log:
        f"{R}/logs/prism/judges.log",
    container:
        container_image("paper")
    params:
        scored=LEAKAGE_SCORED,
    shell:
        "python -m safe_llava.prism.judges_agree --verdicts {input.verdicts:q} --released {input.released:q} "
        "--labels {input.labels:q} --scores {input.scores:q} --published {input.published:q} "
        "--leakage-scored {params.scored:q} --out {output.table:q} > {log:q} 2>&1"
