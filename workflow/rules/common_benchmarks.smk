# Functions of the benchmarks stage: which tasks have a score, which pairs are compared, who judges.

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


def judging_arguments(benchmark):
    """The arguments that name a benchmark's judge; none where it needs none."""
    name = cfg.benchmarks.judge_of(benchmark)
    if name is None:
        return []
    store = CHECKPOINTS / "benchmarks" / "judged" / name
    row = row_json(cfg.prism.judges[name], description=name, published_as=None)
    return [f"--judge={name}", f"--judge-row={row}", f"--judge-store={store}"]
