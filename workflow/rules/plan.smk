# What the data stage says before it starts: what is missing, and whether it fits.
ANNOUNCED = []


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
