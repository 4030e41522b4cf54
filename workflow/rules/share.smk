# What others look at and take away: a page of every answer (`snakemake browse`), a crate of the results
# (`snakemake crate`), and the cards of the trained models (`snakemake cards`).


localrules:
    browse,
    crate,
    cards,
    share_crate,
    share_card,


def edition_images(name):
    """The folders of an edition's images, for the page."""
    return [f"--images={name}={D}/{part.images}" for part in cfg.prism.editions[name].parts]


rule share_browse:
    input:
        answers=expand(
            f"{R}/prism/answers/{{edition}}/{{model}}/{{task}}.jsonl",
            edition=cfg.prism.select.editions,
            model=cfg.prism.select.models,
            task=TASKS,
        ),
        verdicts=expand(
            f"{R}/prism/verdicts/answers/{{edition}}/{{model}}/{{judge}}/{{task}}.jsonl",
            edition=cfg.prism.select.editions,
            model=cfg.prism.select.models,
            judge=cfg.prism.select.judges,
            task=TASKS,
        ),
        released=expand(
            f"{R}/prism/released/v1/{{released}}/{{task}}.jsonl",
            released=cfg.prism.released_models,
            task=TASKS,
        ),
        released_verdicts=expand(
            f"{R}/prism/verdicts/released/v1/{{released}}/rules/{{task}}.jsonl",
            released=cfg.prism.released_models,
            task=TASKS,
        ),
    output:
        page=f"{R}/prism/browse.html",
        data=directory(f"{R}/prism/browse"),
    log:
        f"{R}/logs/share/browse.log",
    container:
        container_image("paper")
    resources:
        mem_mb=8000,
        runtime=120,
    params:
        images=[option for name in cfg.prism.editions for option in edition_images(name)],
    shell:
        "python -m safe_llava.prism.browse --answers {input.answers:q} --verdicts {input.verdicts:q} "
        "--released {input.released:q} --released-verdicts {input.released_verdicts:q} {params.images:q} "
        "--out {output.page:q} > {log:q} 2>&1"


rule browse:
    input:
        rules.share_browse.output.page,


rule share_crate:
    input:
        # A function: the files of rules may be read in any order.
        results=lambda wildcards: rules.paper.input,
        config=f"{R}/preflight/config.json",
    output:
        crate=directory(f"{R}/crate"),
    log:
        f"{R}/logs/share/crate.log",
    container:
        ON_THE_HOST
    params:
        python=HOST_PYTHON,
        arguments=[f"--results={R}", f"--workflow={workflow.basedir}", "--snakemake-logs=.snakemake/log"],
    shell:
        "{params.python:q} -m safe_llava.paper.crate {params.arguments:q} --config {input.config:q} "
        "--out {output.crate:q} > {log:q} 2>&1"


rule crate:
    input:
        rules.share_crate.output.crate,


# A card lies apart from the weights: a folder that changes would be asked again.
rule share_card:
    input:
        model=f"{R}/train/{{trained}}/model",
        config=f"{R}/preflight/config.json",
        prism=[f"{R}/tables/prism.csv"] if cfg.prism.select.models else [],
        benchmarks=lambda wildcards: BENCHMARK_SCORES,
    output:
        card=f"{R}/cards/{{trained}}/README.md",
    log:
        f"{R}/logs/share/card/{{trained}}.log",
    container:
        container_image("paper")
    params:
        scores=lambda wildcards, input: [
            *(f"--prism={path}" for path in input.prism),
            *(f"--benchmarks={path}" for path in input.benchmarks),
        ],
    shell:
        "python -m safe_llava.paper.card --config {input.config:q} --model {wildcards.trained:q} {params.scores:q} "
        "--out {output.card:q} > {log:q} 2>&1"


rule cards:
    input:
        expand(rules.share_card.output.card, trained=cfg.train.select.models),
