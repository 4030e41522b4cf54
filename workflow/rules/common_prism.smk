# Functions of the prism stage: which pairs are compared, judges, their prompts, and the released answers.

# A pair of which one model is not asked asks for none.
PRISM_PAIRS = [pair for pair in cfg.paper.compare if {pair.safe, pair.original} <= set(cfg.prism.select.models)]


def asks_call_by_call(judge):
    """Whether a judge is behind an API that answers at once."""
    return judge.kind != "rules" and not judge.batch


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
