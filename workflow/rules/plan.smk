# What the data stage says before it starts: what is missing, and whether it fits.
ANNOUNCED = []


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
    quiet = {str(one) for one in workflow.output_settings.quiet or []}
    if workflow.is_main_process and not ANNOUNCED and "all" not in quiet:
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
    from safe_llava.data.room import room

    parts = [
        one.model_copy(update={"files": [file for file in one.files if file.path in paths]})
        for name, one in SETS.items()
        if name in names or any(file.path in paths for file in one.files)
    ]
    try:
        require_room(lines_of(cfg.data, parts), room(Path(D)), Path(D))
    except SafeLlavaError as error:
        raise WorkflowError(str(error)) from None


def check_keys(jobs):
    """Refuse to start where a judge's key is missing, before anything has been spent."""
    jobs = list(jobs)
    judges = {job.wildcards.judge for job in jobs if job.rule.name == "prism_judge"}
    asking = {job.wildcards.benchmark for job in jobs if job.rule.name == "benchmarks_run"}
    judges |= {name for name in map(cfg.benchmarks.judge_of, asking) if name is not None}
    missing = missing_keys({name: cfg.prism.judges[name] for name in sorted(judges)}, os.environ)
    if missing:
        raise WorkflowError(missing)
