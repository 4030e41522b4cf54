"""Figures: whole files, the same bytes twice, and marks where the numbers are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

import safe_llava
from safe_llava.config.paper import FigureKind
from safe_llava.core.errors import PaperError
from safe_llava.paper.figure import main
from safe_llava.paper.figures.benchmarks import benchmark_pairs_figure, benchmarks_figure
from safe_llava.paper.figures.judging import judges_figure, paired_figure
from safe_llava.paper.figures.prism import differences_figure, prism_figure, released_figure
from safe_llava.paper.figures.style import MARKERS, PALETTE, colour, marker, positions
from safe_llava.paper.figures.training import running_mean, training_figure


@pytest.fixture
def arguments(
    golden: Path, answers: list[Path], images: Path, metrics: dict[str, Path], differences: Path
) -> dict[str, list[str]]:
    """The inputs of every kind of figure."""
    files = {kind: ["--input", str(golden / f"{kind}.csv")] for kind in get_args(FigureKind)}
    files["training"] = ["--input", *map(str, metrics.values()), "--labels", *metrics]
    files["examples"] = ["--answers", *map(str, answers), "--images", str(images), "--count", "2", "--seed", "3"]
    files["audit"] = ["--input", str(golden / "audit.csv"), str(differences), "--seed", "3"]
    return files


@pytest.mark.filterwarnings("error::UserWarning")  # a layout that does not fit, a letter that the font has not
@pytest.mark.parametrize("kind", get_args(FigureKind))
def test_files_are_whole_and_repeat_to_the_byte(kind: str, arguments: dict[str, list[str]], tmp_path: Path) -> None:
    made = []
    for run in ("first", "second"):
        pdf, png = tmp_path / run / "figure.pdf", tmp_path / run / "figure.png"
        main(["--kind", kind, *arguments[kind], "--pdf", str(pdf), "--png", str(png)])
        made.append((pdf.read_bytes(), png.read_bytes()))
    assert made[0] == made[1]
    pdf_bytes = made[0][0]
    assert pdf_bytes.startswith(b"%PDF-")
    assert pdf_bytes.rstrip().endswith(b"%%EOF")
    assert b"CreationDate" not in pdf_bytes
    with Image.open(tmp_path / "first" / "figure.png") as image:
        image.load()
        assert image.width > 600
        assert np.asarray(image.convert("L")).std() > 1


def test_another_process_gives_the_same_bytes(arguments: dict[str, list[str]], tmp_path: Path) -> None:
    here = ["--pdf", f"{tmp_path}/here.pdf", "--png", f"{tmp_path}/here.png"]
    main(["--kind", "differences", *arguments["differences"], *here])
    there = ["--pdf", f"{tmp_path}/there.pdf", "--png", f"{tmp_path}/there.png"]
    command = [
        sys.executable,
        "-m",
        "safe_llava.paper.figure",
        "--kind",
        "differences",
        *arguments["differences"],
        *there,
    ]
    scripts = str(Path(safe_llava.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": scripts, "PYTHONHASHSEED": "7", "MPLBACKEND": "agg"}
    subprocess.run(command, check=True, env=environment, timeout=120)
    for suffix in ("pdf", "png"):
        assert (tmp_path / f"here.{suffix}").read_bytes() == (tmp_path / f"there.{suffix}").read_bytes()


def _dots(axes: Axes) -> dict[str, list[float]]:
    """Return the horizontal places of each series' markers."""
    return {
        str(line.get_label()): [float(x) for x in line.get_xdata()]  # type: ignore[union-attr]
        for line in axes.lines
        if line.get_marker() not in ("None", "", None)
    }


def test_dots_lie_at_the_rates_and_an_empty_rate_has_none(golden: Path) -> None:
    figure = prism_figure(golden / "prism.csv")
    soft = figure.axes[0]
    assert _dots(soft) == {"tiny_original": [10.0, 0.0, 5.0], "tiny-safe": [100.0]}
    assert [text.get_text() for text in soft.texts].count("no rate") == 2
    assert [tick.get_text() for tick in soft.get_yticklabels()] == ["Age", "Eye colour", "Macro"]


def test_intervals_lie_at_their_ends(golden: Path) -> None:
    soft = prism_figure(golden / "prism.csv").axes[0]
    spans = {tuple(float(x) for x in line.get_xdata()) for line in soft.lines if line.get_marker() == "None"}  # type: ignore[union-attr]
    assert {(1.79, 40.42), (0.0, 27.75), (72.25, 100.0)} <= spans


def test_released_sets_the_judges_side_by_side(golden: Path) -> None:
    axes = released_figure(golden / "prism_released.csv").axes[0]
    assert _dots(axes) == {"rules": [2.04], "GPT (published)": [4.0], "Gemini (published)": [0.0]}
    # No judge published a macro average, so there is nothing to compare it with.
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["Age", "LLaVA-0_5B"]


def test_a_model_has_one_colour_in_every_figure(golden: Path) -> None:
    order = ["other", "tiny-safe", "Safe-7B", "tiny_original"]
    series = {
        line.get_label(): line.get_markeredgecolor() for line in prism_figure(golden / "prism.csv", order).axes[0].lines
    }
    assert (series["tiny-safe"], series["tiny_original"]) == (colour(1), colour(3))
    bars = {
        tuple(container.patches[0].get_facecolor())
        for container in benchmarks_figure(golden / "benchmarks.csv", order).axes[0].containers
        if hasattr(container, "patches")
    }
    assert to_rgba(colour(2)) in bars
    pairs = paired_figure(golden / "prism_paired.csv", order).axes[0].lines
    assert {line.get_color() for line in pairs if "tiny-safe" in str(line.get_label())} == {colour(1)}


