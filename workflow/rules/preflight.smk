# Before the first GPU hour: is everything there (`snakemake preflight`), and what will it cost (`snakemake costs`)?
import time


localrules:
    preflight_config,
    preflight_login,
    preflight,
    costs,


# The whole configuration as it is after all files, `--config` and inheritance: what the steps below reckon with.
rule preflight_config:
    output:
        config=f"{R}/preflight/config.json",
    log:
        f"{R}/logs/preflight/config.log",
    container:
        ON_THE_HOST
    params:
        config=lambda wildcards: row_json(cfg),
    shell:
        "printf '%s\\n' {params.config:q} > {output.config:q} 2> {log:q}"


# What was found once is not what is there now: a parameter that is never the same makes each of these run again. And
# what was found before goes first: it must not stand in for a job that is refused.
rule preflight_login:
    input:
        config=rules.preflight_config.output.config,
    output:
        findings=f"{R}/preflight/login.json",
    log:
        f"{R}/logs/preflight/login.log",
    container:
        ON_THE_HOST
    params:
        python=HOST_PYTHON,
        plan=lambda wildcards: preflight_plan(),
        before=FOUND_BEFORE,
        asked=time.time(),
    shell:
        "rm -f {params.before:q} && {params.python:q} -m safe_llava.cluster.login --config {input.config:q} "
        "--plan <(printf %s {params.plan:q}) --out {output.findings:q} > {log:q} 2>&1"


# One short job for each image, on the partition of the jobs that use it.
rule preflight_node:
    input:
        login=rules.preflight_login.output.findings,
    output:
        facts=f"{R}/preflight/{{image}}.json",
    log:
        f"{R}/logs/preflight/{{image}}.log",
    wildcard_constraints:
        image="train|eval|paper",
    container:
        lambda wildcards: image(wildcards.image)
    threads: 2
    resources:
        gpu=lambda wildcards: preflight_gpus(wildcards.image),
        mem_mb=lambda wildcards: 8000 if preflight_gpus(wildcards.image) else 4000,
        runtime=15,
    params:
        folders=[f"--folder={folder}" for folder in (R, D, CHECKPOINTS)],
        look=lambda wildcards: (["--gpus"] if wildcards.image != "paper" else [])
        + (["--all-reduce"] if wildcards.image == "train" else []),
        asked=time.time(),
    shell:
        "python -m safe_llava.cluster.node {params.look:q} {params.folders:q} --out {output.facts:q} > {log:q} 2>&1"


# Without outputs, these two run whenever they are asked for; they speak to the terminal.
rule preflight:
    input:
        config=rules.preflight_config.output.config,
        login=rules.preflight_login.output.findings,
        facts=expand(rules.preflight_node.output.facts, image=LOOKED_INTO),
    log:
        f"{R}/logs/preflight/preflight.log",
    container:
        ON_THE_HOST
    params:
        python=HOST_PYTHON,
        gathered=GATHERED,
    shell:
        "{params.python:q} -m safe_llava.cluster.preflight {params.gathered:q} 2> {log:q}"


# A job that failed, or that SLURM refused, must not cost the page.
onerror:
    if workflow.is_main_process and preflight_cut_short(workflow.dag):
        from safe_llava.cluster.preflight import main as gather

        gather(GATHERED)


rule costs:
    input:
        config=rules.preflight_config.output.config,
    log:
        f"{R}/logs/preflight/costs.log",
    container:
        ON_THE_HOST
    params:
        python=HOST_PYTHON,
        table=f"{R}/costs/planned.csv",
        page=f"{R}/costs/planned.md",
    shell:
        "{params.python:q} -m safe_llava.cluster.costs --config {input.config:q} "
        "--table {params.table:q} --page {params.page:q} 2> {log:q}"
