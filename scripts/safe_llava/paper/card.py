"""Write the model card of a model that was trained here: what it is made of, what it scored, how to make it again.

Run: ``python -m safe_llava.paper.card --config CONFIG.json --model NAME [--prism CSV] [--benchmarks CSV] --out FILE``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from safe_llava import __version__
from safe_llava.config.data import DataSet
from safe_llava.config.schema import Config
from safe_llava.core import cli
from safe_llava.core.errors import ConfigError, PaperError
from safe_llava.core.files import write_text
from safe_llava.core.provenance import code_commit
from safe_llava.core.rows import read_row
from safe_llava.formats.benchmark_scores import BenchmarkScore
from safe_llava.formats.markup import interval, markdown_grid, number
from safe_llava.formats.scores import MACRO, SENTENCE, Score
from safe_llava.formats.tables import read_table
from safe_llava.paper.tables.titles import RATE_TITLES, TASK_TITLES, attribute_title

Z = 1.959964  # of a normal 95 % interval


def model_card(config: Config, name: str, prism: Path | None, benchmarks: Path | None) -> str:
    """Return the card as Markdown with the hub's metadata in front.

    Args:
        config: the resolved configuration.
        name: row of ``train.models``.
        prism: PRISM's scores, where any model was asked.
        benchmarks: scores of the general benchmarks, likewise.

    Raises:
        PaperError: no such model is trained.
    """
    from huggingface_hub import ModelCard, ModelCardData

    row = config.train.models.get(name)
    if row is None:
        raise PaperError(f"{name}: no row of train.models", f"name one of {', '.join(config.train.models)}")
    asked = {other for other, one in config.models.items() if one.train == name}
    bases = [config.data.sets[one] for one in (row.language_model, row.vision_tower)]
    data = [config.data.sets[stage.annotations] for stage in (row.pretrain, row.finetune)]
    facts = ModelCardData(
        base_model=[one.snapshot.repo for one in bases if one.snapshot],
        datasets=[one.snapshot.repo for one in data if one.snapshot and one.snapshot.repo_type == "dataset"] or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=["llava", "safe-llava", "prism"],
        model_name=name,
    )
    parts = [
        f"# {name}",
        row.description,
        "## What it is made of",
        _origins([("language model", bases[0]), ("vision tower", bases[1])], data),
        "This project sets no licence of its own on the weights: those of the base models and of the data hold.",
        *_prism(prism, asked),
        *_benchmarks(benchmarks, asked),
        "## How it was made",
        f"The Safe-LLaVA workflow, version {__version__}, commit {code_commit()}:",
        f"```\nsnakemake {config.results}/train/{name}/model\n```",
    ]
    return str(ModelCard(f"---\n{facts.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"))


def _origins(bases: Sequence[tuple[str, DataSet]], data: Sequence[DataSet]) -> str:
    parts = [*bases, *zip(("annotations of the first stage", "of the second"), data, strict=True)]
    lines = [[part, one.title, one.homepage, one.licence] for part, one in parts]
    return markdown_grid([["Part", "What", "Page", "Licence"], *lines], text_columns=4)


def _prism(path: Path | None, asked: set[str]) -> list[str]:
    """Return the section of PRISM's means, with 95 % intervals; where there are none, that it was not asked."""
    scores = [s for s in read_table(path, Score) if s.model in asked and s.source == "computed"] if path else []
    lines = [
        [
            *(s.edition, s.judge, TASK_TITLES[s.task], attribute_title(s.attribute), RATE_TITLES[s.task]),
            f"{number(s.rate)} {interval(s.ci_low, s.ci_high)}".rstrip(),
            str(s.n),
        ]
        for s in scores
        if s.attribute in (MACRO, SENTENCE)
    ]
    head = ["Edition", "Judge", "Task", "Over", "Rate", "Value, 95 % interval", "Questions"]
    return ["## PRISM", markdown_grid([head, *lines], text_columns=5) if lines else "It was not evaluated on PRISM."]


def _benchmarks(path: Path | None, asked: set[str]) -> list[str]:
    """Return the section of the general benchmarks; an interval is that of a normal mean, by the standard error."""
    scores = [s for s in read_table(path, BenchmarkScore) if s.model in asked] if path else []
    if not scores:
        return []
    lines = []
    for s in scores:
        value = number(s.score, 2)
        if s.score is not None and s.stderr is not None:
            value += f" {interval(s.score - Z * s.stderr, s.score + Z * s.stderr, 2)}"
        lines.append([s.benchmark, s.metric, "" if s.limit is None else f"first {s.limit}", value, str(s.n)])
    head = ["Benchmark", "Metric", "Part", "Value, 95 % interval", "Questions"]
    return ["## General benchmarks", markdown_grid([head, *lines], text_columns=3)]


def main(argv: Sequence[str] | None = None) -> None:
    """Write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, type=Path, metavar="CONFIG.json", help="the resolved configuration")
    parser.add_argument("--model", required=True, help="row of train.models")
    parser.add_argument("--prism", type=Path, metavar="FILE.csv", help="PRISM's scores")
    parser.add_argument("--benchmarks", type=Path, metavar="FILE.csv", help="scores of the general benchmarks")
    parser.add_argument("--out", required=True, type=Path, metavar="README.md")
    options = parser.parse_args(argv)
    config = read_row(options.config, Config, ConfigError)
    write_text(options.out, model_card(config, options.model, options.prism, options.benchmarks))


if __name__ == "__main__":
    cli.run(main)
