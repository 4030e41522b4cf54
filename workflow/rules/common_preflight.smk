# Functions of preflight: which images are looked into, and what the jobs of the selection ask for.
from snakemake.iocontainers import Wildcards

from safe_llava.config.selection import needed_sets

# The images whose environment the selection uses.
LOOKED_INTO = ["train"] * bool(cfg.train.select.models)
LOOKED_INTO += ["eval"] * bool(cfg.prism.select.models or cfg.benchmarks.select.models)
LOOKED_INTO += ["paper"]

# The arguments of the step that makes the page, which Snakemake would delete with a rule's outputs if a line is red.
GATHERED = [f"--config={R}/preflight/config.json", f"--login={R}/preflight/login.json"]
GATHERED += [f"--facts={name}={R}/preflight/{name}.json" for name in LOOKED_INTO]
GATHERED += [f"--page={R}/preflight/preflight.html"]
FOUND_BEFORE = [f"{R}/preflight/{name}" for name in (*(f"{image}.json" for image in LOOKED_INTO), "preflight.html")]


def preflight_cut_short(dag):
    """Whether preflight was asked for, and a job that looks around did not come back."""
    asked = any(job.rule.name == "preflight" for job in dag.jobs)
    there = [Path(R, "preflight", f"{name}.json").is_file() for name in ("login", *LOOKED_INTO)]
    return asked and there[0] and not all(there)


def preflight_image(name):
    """The image of an environment, where images are used."""
    return image(name) if IN_IMAGE else None


def preflight_gpus(name):
    """GPUs of the job that looks around in an environment: two of those that train, where two meet on a machine."""
    if name == "train":
        return max(min(2, gpus(cfg.train.models[trained])) for trained in cfg.train.select.models)
    answering = {*cfg.prism.select.models, *cfg.benchmarks.select.models} if name == "eval" else []
    return max((engine_gpus(model) for model in answering), default=0)


def resources_of(rule, name, **wildcards):
    """What a rule asks for, for one model, as preflight reads it."""
    found = workflow.get_rule(rule).expand_resources(Wildcards(fromdict=wildcards), [], 1)
    settings = workflow.executor_settings
    gpu = found.get("gpu") or sum(map(int, re.findall(r"\d+$", str(found.get("gres", "")))))
    named = [found.get("slurm_partition"), getattr(settings, "gpu_partition", None) if gpu else None]
    named += [getattr(settings, "partition", None)]
    return {
        "rule": rule,
        "model": name,
        "partition": next(filter(None, named), None),
        "nodes": found.get("nodes", 1),
        "gpus": gpu,
        "cpus": found.get("cpus_per_task") or found.get("_cores", 1),
        "mem_mb": found.get("mem_mb") or 0,
        "runtime": found.get("runtime"),
    }


def preflight_asks():
    """What the jobs of the selection ask for, those first that take long."""
    stages = [(name, stage) for name in cfg.train.select.models for stage in ("pretrain", "finetune")]
    train = [
        resources_of(f"train_{stage}" + "_spread" * (name in SPREAD), name, trained=name) for name, stage in stages
    ]
    # A rule's jobs ask for the same, whatever the edition, the benchmark or the data set.
    edition, benchmark = cfg.prism.select.editions[0], next(iter(cfg.benchmarks.tasks))
    answers = [resources_of("prism_answers", name, model=name, edition=edition) for name in cfg.prism.select.models]
    benchmarks = [
        resources_of("benchmarks_run", name, model=name, benchmark=benchmark) for name in cfg.benchmarks.select.models
    ]
    return [*train, *answers, *benchmarks, resources_of("data_layout", None, dataset=CHECKED[0])]


def preflight_plan():
    """What ``cluster.login`` has to know of the workflow, as JSON."""
    sets = needed_sets(cfg)
    judges = {judge for judge in map(cfg.benchmarks.judge_of, cfg.benchmarks.select.tasks) if judge}
    judges |= {judge for judge in cfg.prism.select.judges if cfg.prism.judges[judge].kind != "rules"}
    jobs = {
        name: {
            "image": preflight_image(name),
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
