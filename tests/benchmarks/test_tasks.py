"""Every configured benchmark through lmms-eval's own code, with models whose scores are computed by hand.

Three models: one that is always right, one that says "A" to everything, and one that says nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.conftest import FakeEngine, configured_rows, right_of, shown_in
from benchmarks.fixtures import Fixture
from safe_llava.benchmarks.lmms.evaluate import EvaluationResult
from safe_llava.config.benchmarks import BenchmarkTask

Score = Callable[..., tuple[EvaluationResult, FakeEngine]]

# For each benchmark, the scores of the three: always right, always "A", nothing. Worked out from the fixtures.
BY_HAND: dict[str, dict[str, tuple[float, float, float]]] = {
    # One of five answers is "A", which VQA's rules, dropping articles, take for nothing: nothing scores 0 for all that.
    "vqav2": {"exact_match": (100, 20, 0)},
    "gqa": {"exact_match": (100, 0, 0)},
    "vizwiz": {"exact_match": (100, 20, 0)},
    # Four questions whose answers are A, B, C, B.
    "scienceqa": {"exact_match": (100, 25, 0)},
    "textvqa": {"exact_match": (100, 20, 0)},
    "textvqa-ocr": {"exact_match": (100, 20, 0)},
    # POPE's rule takes "A" for a yes, as it does whatever holds no "no", and five of twelve are; nothing is nothing.
    "pope": {
        "pope_f1_mean": (100, 100 * (2 / 3 + 2 / 5 + 2 / 3) / 3, 0),
        "pope_accuracy": (100, 100 * 5 / 12, 0),
        "pope_f1_score": (100, 100 * 10 / 17, 0),
    },
    # 200 for each subtask: two of perception, one of cognition.
    "mme": {"mme_perception_score": (400, 0, 0), "mme_cognition_score": (200, 0, 0)},
    # Three questions, A, B, A; the first comes again with its answer under D, and both have to be right.
    "mmbench": {"gpt_eval_score": (100, 100 / 3, 0)},
    "mmbench-static": {"gpt_eval_score": (100, 100 / 3, 0)},
    "mmbench-cn": {"gpt_eval_score": (100, 100 / 3, 0)},
    # Three images, A, C, D, and a video, B.
    "seedbench": {"seed_all": (100, 25, 0), "seed_image": (100, 100 / 3, 0), "seed_video": (100, 0, 0)},
    # The judge gives the reference 8 of 10, and the model 9, 2 or 0.
    "llava-bench": {"gpt_eval_llava_all": (112.5, 25, 0), "gpt_eval_llava_conv": (112.5, 25, 0)},
    # It gives 1.0, 0.1 or 0.0.
    "mmvet": {"gpt_eval_score": (100, 10, 0)},
    # Four questions, A, B, C, B.
    "qbench": {"qbench_acc_named": (100, 25, 0)},
}


@pytest.mark.parametrize("name", BY_HAND)
def test_known_answers_get_the_score_of_the_hand(name: str, scored: Score, fixtures: dict[str, Fixture]) -> None:
    answers = (right_of(fixtures[name]), lambda _: "A", lambda _: "")
    for place, answer in enumerate(answers):
        found, engine = scored(name, answer)
        assert found.judge_failures == []
        for metric, expected in BY_HAND[name].items():
            assert found.metrics[metric]["score"] == pytest.approx(expected[place]), (metric, place)
        assert len(engine.asked) == len(fixtures[name].right)
        assert found.units[configured_rows()[name].metric].score() == pytest.approx(
            found.metrics[configured_rows()[name].metric]["score"], abs=0.06
        )


@pytest.mark.parametrize(("name", "key"), [("vqav2-test", "question_id"), ("vizwiz-test", "image")])
def test_a_submission_is_in_the_form_of_the_server(
    name: str, key: str, scored: Score, fixtures: dict[str, Fixture], tmp_path: Path
) -> None:
    found, _ = scored(name, right_of(fixtures[name]))
    entries = json.loads((tmp_path / "submission.json").read_text(encoding="utf-8"))
    assert found.submitted == len(entries) == 5
    assert found.metrics == {}
    words = {"two dogs": "2 dogs", "A": ""} if key == "image" else {}  # VizWiz is scored on words made alike
    assert [entry["answer"] for entry in entries] == [words.get(word, word) for word in fixtures[name].right]
    assert [entry[key] for entry in entries][:2] == {
        "question_id": [1000, 1001],
        "image": ["VizWiz_test_00000000.jpg", "VizWiz_test_00000001.jpg"],
    }[key]
    assert all(set(entry) == {key, "answer"} for entry in entries)


def test_every_configured_row_is_tried_here(rows: dict[str, BenchmarkTask]) -> None:
    assert set(rows) == {*BY_HAND, "vqav2-test", "vizwiz-test"}


def test_an_answer_drawn_by_lot_is_not_a_named_one(scored: Score) -> None:
    """lmms-eval draws an option where an answer to Q-Bench names none, from a generator with a fixed seed."""
    found, _ = scored("qbench", lambda _: "")
    drawn = random.Random(0)
    right = [
        drawn.choice(letters) == answer for letters, answer in zip(["ABC", "ABC", "ABC", "AB"], "ABCB", strict=True)
    ]
    assert found.metrics["qbench_acc"]["score"] == pytest.approx(100 * sum(right) / 4)
    assert found.metrics["qbench_acc_named"]["score"] == 0.0


def test_a_letter_in_quotes_is_a_named_option(scored: Score) -> None:
    found, _ = scored("qbench", lambda _: "'B'.")
    assert found.metrics["qbench_acc_named"]["score"] == found.metrics["qbench_acc"]["score"] == 50.0


def test_a_video_is_shown_by_its_middle_frame(scored: Score) -> None:
    shown: list[int] = []

    def answer(request: object) -> str:
        shown.append(shown_in(request))
        return "A"

    scored("seedbench", answer)
    assert sorted(shown) == [0, 1, 2, 3]


def test_equal_pictures_of_a_window_are_one_object(scored: Score, fixtures: dict[str, Fixture]) -> None:
    from benchmarks.fixtures import image
    from safe_llava.benchmarks.lmms.plugin import share_images
    from safe_llava.engine.base import Request

    window = share_images([Request(f"{n}", "q", (image(n % 2),), 1) for n in range(4)])
    images = [one.images[0] for one in window if isinstance(one, Request)]
    assert images[0] is images[2]
    assert images[1] is images[3]
    assert images[0] is not images[1]
