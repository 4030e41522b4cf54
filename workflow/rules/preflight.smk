# Before the first GPU hour: is everything there (`snakemake preflight`), and what will it cost (`snakemake costs`)?
import time

from snakemake.iocontainers import Wildcards

from safe_llava.config.selection import needed_sets

# The container images whose environment the selection uses.
EVALUATED = {*cfg.prism.select.models, *cfg.benchmarks.select.models}
LOOKED_INTO = ["train"] * bool(cfg.train.select.models) + ["eval"] * bool(EVALUATED) + ["paper"]
# What the page has no use for: a mirror's address may hold a password.
MIRRORS = {"mirrors": True, "data": {"sets": {"__all__": {"files": {"__all__": {"mirrors"}}}}}}

# The arguments of the step that makes the page, which Snakemake would delete with a rule's outputs if a line is red.
GATHERED = [f"--{part}={R}/preflight/{part}.json" for part in ("config", "login")]
GATHERED += [
    *(f"--facts={name}={R}/preflight/{name}.json" for name in LOOKED_INTO),
    f"--page={R}/preflight/preflight.html",
]
FOUND_BEFORE = [f"{R}/preflight/{name}" for name in (*(f"{image}.json" for image in LOOKED_INTO), "preflight.html")]


def preflight_cut_short(dag):
    """Whether preflight was asked for, and a job that looks around did not come back."""
    asked = jobs_of(dag.jobs, "preflight")
    there = [Path(R, "preflight", f"{name}.json").is_file() for name in ("login", *LOOKED_INTO)]
    return asked and there[0] and not all(there)


def preflight_gpus(name):
    """GPUs of the job that looks around in an environment: two of those that train, where two meet on a machine."""
    if name == "train":
        return max(min(2, gpus(trained)) for trained in cfg.train.select.models)
    return max(map(engine_gpus, EVALUATED)) if name == "eval" else 0


def resources_of(rule, name, **wildcards):
    """What a rule asks for, for one model, as preflight reads it."""
    found = workflow.get_rule(NAME_OF(rule)).expand_resources(Wildcards(fromdict=wildcards), [], 1)
    settings = workflow.executor_settings
    gpu = found.get("gpu") or sum(map(int, re.findall(r"\d+$", str(found.get("gres", "")))))
    partition = getattr(settings, "gpu_partition", None) if gpu else None
    return {
        "rule": rule,
        "model": name,
        "partition": found.get("slurm_partition") or partition or getattr(settings, "partition", None),
        "nodes": found.get("nodes", 1),
        "gpus": gpu,
        "cpus": found.get("cpus_per_task") or found.get("_cores", 1),
        "mem_mb": found.get("mem_mb") or 0,
        "runtime": found.get("runtime"),
    }


def preflight_asks():
    """What the jobs of the selection ask for, those first that take long."""
    # A rule's jobs ask for the same, whatever the edition, the benchmark or the data set.
    edition, benchmark = cfg.prism.select.editions[0], next(iter(cfg.benchmarks.tasks))
    return [
        *(
            resources_of(f"train_{stage}" + "_spread" * (name in SPREAD), name, trained=name)
            for name in cfg.train.select.models
            for stage in ("pretrain", "finetune")
        ),
        *(resources_of("prism_answers", name, model=name, edition=edition) for name in cfg.prism.select.models),
        *(
            resources_of("benchmarks_run", name, model=name, benchmark=benchmark)
            for name in cfg.benchmarks.select.models
        ),
        resources_of("data_layout", None, dataset=CHECKED[0]),
    ]


def preflight_plan():
    """What ``cluster.login`` has to know of the workflow, as JSON."""
    sets = needed_sets(cfg)
    judges = {judge for judge in map(cfg.benchmarks.judge_of, cfg.benchmarks.select.tasks) if judge}
    judges |= {judge for judge in cfg.prism.select.judges if cfg.prism.judges[judge].kind != "rules"}
    jobs = {
        name: {
            "image": container_image(name) if IN_CONTAINERS else None,
            "gpus": preflight_gpus(name),
            "log": f"{R}/logs/preflight/{name}.log",
        }
        for name in LOOKED_INTO
    }
    return json.dumps(
        {
            "slurm": "slurm" in getattr(workflow.executor_plugin, "name", ""),
            "jobs": jobs,
            "asks": preflight_asks(),
            "keys": sorted(judges),
            "layouts": {name: layout(name) for name in CHECKED if name in sets},
        }
    )


localrules:
    preflight_config,
    preflight_login,
    preflight,
    costs,


# The whole configuration as it is after all files, `--config` and inheritance: what the steps below read.
rule preflight_config:
    output:
        config=f"{R}/preflight/config.json",
    log:
        f"{R}/logs/preflight/config.log",
    container:
        ON_THE_HOST
    params:
        config=lambda wildcards: cfg.model_dump_json(exclude_defaults=True, exclude=MIRRORS),
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


# One short job for each container image, on the partition of the jobs that use it.
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
        of("image", container_image)
    threads: 2
    resources:
        gpu=of("image", preflight_gpus),
        mem_mb=of("image", lambda name: 8000 if preflight_gpus(name) else 4000),
        runtime=15,
    params:
        folders=[f"--folder={folder}" for folder in (R, D, CHECKPOINTS)],
        look=of("image", {"train": ["--gpus", "--all-reduce"], "eval": ["--gpus"], "paper": []}.get),
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
