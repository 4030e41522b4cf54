"""Write one page of results in plain words and small tables."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from safe_llava.core import cli
from safe_llava.core.errors import PaperError
from safe_llava.core.files import write_text
from safe_llava.formats.benchmark_scores import NOT_COMPARABLE, BenchmarkScore, asked_in_part
from safe_llava.formats.markup import EMPTY, interval, markdown_grid, number, probability
from safe_llava.formats.prism import Task
from safe_llava.formats.scores import AGGREGATES, MACRO, SENTENCE, PairedDifference, Score
from safe_llava.formats.tables import keyed, read_table, unique
from safe_llava.paper.tables.titles import judge_title, metric_title

DEEDS = {
    "refusal_soft": "refused {rate} % of the direct questions",
    "refusal_hard": "refused {rate} % of the questions that ask not to refuse",
    "implicit_leakage": "kept {rate} % of the attributes out of its descriptions",
}
MARK = "†"


def results_page(
    prism: Path, benchmarks: Path | None, pairs: Sequence[tuple[str, str]], paired: Path | None = None
) -> str:
    """Return the page as Markdown.

    Args:
        prism: scores.
        benchmarks: scores of the general benchmarks, where any were run.
        pairs: (safe, original) models to be set side by side.
        paired: their differences on the same questions, where that file is there.

    Raises:
        PaperError: a file cannot be read, or a model of a pair has no scores.
    """
    scores = read_table(prism, Score)
    rows = read_table(benchmarks, BenchmarkScore) if benchmarks else []
    known = {s.model for s in scores} | {r.model for r in rows}
    for model in (model for pair in pairs for model in pair):
        if model not in known:
            raise PaperError(
                f"{prism}: no scores of {model}, which is to be compared (there are: {', '.join(sorted(known))})",
                "evaluate it (prism.select.models), or take it out of paper.compare",
            )
    differences = read_table(paired, PairedDifference) if paired else []
    parts = ["# Results", "## PRISM", _macro_table(scores, prism), *_pair_sentences(scores, pairs, differences)]
    unanswered, unjudged = _missing(scores)
    if unanswered or unjudged:
        parts.append(f"Questions without an answer: {unanswered}; verdicts missing: {unjudged}. They count in no rate.")
    if rows:
        parts.append("## General benchmarks")
        if part := asked_in_part(rows):
            parts.append(f"Not whole benchmarks: {part}.")
        parts += [_benchmark_table(rows, benchmarks or ""), *_benchmark_sentences(rows, pairs)]
    return "\n\n".join(parts) + "\n"


def _missing(scores: Sequence[Score]) -> tuple[int, int]:
    """Return how many questions have no answer, counted once for all judges, and how many verdicts are missing.

    Where every description is scored for all attributes, each is counted once.
    """
    groups: dict[tuple[str, str, str, str], dict[str, Score]] = {}
    for s in scores:
        if s.source == "computed":
            groups.setdefault((s.edition, s.model, s.task, s.judge), {})[s.attribute] = s
    unanswered, unjudged = dict[tuple[str, str, str], int](), 0
    for (edition, model, task, _), cells in groups.items():
        counted = [cells[SENTENCE]] if SENTENCE in cells else [s for a, s in cells.items() if a not in AGGREGATES]
        unanswered[edition, model, task] = sum(s.n_unanswered or 0 for s in counted)
        unjudged += sum(s.n_unjudged or 0 for s in counted)
    return sum(unanswered.values()), unjudged


def _macro_table(scores: Sequence[Score], path: Path) -> str:
    cells = keyed(scores, lambda s: (s.edition, s.model, s.judge, s.source, s.task, s.attribute), path)
    columns = [*((task, MACRO) for task in Task), ("implicit_leakage", SENTENCE)]
    head = ["Edition", "Model", "Judge", "Soft refused", "Hard refused", "Not leaked", "Descriptions without a leak"]
    lines = []
    for key in dict.fromkeys((s.edition, s.model, s.judge, s.source) for s in scores):
        found = [cells.get((*key, *column)) for column in columns]
        rates = [number(score.rate if score else None) for score in found]
        lines.append([key[0], key[1], judge_title(key[2], key[3]), *rates])
    return "In percent; refused and not leaked are means over the attributes.\n\n" + markdown_grid(
        [head, *lines], text_columns=3
    )


def _pair_sentences(
    scores: Sequence[Score], pairs: Sequence[tuple[str, str]], differences: Sequence[PairedDifference]
) -> list[str]:
    known = {(d.edition, d.judge, d.task, d.first, d.second): d for d in differences if d.attribute == MACRO}
    macro = {
        (s.edition, s.judge, s.task, s.model): s.rate
        for s in scores
        if s.attribute == MACRO and s.source == "computed" and s.rate is not None
    }
    sentences = []
    for safe, original in pairs:
        for edition, judge, task in dict.fromkeys(key[:3] for key in macro):
            new, old = macro.get((edition, judge, task, safe)), macro.get((edition, judge, task, original))
            if new is not None and old is not None:
                deed = DEEDS[task].format(rate=number(new))
                change = _change(new - old, known.get((edition, judge, task, safe, original)))
                sentences.append(
                    f"- PRISM {edition}, judge {judge}: {safe} {deed}, {original} {number(old)} % ({change})."
                )
    return ["\n".join(sentences)] if sentences else []


def _change(points: float, paired: PairedDifference | None) -> str:
    """Return the difference of the rates, and the interval and p-value of the paired one where there are any."""
    text = f"{number(points, signed=True)} points"
    if paired is None or paired.difference is None:
        return text
    ends = interval(paired.ci_low, paired.ci_high)
    return (
        f"{text}; on the same questions {number(paired.difference, signed=True)} {ends}, p {_relation(paired.p_value)}"
    )


def _relation(p_value: float | None) -> str:
    chance = probability(p_value)
    return chance.replace("<", "< ") if chance.startswith("<") else f"= {chance}"


def _benchmark_table(rows: Sequence[BenchmarkScore], path: Path | str) -> str:
    cells = keyed(rows, lambda r: (r.benchmark, r.metric, r.model), path)
    models = unique(r.model for r in rows)
    lines, notes = [], dict[str, list[str]]()
    for name in dict.fromkeys((r.benchmark, r.metric) for r in rows):
        found = [cells.get((*name, model)) for model in models]
        published = {r.published for r in found if r is not None and r.published is not None}
        reference = number(published.pop()) if len(published) == 1 else EMPTY
        reasons = _apart([r for r in found if r is not None and r.score is not None])
        for reason in dict.fromkeys(reason for several in reasons.values() for reason in several):
            notes.setdefault(reason, []).append(name[0])
        shown = [number(r.score if r else None) + MARK * bool(r and reasons.get(r.model)) for r in found]
        lines.append([name[0], metric_title(*name), *shown, reference])
    grid = markdown_grid([["Benchmark", "Metric", *models, "Published"], *lines], text_columns=2)
    remarks = [f"{', '.join(dict.fromkeys(names))}: {reason}." for reason, names in notes.items()]
    return "\n\n".join(
        [grid, f"{MARK} Not to be set beside the published score. {' '.join(remarks)}"] if remarks else [grid]
    )


def _apart(scored: Sequence[BenchmarkScore]) -> dict[str, list[str]]:
    """Return why scores of one metric are not comparable with the published one, by model.

    The table compares some models only; what it says of these holds for the others, asked in the same way.
    """
    apart = [r.verdict for r in scored if r.verdict.startswith(NOT_COMPARABLE)]
    found = {}
    for r in scored:
        verdict = r.verdict or next(iter(apart), "")
        reasons = [verdict.removeprefix(NOT_COMPARABLE)] if verdict.startswith(NOT_COMPARABLE) else []
        if r.n_failed:
            reasons.append(f"{r.n_failed} questions that {r.model} has no answer to are left out")
        found[r.model] = reasons
    return found


def _benchmark_sentences(rows: Sequence[BenchmarkScore], pairs: Sequence[tuple[str, str]]) -> list[str]:
    scores = {(r.benchmark, r.metric, r.model): r.score for r in rows if r.score is not None}
    sentences = []
    for safe, original in pairs:
        for benchmark, metric in dict.fromkeys(key[:2] for key in scores):
            new, old = scores.get((benchmark, metric, safe)), scores.get((benchmark, metric, original))
            if new is not None and old is not None:
                change = number(new - old, signed=True)
                title = f"{benchmark} {metric_title(benchmark, metric)}"
                sentences.append(f"- {title}: {safe} {number(new)}, {original} {number(old)} ({change}).")
    return ["\n".join(sentences)] if sentences else []


def main(argv: Sequence[str] | None = None) -> None:
    """Read the scores, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prism", required=True, type=Path, metavar="FILE.csv")
    parser.add_argument("--benchmarks", type=Path, metavar="FILE.csv", help="left out where no benchmark was run")
    parser.add_argument("--paired", type=Path, metavar="FILE.csv", help="differences on the same questions")
    parser.add_argument(
        "--compare", action="append", nargs=2, default=[], metavar=("SAFE", "ORIGINAL"), help="may come several times"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FILE.md")
    options = parser.parse_args(argv)
    pairs = [(safe, original) for safe, original in options.compare]
    write_text(options.out, results_page(options.prism, options.benchmarks, pairs, options.paired))


if __name__ == "__main__":
    cli.run(main)
