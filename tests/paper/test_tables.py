"""Tables: golden ones from small scores, LaTeX that can compile, faults that are named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from safe_llava.config.paper import TableKind
from safe_llava.core.errors import PaperError
from safe_llava.formats.markup import (
    Cell,
    Section,
    Table,
    TableLine,
    count_range,
    latex_escape,
    number,
    probability,
    to_latex,
    to_markdown,
)
from safe_llava.paper.table import TABLES, main


def test_every_kind_has_a_builder() -> None:
    assert set(TABLES) == set(get_args(TableKind))


@pytest.mark.parametrize("kind", get_args(TableKind))
def test_tables_are_the_golden_ones(kind: str, golden: Path, tmp_path: Path) -> None:
    out = {suffix: tmp_path / f"{kind}.{suffix}" for suffix in ("md", "tex")}
    scores = str(golden / f"{kind}.csv")
    main(["--kind", kind, "--scores", scores, "--markdown", str(out["md"]), "--latex", str(out["tex"])])
    for suffix, path in out.items():
        assert path.read_text() == (golden / f"{kind}.{suffix}").read_text(), f"{kind}.{suffix} has changed"


@pytest.mark.parametrize("kind", get_args(TableKind))
def test_latex_is_well_formed(kind: str, golden: Path) -> None:
    text = (golden / f"{kind}.tex").read_text()
    literal = text.replace(r"\{", "").replace(r"\}", "")
    assert literal.count("{") == literal.count("}")
    assert text.isascii()
    for block in text.split(r"\begin{tabular}")[1:]:
        columns = len(block[1 : block.index("}")])
        rows = [line for line in block.split(r"\end{tabular}")[0].splitlines() if line.endswith(r"\\")]
        assert rows
        assert {row.replace(r"\&", "").count("&") for row in rows} == {columns - 1}
    labels = [line for line in text.splitlines() if r"\label" in line]
    assert len(labels) == len(set(labels)) == text.count(r"\begin{table*}")


def test_an_empty_rate_is_a_dash_with_its_failures(golden: Path) -> None:
    line = next(row for row in (golden / "prism.md").read_text().splitlines() if row.startswith("| tiny-safe"))
    assert [cell.strip() for cell in line.split("|")[4:6]] == ["– †10", "– †10"]


def test_a_line_says_how_far_the_published_judge_lies(golden: Path) -> None:
    line = next(row for row in (golden / "prism.md").read_text().splitlines() if "Gemini" in row)
    assert [cell.strip() for cell in line.split("|")[2:4]] == ["rules − Gemini (published)", "−2.5"]


def test_descriptions_that_were_given_have_a_section_of_their_own(golden: Path) -> None:
    section = (golden / "prism.md").read_text().split("in the descriptions that were given (%)")[1]
    line = next(row for row in section.splitlines() if row.startswith("| tiny-safe"))
    assert [cell.strip() for cell in line.split("|")[3:7]] == [
        "64.3 [50.0, 78.6] †2",
        "90.0 [70.0, 100.0] †2",
        "0.0",
        "10",
    ]


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (0.00099, "<0.001"), (0.04449, "0.044"), (1.0, "1.000")])
def test_probability(value: float | None, text: str) -> None:
    assert probability(value) == text


def test_a_model_without_released_answers_is_left_out(golden: Path) -> None:
    assert "Unreleased" not in (golden / "prism_released.md").read_text()


def test_released_needs_both_sources(golden: Path, tmp_path: Path) -> None:
    with pytest.raises(PaperError, match="both a computed and a published"):
        TABLES["prism_released"](golden / "prism.csv")


def test_awkward_names_stay_literal() -> None:
    name = r"a_b|c*{50%}\$^~#&[x]"
    table = Table("t", (Section("s", "S", ("Model", "Judge", "Age"), (TableLine(name, "j", (Cell("1.0"),)),)),), ())
    row = next(line for line in to_markdown(table).splitlines() if "50%" in line)
    assert row.replace("\\|", "").count("|") == 4
    latex = to_latex(table)
    assert r"a\_b\textbar{}c{*}\{50\%\}\textbackslash{}\$\textasciicircum{}\textasciitilde{}\#\&{[}x{]}" in latex
    assert latex_escape("−1 ± 2 –") == r"$-$1 $\pm$ 2 --"


@pytest.mark.parametrize(
    ("value", "signed", "text"),
    [
        (None, False, "–"),
        (72.25, False, "72.3"),
        (-1.25, True, "−1.3"),
        (0.04, True, "0.0"),
        (-0.04, True, "0.0"),
        (3.0, True, "+3.0"),
        (1510.7, False, "1510.7"),
    ],
)
def test_number(value: float | None, signed: bool, text: str) -> None:
    assert number(value, signed=signed) == text


def test_count_range() -> None:
    assert [count_range(counts) for counts in ([50, 49, None], [7, 7], [None])] == ["49–50", "7", "–"]


def test_a_benchmark_has_one_note_and_its_metrics_do_not_repeat_its_name(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.csv"
    metrics = ("pope_f1_mean", "pope_accuracy", "recall")
    rows = [f"{model},pope,{metric},50,1.0,10,0,,,computed,A note." for model in "ab" for metric in metrics]
    path.write_text(
        "\n".join(["model,benchmark,metric,score,stderr,n,n_failed,published,difference,source,note", *rows])
    )
    (section,) = TABLES["benchmarks"](path).sections
    assert section.head[2:] == ("pope\nf1_mean", "pope\naccuracy", "pope\nrecall")
    assert section.remarks == ("pope: A note.",)


@pytest.mark.parametrize("name", ["benchmarks", "benchmarks_paired"])
def test_what_was_asked_in_part_is_said_first(name: str, golden: Path, limited: Callable[[str, int], Path]) -> None:
    assert "questions only" not in "".join(TABLES[name](golden / f"{name}.csv").notes)
    assert TABLES[name](limited(name, 5)).notes[0].startswith("Not whole benchmarks: the first 5 questions only.")


def test_questions_that_one_model_alone_answered_are_marked(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    head, *rows = (golden / "benchmarks_paired.csv").read_text().splitlines()
    path.write_text("\n".join([f"{head},n_unpaired", f"{rows[0]},3", *(f"{row},0" for row in rows[1:])]) + "\n")
    table = TABLES["benchmarks_paired"](path)
    text = to_markdown(table)
    assert "| 12578 †3 |" in text and text.count("†") == 2
    assert table.notes[-1].startswith("†k: k units (questions, or those about one image) that one model alone has")


def test_many_benchmarks_are_split_into_blocks(tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.csv"
    rows = [f"m,b{i},accuracy,{50 + i},1.0,10,0,,,computed" for i in range(9)]
    header = "model,benchmark,metric,score,stderr,n,n_failed,published,difference,source"
    path.write_text("\n".join([header, *rows]) + "\n")
    assert [len(section.head) for section in TABLES["benchmarks"](path).sections] == [2 + 7, 2 + 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",n_failed,", ",failed,"), "no column n_failed"),
        (lambda text: text.splitlines()[0] + "\n", "no rows"),
        (lambda text: "", "no column"),
        (lambda text: text.replace("10,0,1,10.0", "ten,0,1,10.0"), "row 1: n = 'ten'"),
        (lambda text: text.replace(",10.0,", ",nan,", 1), "row 1: rate = 'nan'"),
        (lambda text: text.replace("v1,tiny_original,refusal_soft,Age", "v1,tiny_original,refusal_soft,Hair"), "row 1"),
        (lambda text: text.replace("refusal_soft", "refusal"), "row 1: task = 'refusal'"),
        (lambda text: text + text.splitlines()[-1] + "\n", "two rows for v2 / tiny-safe"),
    ],
)
def test_faults_name_the_file_and_the_place(change: object, message: str, golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(change((golden / "prism.csv").read_text()))  # type: ignore[operator]
    with pytest.raises(PaperError, match=message) as caught:
        main(
            ["--kind", "prism", "--scores", str(path), "--markdown", f"{tmp_path}/o.md", "--latex", f"{tmp_path}/o.tex"]
        )
    assert str(path) in caught.value.message
    assert caught.value.remedy
    assert not (tmp_path / "o.md").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PaperError, match=r"none\.csv: no such file"):
        TABLES["prism"](tmp_path / "none.csv")
