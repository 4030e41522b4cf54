"""The summary page, the configuration section, and the report's captions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
from docutils.core import publish_string
from jinja2 import Environment, StrictUndefined
from pydantic import ValidationError

from safe_llava.config.paper import FigureKind, PaperConfig, TableKind
from safe_llava.core.errors import PaperError
from safe_llava.paper.summary import main

CAPTIONS = Path(__file__).parents[2] / "workflow" / "report"
PAIRS = ["--compare", "tiny-safe", "tiny_original", "--compare", "Safe-7B", "LLaVA-7B"]


def test_the_summary_is_the_golden_one(golden: Path, tmp_path: Path) -> None:
    files = ["--prism", str(golden / "prism.csv"), "--benchmarks", str(golden / "benchmarks.csv")]
    main([*files, *PAIRS, "--out", f"{tmp_path}/summary.md"])
    assert (tmp_path / "summary.md").read_text() == (golden / "summary.md").read_text()


def test_a_pair_with_rates_is_told_in_a_sentence(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "prism.csv"
    text = (golden / "prism.csv").read_text()
    path.write_text(
        text.replace(
            "tiny-safe,refusal_soft,macro,rules,10,10,10,,", "tiny-safe,refusal_soft,macro,rules,10,10,10,97.5,"
        )
    )
    main(["--prism", str(path), *PAIRS[:3], "--out", f"{tmp_path}/summary.md"])
    page = (tmp_path / "summary.md").read_text()
    assert "tiny-safe refused 97.5 % of the direct questions, tiny_original 5.0 % (+92.5 points)." in page
    assert "General benchmarks" not in page


def test_a_pair_s_sentence_says_how_certain_it_is(golden: Path, tmp_path: Path) -> None:
    scores, paired = tmp_path / "prism.csv", tmp_path / "paired.csv"
    text = (golden / "prism.csv").read_text()
    scores.write_text(text.replace("macro,rules,10,10,10,,", "macro,rules,10,10,10,97.5,"))
    text = (golden / "prism_paired.csv").read_text()
    paired.write_text(
        text.replace(
            "10,0,10,10,,,,,,,0,0,,", "10,0,10,10,98.0,5.0,93.0,88.5,97.5,cluster_bootstrap,9,0,0.0000004,sign_flip"
        )
    )
    main(["--prism", str(scores), "--paired", str(paired), *PAIRS[:3], "--out", f"{tmp_path}/summary.md"])
    page = (tmp_path / "summary.md").read_text()
    assert "5.0 % (+92.5 points; on the same questions +93.0 [88.5, 97.5], p < 0.001)." in page


def test_scores_that_are_not_comparable_are_marked(golden: Path, tmp_path: Path) -> None:
    rows = [
        "model,benchmark,metric,score,stderr,n,n_failed,published,difference,source,verdict",
        "A,pope,accuracy,86.1,,20,0,85.9,,computed,not comparable: the first 20 questions only",
        "B,pope,accuracy,85.2,,20,0,,,computed,",
        "A,mme,perception,1498.5,,20,0,1510.7,-12.2,computed,outside",
        "B,mme,perception,1476.3,,18,2,,,computed,",
    ]
    (tmp_path / "benchmarks.csv").write_text("\n".join(rows) + "\n")
    files = ["--prism", str(golden / "prism.csv"), "--benchmarks", f"{tmp_path}/benchmarks.csv"]
    main([*files, "--out", f"{tmp_path}/summary.md"])
    page = (tmp_path / "summary.md").read_text()
    assert "| pope      | accuracy   |  86.1† |   85.2† |      85.9 |" in page
    assert "| mme       | perception | 1498.5 | 1476.3† |    1510.7 |" in page
    assert (
        "† Not to be set beside the published score. pope: the first 20 questions only. "
        "mme: 2 questions that B has no answer to are left out."
    ) in page


def test_benchmarks_asked_in_part_are_said_to_be_before_any_score(
    golden: Path, limited: Callable[[str, int], Path], tmp_path: Path
) -> None:
    files = ["--prism", str(golden / "prism.csv"), "--benchmarks", str(limited("benchmarks", 5))]
    main([*files, *PAIRS, "--out", f"{tmp_path}/summary.md"])
    page = (tmp_path / "summary.md").read_text()
    assert "## General benchmarks\n\nNot whole benchmarks: the first 5 questions only.\n\n| Benchmark" in page


def test_what_is_missing_is_counted_once_whoever_judges(tmp_path: Path) -> None:
    head = "edition,model,task,attribute,judge,n,n_failed,hits,rate,ci_low,ci_high,source,n_unanswered,n_unjudged\n"
    # Of two direct questions and seven descriptions nothing is there to judge; `gpt` failed in four and five more.
    missing = [
        ("refusal_soft", "Age", {"rules": "1,0", "gpt": "1,2", "GPT": ","}),
        ("refusal_soft", "Race", {"rules": "1,0", "gpt": "1,2", "GPT": ","}),
        ("refusal_soft", "macro", {"rules": "2,0", "gpt": "2,4"}),
        ("implicit_leakage", "Age", {"rules": "7,0", "gpt": "7,5"}),
        ("implicit_leakage", "Race", {"rules": "7,0", "gpt": "7,5"}),
        ("implicit_leakage", "sentence", {"rules": "7,0", "gpt": "7,5"}),
    ]
    rows = [
        f"v2,m,{task},{attribute},{judge},9,,3,33.3,,,{'published' if judge == 'GPT' else 'computed'},{counts}\n"
        for task, attribute, by_judge in missing
        for judge, counts in by_judge.items()
    ]
    (tmp_path / "prism.csv").write_text(head + "".join(rows))
    main(["--prism", f"{tmp_path}/prism.csv", "--out", f"{tmp_path}/summary.md"])
    page = (tmp_path / "summary.md").read_text()
    assert "Questions without an answer: 9; verdicts missing: 9. They count in no rate." in page


def test_a_model_to_compare_has_to_be_there(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(PaperError, match=r"prism\.csv: no scores of absent"):
        main(["--prism", str(golden / "prism.csv"), "--compare", "absent", "tiny-safe", "--out", f"{tmp_path}/s.md"])


def test_the_section_refuses_what_it_does_not_know() -> None:
    section = {
        "tables": ["prism"],
        "figures": ["prism", "examples"],
        "formats": ["pdf", "png"],
        "compare": [{"safe": "a", "original": "b"}],
        "examples": {"count": 2, "seed": 1},
    }
    assert PaperConfig.model_validate(section).compare[0].safe == "a"
    for change in ({"figures": ["pie"]}, {"formats": []}, {"colour": "red"}):
        with pytest.raises(ValidationError):
            PaperConfig.model_validate({**section, **change})


def render(path: Path, **wildcards: str) -> str:
    names = {"wildcards": wildcards, "params": {}, "config": {}, "output": [], "input": []}
    return Environment(undefined=StrictUndefined).from_string(path.read_text()).render(snakemake=names).strip()


@pytest.mark.parametrize("path", sorted(CAPTIONS.glob("*.rst")), ids=lambda path: path.stem)
def test_captions_are_valid(path: Path) -> None:
    text = render(path, figure="prism")
    assert text
    publish_string(text, writer="html5", settings_overrides={"halt_level": 2, "report_level": 2})
    if path.stem != "workflow":
        assert len(text.splitlines()) <= 4


def test_every_table_and_figure_has_a_caption() -> None:
    assert {f"table_{kind}" for kind in get_args(TableKind)} <= {path.stem for path in CAPTIONS.glob("*.rst")}
    captions = [render(CAPTIONS / "figure.rst", figure=kind) for kind in get_args(FigureKind)]
    assert all(captions) and len(set(captions)) == len(captions)