@pytest.mark.parametrize(
    ("name", "draw"), [("benchmarks", benchmarks_figure), ("benchmarks_paired", benchmark_pairs_figure)]
)
def test_what_was_asked_in_part_is_said_beneath(
    name: str, draw: Callable[[Path], Figure], golden: Path, limited: Callable[[str, int], Path]
) -> None:
    assert "questions" not in draw(golden / f"{name}.csv").axes[0].get_xlabel()
    assert "the first 5 questions only" in draw(limited(name, 5)).axes[0].get_xlabel()


def test_more_models_than_colours_are_still_told_apart() -> None:
    looks = {(colour(i), marker(i)) for i in range(len(PALETTE) * len(MARKERS))}
    assert len(looks) == len(PALETTE) * len(MARKERS)
    assert positions(["b", "new", "a"], ["a", "b", "c"]) == {"a": 0, "b": 1, "c": 2, "new": 3}


def test_over_refusal_is_drawn_and_what_was_given_is_left_to_the_table(golden: Path) -> None:
    leakage = prism_figure(golden / "prism.csv").axes[2]
    assert [tick.get_text() for tick in leakage.get_yticklabels()] == ["Age", "Sentence", "Refused"]


def test_paired_differences_lie_where_they_are(golden: Path) -> None:
    soft, leakage = (paired_figure(golden / "prism_paired.csv").axes[place] for place in (0, 3))
    name = "tiny-safe − tiny_original, judge rules"
    assert _dots(soft)[name] == [90.0]
    assert [text.get_text() for text in soft.texts].count("no pairs") == 2
    assert _dots(leakage) == {name: [78.57, 82.14], "tiny-safe − tiny_original, judge gemini": [-3.33]}


def test_kappas_and_distances_have_a_panel_each(golden: Path, tmp_path: Path) -> None:
    kappas, distances = judges_figure(golden / "prism_judges.csv").axes
    assert _dots(kappas) == {"rules, hand labels": [0.9627, 0.9312], "gemini, rules": [0.7917, -1.0]}
    assert [text.get_text() for text in kappas.texts] == ["nothing varies"]
    assert [bar.get_width() for bar in distances.patches] == [0.4, 0.39]
    lines = (golden / "prism_judges.csv").read_text().splitlines()
    path = tmp_path / "hand.csv"
    path.write_text("\n".join(line for line in lines if not line.startswith("published")) + "\n")
    assert [axes.get_title(loc="left") for axes in judges_figure(path).axes] == ["Cohen's kappa"]


def test_differences_are_written_into_the_map(golden: Path) -> None:
    figure = differences_figure(golden / "differences.csv")
    assert [text.get_text() for text in figure.axes[0].texts] == ["−2", "+4", "+100", "–", "+35"]


def test_differences_without_a_number_are_refused(golden: Path, tmp_path: Path) -> None:
    path = tmp_path / "differences.csv"
    lines = (golden / "differences.csv").read_text().splitlines()
    path.write_text("\n".join(lines[:1] + [line for line in lines if line.endswith(",")]) + "\n")
    with pytest.raises(PaperError, match="every difference is empty"):
        differences_figure(path)


def test_scores_beyond_a_hundred_have_their_own_axis(golden: Path) -> None:
    percent, points = benchmarks_figure(golden / "benchmarks.csv").axes
    assert [tick.get_text() for tick in percent.get_yticklabels()] == ["pope accuracy", "mmbench_en score"]
    assert [tick.get_text() for tick in points.get_yticklabels()] == ["mme perception"]
    assert sorted(bar.get_width() for bar in percent.patches) == [85.04, 86.12]
    assert [text.get_text() for text in percent.texts] == ["no score"]


def test_training_puts_pretraining_first(metrics: dict[str, Path]) -> None:
    figure = training_figure(list(metrics.values()), list(metrics))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["Pretrain", "Finetune"]
    raw = figure.axes[0].lines[0]
    assert len(np.asarray(raw.get_xdata())) == 30


@pytest.mark.parametrize("labels", [["tiny/pretrain"], ["tiny", "tiny/finetune"], ["tiny/finetune", "tiny/finetune"]])
def test_labels_have_to_fit_the_files(labels: list[str], metrics: dict[str, Path]) -> None:
    with pytest.raises(PaperError, match="label") as caught:
        training_figure(list(metrics.values()), labels)
    assert "MODEL/STAGE" in caught.value.remedy


def test_running_mean() -> None:
    assert running_mean(np.full(200, 3.0)) == pytest.approx(np.full(200, 3.0))
    ramp = np.arange(200.0)
    assert running_mean(ramp)[100] == pytest.approx(100.0)
    assert running_mean(ramp)[0] == pytest.approx(ramp[:3].mean())
    assert running_mean(np.array([5.0])) == pytest.approx([5.0])


@pytest.mark.parametrize("kind", get_args(FigureKind))
def test_a_kind_without_its_inputs_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(PaperError):
        main(["--kind", kind, "--pdf", f"{tmp_path}/f.pdf", "--png", f"{tmp_path}/f.png"])
    assert not list(tmp_path.iterdir())
