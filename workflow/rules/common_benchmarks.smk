# Functions of the benchmarks stage: which tasks have a score, which pairs are compared, who judges.

# A judge reads the answers to some, in a step of its own.
JUDGED = [name for name, task in cfg.benchmarks.tasks.items() if task.judged]
# What of a row says how answers are scored, as constants: no reason to ask again.
UNSCORED = dict(
    judged=False,
    judge_reply=None,
    metric="none",
    more_metrics=[],
    scale=100.0,
    group_by=None,
    group_modulo=None,
    group_size=None,
)
# Tasks whose labels are not public have no score, and pairs of models are compared on the others.
SUBMITTED = [name for name, task in cfg.benchmarks.tasks.items() if task.submission]
SCORED = [name for name in cfg.benchmarks.select.tasks if name not in SUBMITTED]
BENCHMARK_PAIRS = [
    pair for pair in cfg.paper.compare if {pair.safe, pair.original} <= set(cfg.benchmarks.select.models) and SCORED
]
BENCHMARK_UNITS = [
    (f"{name}/{benchmark}", f"{R}/benchmarks/{name}/{benchmark}/units.csv")
    for name in dict.fromkeys(name for pair in BENCHMARK_PAIRS for name in (pair.safe, pair.original))
    for benchmark in SCORED
]


def asked_row(benchmark, **changes):
    """A benchmark's row as it is asked: what stands beside the score in the table is no reason to ask again.

    A metric with a published score is one that the table shows, whatever that score is.
    """
    task = cfg.benchmarks.tasks[benchmark]
    beside = dict(note="", comparable=True, not_comparable={}, noise={}, judge=None, published_judge=None, published={})
    asked = dict(description=benchmark, more_metrics=task.metrics[1:])
    return row_json(task, **(asked | beside | changes))


def judging_arguments(benchmark):
    """The arguments that name a benchmark's judge; none where nobody is named."""
    name = cfg.benchmarks.judge_of(benchmark)
    if name is None:
        return []
    store = CHECKPOINTS / "benchmarks" / "judged" / name
    row = row_json(cfg.prism.judges[name], description=name, published_as=None)
    return [f"--judge={name}", f"--judge-row={row}", f"--judge-store={store}"]
