# What is said before anything starts: what is missing, whether it fits, and which keys are needed.
import atexit

ANNOUNCED = []
QUIET = "all" in {str(one) for one in workflow.output_settings.quiet or []}


def data_milestone():
    """Everything that the selected models, editions and benchmarks need from outside."""
    sets, wanted = set(), set()
    for name in cfg.train.select.models:
        row = cfg.train.models[name]
        sets |= {row.pretrain.annotations, row.finetune.annotations}
        wanted |= {row.language_model, row.vision_tower}
    sets |= {cfg.prism.editions[name].dataset for name in cfg.prism.select.editions}
    for name in {*cfg.prism.select.models, *cfg.benchmarks.select.models}:
        wanted |= {row for row in (cfg.models[name].weights, cfg.models[name].vision_tower) if row}
    wanted |= {cfg.benchmarks.tasks[name].dataset for name in cfg.benchmarks.select.tasks}
    if "audit" in (*TABLES, *FIGURES):
        wanted |= set(cfg.data.audit.sets)
    released = [fetched(released_path(name, task)) for name in cfg.prism.released_models for task in TASKS]
    asked = [(judge, edition) for judge in cfg.prism.select.judges for edition in cfg.prism.select.editions]
    prompts = sorted({path for one in asked for path in judge_prompts(*one)})
    return [
        *[layout(name) for name in sorted(sets)],
        *[path for name in sorted(wanted) for path in receipts(name)],
        *released,
        *prompts,
    ]


def planned(wildcards):
    """The milestone's inputs. They are asked for while the DAG is built: so a dry-run, too, shows the plan first."""
    if workflow.is_main_process and not ANNOUNCED and not QUIET:
        from safe_llava.config.selection import needed
        from safe_llava.data.plan import report

        ANNOUNCED.append(True)
        print(report(cfg.data, needed(cfg))[0], file=sys.stderr, flush=True)
    return data_milestone()


def check_room(jobs):
    """Refuse to start where what the jobs fetch and unpack does not fit, before anything has been fetched."""
    paths, names = set(), set()
    for job in jobs:
        if job.rule.name in ("data_fetch", "data_unpack"):
            paths.add(getattr(job.wildcards, "file", None) or job.wildcards.archive)
        elif job.rule.name == "data_snapshot":
            names.add(job.wildcards.snapshot)
    if cfg.data.ignore_space or not (paths or names):
        return
    from safe_llava.data.plan import lines_of, require_room
    from safe_llava.data.download.room import room

    parts = [
        one.model_copy(update={"files": [file for file in one.files if file.path in paths]})
        for name, one in SETS.items()
        if name in names or any(file.path in paths for file in one.files)
    ]
    try:
        require_room(lines_of(cfg.data, parts), room(Path(D)), Path(D))
    except SafeLlavaError as error:
        raise WorkflowError(str(error)) from None


def keys_not_set(jobs):
    """What to tell the user where a judge that the jobs call has no key, else None."""
    jobs = list(jobs)
    judges = {job.wildcards.judge for job in jobs if job.rule.name == "prism_judge"}
    judged = {job.wildcards.benchmark for job in jobs if job.rule.name == "benchmarks_judged"}
    judges |= {name for name in map(cfg.benchmarks.judge_of, judged) if name is not None}
    return missing_keys({name: cfg.prism.judges[name] for name in sorted(judges)}, os.environ)


def check_keys(jobs):
    """Refuse to start where a judge's key is missing, before anything has been spent."""
    if missing := keys_not_set(jobs):
        raise WorkflowError(missing)


def warn_of_keys():
    """Say at a dry-run's end which keys a run needs: Snakemake calls `onstart` for no dry-run."""
    if not workflow.dryrun or workflow.dag is None:
        return
    if missing := keys_not_set(workflow.dag.needrun_jobs(exclude_finished=False)):
        print(missing, file=sys.stderr)


if workflow.is_main_process and not QUIET:
    atexit.register(warn_of_keys)
