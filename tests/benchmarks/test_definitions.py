"""POPE, MME, ScienceQA and GQA against scorers written here from the papers' definitions, on the same replies.

POPE (Li et al., 2023): accuracy, precision, recall and F1 of "yes"; as its evaluate.py reads replies, a first sentence
with the word "No", "not" or "no" is a no, and another a yes. MME (Fu et al., 2023): a picture has two
questions; a subtask's score is the accuracy over questions plus the accuracy over pictures with both right, in percent.
ScienceQA (Lu et al., 2022): accuracy over questions of the chosen option. GQA (Hudson and Manning, 2019): accuracy over
questions, the answer being right where it is the answer's words.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.conftest import FakeEngine, shown_in
from benchmarks.fixtures import Fixture
from safe_llava.benchmarks.evaluate import Found
from safe_llava.benchmarks.results import normalise, pope_answer
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core.errors import BenchmarkError

Scores = dict[str, float]


def plain(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign not in string.punctuation).strip()


def pope(docs: list[dict[str, Any]], replies: list[str]) -> Scores:
    def read(reply: str) -> str:
        if reply == "":
            return "none"  # what is not answered is not right, here as in all benchmarks
        sentence, *_ = reply.split(".")
        words = sentence.replace(",", "").split(" ")
        return "no" if any(word in ("No", "not", "no") for word in words) else "yes"

    said = [read(reply) for reply in replies]

    def of(places: list[int]) -> tuple[float, float, float, float]:
        hits = sum(said[n] == docs[n]["answer"] == "yes" for n in places)
        yes = sum(said[n] == "yes" for n in places)
        true = sum(docs[n]["answer"] == "yes" for n in places)
        right = sum(said[n] == docs[n]["answer"] for n in places)
        precision, recall = (hits / yes if yes else 0.0), hits / true
        return right / len(places), precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0

    every = of(list(range(len(docs))))
    kinds = {doc["category"] for doc in docs}
    means = [of([n for n, doc in enumerate(docs) if doc["category"] == kind])[3] for kind in kinds]
    names = ("pope_accuracy", "pope_precision", "pope_recall", "pope_f1_score")
    ratio = {"pope_yes_ratio": said.count("yes") / len(said)}
    return {**dict(zip(names, every, strict=True)), "pope_f1_mean": sum(means) / len(means), **ratio}


def mme(docs: list[dict[str, Any]], replies: list[str]) -> Scores:
    def subtask(name: str) -> float:
        places = [n for n, doc in enumerate(docs) if doc["category"] == name]
        right = {n: plain(replies[n]) == docs[n]["answer"].lower() for n in places}
        pictures = {docs[n]["question_id"] for n in places}
        both = [all(right[n] for n in places if docs[n]["question_id"] == one) for one in pictures]
        return 100 * sum(right.values()) / len(places) + 100 * sum(both) / len(both)

    perception = sum(subtask(name) for name in ("existence", "count"))
    return {"mme_perception_score": perception / 100, "mme_cognition_score": subtask("code_reasoning") / 100}


def scienceqa(docs: list[dict[str, Any]], replies: list[str]) -> Scores:
    right = [reply.strip()[:1] == "ABCDE"[doc["answer"]] for doc, reply in zip(docs, replies, strict=True)]
    return {"exact_match": sum(right) / len(right)}


def gqa(docs: list[dict[str, Any]], replies: list[str]) -> Scores:
    right = [plain(reply) == plain(doc["answer"]) for doc, reply in zip(docs, replies, strict=True)]
    return {"exact_match": sum(right) / len(right)}


REPLIES = {
    "pope": (pope, ["Yes", "No", "Yes.", "No, there is not", "", "It is not. Yes", "There is, yes", "no.", "NO"]),
    "mme": (mme, ["Yes", "No", "yes.", "No."]),
    "scienceqa": (scienceqa, ["A", "B", "C", "A.", "B. iron"]),
    "gqa": (gqa, ["yes", "No", "Chair.", "left", "Right"]),
}


# GQA's pictures take lmms-eval several processes each time: once is enough.
@pytest.mark.parametrize(
    ("name", "seed"), [*((name, 1) for name in REPLIES), *((name, 2) for name in REPLIES if name != "gqa")]
)
def test_scores_are_those_of_the_definition(
    name: str, seed: int, scored: Callable[..., tuple[Found, FakeEngine]], fixtures: dict[str, Fixture]
) -> None:
    scorer, words = REPLIES[name]
    docs = fixtures[name].parts[0].rows
    drawn = random.Random(seed)
    replies = [drawn.choice(words) for _ in docs]
    found, _ = scored(name, lambda request: replies[shown_in(request)])
    expected = scorer(docs, replies)
    assert {metric: found.metrics[metric]["score"] for metric in expected} == pytest.approx(
        {metric: 100 * value for metric, value in expected.items()}
    )


def test_a_score_that_is_no_number_is_refused(rows: dict[str, BenchmarkTask]) -> None:
    task = rows["gqa"]
    samples = [{"doc": {}, "doc_id": n, "exact_match": float(n)} for n in range(2)]

    def raw(value: Any) -> dict[str, Any]:
        return {"results": {"gqa": {"exact_match,none": value}}, "samples": {"gqa": samples}}

    metrics, units = normalise(raw(0.5), task, lambda name, values: values[0])
    assert metrics == {"exact_match": {"score": 50.0, "stderr": 50.0}}
    assert units["exact_match"].names == ("0", "1")
    metrics, units = normalise(raw(0.7), task, lambda name, values: values[0])
    assert metrics["exact_match"]["stderr"] is None, "0.7 is not the mean of the samples"
    assert units == {}
    with pytest.raises(BenchmarkError, match="exact_match is nan"):
        normalise(raw(float("nan")), task, lambda name, values: values[0])
    assert normalise(raw("N/A"), task, lambda name, values: values[0]) == ({}, {}), "no question counts for it"


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ("Yes", "yes"),
        ("Yes.", "yes"),
        ("yes, there is", "yes"),
        ("No, there is not", "no"),
        ("no", "no"),
        ("There is not. Yes", "no"),
        ("There is none", "yes"),
        ("A", "yes"),
        ("", ""),
        (" \n", ""),
    ],
)
def test_replies_to_pope_are_read_by_its_own_rule(reply: str, said: str) -> None:
    assert pope_answer(reply) == said
