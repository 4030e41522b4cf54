"""POPE, MME, ScienceQA, GQA and SEED-Bench against scorers written here from the papers' definitions.

Both read the same replies.

POPE (Li et al., 2023): accuracy, precision, recall and F1 of "yes"; as its evaluate.py reads replies, a first sentence
with the word "No", "not" or "no" is a no, and another a yes. MME (Fu et al., 2023): an image has two
questions; a subtask's score is the accuracy over questions plus the accuracy over images with both right, in percent;
as its calculation.py reads replies, one in small letters is "yes" or "no", or begins with either in four characters.
ScienceQA (Lu et al., 2022): accuracy over questions of the chosen option, found as LLaVA's eval_science_qa.py finds it:
a letter, a letter with a full stop and a space behind it, or the only "The answer is X.". GQA (Hudson and Manning,
2019): accuracy over questions, a reply being right where it is the answer, as LLaVA's convert_gqa_for_eval.py hands it
to the official eval.py: without full stops at its end, in small letters. SEED-Bench (Li et al., 2023): accuracy over
questions, a reply being right where it is the option's letter alone, as LLaVA's convert_seed_for_submission.py has it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.conftest import FakeEngine, shown_in
from benchmarks.fixtures import Fixture
from safe_llava.benchmarks.lmms.evaluate import EvaluationResult
from safe_llava.benchmarks.lmms.results import normalise_results
from safe_llava.benchmarks.scoring.official import ANSWER_RULES, is_right, pope_answer
from safe_llava.config.benchmarks import BenchmarkTask
from safe_llava.core.errors import BenchmarkError

Doc = dict[str, Any]
Scores = dict[str, float]
OPTIONS = ["A", "B", "C", "D", "E"]


def pope(docs: list[Doc], replies: list[str]) -> Scores:
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


def right_of_mme(doc: Doc, reply: str) -> bool:
    said = reply.lower()
    if said not in ("yes", "no"):
        said = "yes" if "yes" in said[:4] else "no" if "no" in said[:4] else "other"
    return said == str(doc["answer"]).lower()


def mme(docs: list[Doc], replies: list[str]) -> Scores:
    def subtask(name: str) -> float:
        places = [n for n, doc in enumerate(docs) if doc["category"] == name]
        right = {n: right_of_mme(docs[n], replies[n]) for n in places}
        images = {docs[n]["question_id"] for n in places}
        both = [all(right[n] for n in places if docs[n]["question_id"] == one) for one in images]
        return 100 * sum(right.values()) / len(places) + 100 * sum(both) / len(both)

    perception = sum(subtask(name) for name in ("existence", "count"))
    return {"mme_perception_score": perception / 100, "mme_cognition_score": subtask("code_reasoning") / 100}


def right_of_scienceqa(doc: Doc, reply: str) -> bool:
    if reply in OPTIONS:
        letter = reply
    elif len(reply) >= 3 and reply[0] in OPTIONS and reply[1:3] == ". ":
        letter = reply[0]
    else:
        stated = re.findall(r"The answer is ([A-Z]).", reply)
        letter = stated[0] if len(stated) == 1 else "none"
    shown = OPTIONS[: len(doc["choices"])]
    return letter in shown and shown.index(letter) == doc["answer"]


def right_of_gqa(doc: Doc, reply: str) -> bool:
    return reply.rstrip(".").lower() == doc["answer"]


def right_of_seedbench(doc: Doc, reply: str) -> bool:
    return reply == doc["answer"]


def seedbench(docs: list[Doc], replies: list[str]) -> Scores:
    right = [(doc["data_type"], right_of_seedbench(doc, reply)) for doc, reply in zip(docs, replies, strict=True)]
    of = {name: [hit for kind, hit in right if name in ("all", kind)] for name in ("all", "image", "video")}
    return {f"seed_{name}": sum(hits) / len(hits) for name, hits in of.items()}


def exact(right: Callable[[Doc, str], bool]) -> Callable[[list[Doc], list[str]], Scores]:
    return lambda docs, replies: {"exact_match": sum(map(right, docs, replies)) / len(docs)}


SCORERS: dict[str, Callable[[list[Doc], list[str]], Scores]] = {
    "pope": pope,
    "mme": mme,
    "scienceqa": exact(right_of_scienceqa),
    "gqa": exact(right_of_gqa),
    "seedbench": seedbench,
}
REPLIES = {
    "pope": ["Yes", "No", "Yes.", "No, there is not", "", "It is not. Yes", "There is, yes", "no.", "NO"],
    "mme": ["Yes", "No", "yes.", "No.", "Yes, it is", "Not yes", "I say yes", "Nobody", "A. yes", "", "YES", "Maybe"],
    "scienceqa": [
        *["A", "B", "C", "E", "", "A. ice", "B. iron", "Apple", "(B)", "A) ice", "B iron", "the answer is B."],
        *["The answer is B", "The answer is A. The answer is B."],
    ],
    "gqa": ["yes", "No", "Chair.", "left", "Right", "yes, it is", "a chair", "", "yes ."],
    "seedbench": ["A", "B", "C", "D", "", "no idea", "(B)"],
}
# On these lmms-eval's own rule says otherwise.
READ_OTHERWISE = {
    "mme": ["y", "N", "1. no", "n.o."],
    "scienceqa": ["a", "b", "A.", "B.iron", "B.\niron", "The answer is A.", "It is so. The answer is B, by far"],
    "gqa": ["chair!", '"Left"', "yes,", "-no", "No.!"],
    "seedbench": ["Cannot tell", "a", "B.", "D. a dog"],
}


# GQA's images take lmms-eval several processes each time: once is enough.
@pytest.mark.parametrize(
    ("name", "seed"), [*((name, 1) for name in REPLIES), *((name, 2) for name in REPLIES if name != "gqa")]
)
def test_scores_are_those_of_the_definition(
    name: str, seed: int, scored: Callable[..., tuple[EvaluationResult, FakeEngine]], fixtures: dict[str, Fixture]
) -> None:
    docs = fixtures[name].parts[0].rows
    drawn = random.Random(seed)
    replies = [drawn.choice(REPLIES[name] + READ_OTHERWISE.get(name, [])) for _ in docs]
    found, _ = scored(name, lambda request: replies[shown_in(request)])
    expected = SCORERS[name](docs, replies)
    assert {metric: found.metrics[metric]["score"] for metric in expected} == pytest.approx(
        {metric: 100 * value for metric, value in expected.items()}
    )


RIGHT = {"mme": right_of_mme, "scienceqa": right_of_scienceqa, "gqa": right_of_gqa, "seedbench": right_of_seedbench}


def test_every_benchmark_with_a_rule_of_its_own_is_tried_here(rows: dict[str, BenchmarkTask]) -> None:
    assert {name for name, task in rows.items() if task.lmms_task in ANSWER_RULES} == set(RIGHT)


@pytest.mark.parametrize("name", RIGHT)
def test_replies_are_read_by_the_official_rule_where_lmms_eval_differs(
    name: str, fixtures: dict[str, Fixture], rows: dict[str, BenchmarkTask]
) -> None:
    differ = []
    for reply in REPLIES[name] + READ_OTHERWISE[name]:
        for doc in fixtures[name].parts[0].rows:
            right = RIGHT[name](doc, reply)
            target = OPTIONS[doc["answer"]] if name == "scienceqa" else doc["answer"]
            sample = {"filtered_resps": [f" {reply}\n"], "target": target}
            assert is_right(sample, rows[name].lmms_task) == right, (reply, target)
            differ += [reply] if right != right_for_lmms_eval(name, doc, reply) else []
    assert list(dict.fromkeys(differ)) == READ_OTHERWISE[name]


def right_for_lmms_eval(name: str, doc: Doc, reply: str) -> bool:
    from lmms_eval.api.metrics import exact_match_hf_evaluate
    from lmms_eval.tasks.mme.utils import mme_process_results
    from lmms_eval.tasks.scienceqa.utils import sqa_process_results
    from lmms_eval.tasks.seedbench.utils import seed_process_result

    if name == "mme":
        return any(one["score"] == 1.0 for one in mme_process_results(doc, [reply]).values())
    if name == "scienceqa":
        return bool(sqa_process_results(doc, [reply])["exact_match"])
    if name == "seedbench":
        found = seed_process_result(doc, [reply])["seed_all"]
        return bool(found["pred"].lower() == found["answer"].lower())
    ignored = {"ignore_case": True, "ignore_punctuation": True}
    return bool(exact_match_hf_evaluate([reply], [doc["answer"]], **ignored)["exact_match"])


def test_a_score_that_is_no_number_is_refused(rows: dict[str, BenchmarkTask]) -> None:
    task = rows["textvqa"]
    samples = [{"doc": {}, "doc_id": n, "exact_match": float(n)} for n in range(2)]

    def raw(value: Any) -> dict[str, Any]:
        return {"results": {"textvqa_val": {"exact_match,none": value}}, "samples": {"textvqa_val": samples}}

    metrics, units = normalise_results(raw(0.5), task, lambda name, values: values[0])
    assert metrics == {"exact_match": {"score": 50.0, "stderr": 50.0}}
    assert units["exact_match"].names == ("0", "1")
    metrics, units = normalise_results(raw(0.7), task, lambda name, values: values[0])
    assert metrics["exact_match"]["stderr"] is None, "0.7 is not the mean of the samples"
    assert units == {}
    with pytest.raises(BenchmarkError, match="exact_match is nan"):
        normalise_results(raw(float("nan")), task, lambda name, values: values[0])
    assert normalise_results(raw("N/A"), task, lambda name, values: values[0]) == ({}, {}), "no question counts for it"


@pytest.mark.parametrize(("score", "known"), [(65.4, True), (65.36, True), (65.5, False), (69.2, False), (61.6, False)])
def test_units_that_do_not_give_a_score_again_are_not_those_of_it(
    score: float, known: bool, rows: dict[str, BenchmarkTask]
) -> None:
    """The judge's marks come to 65.41; lmms-eval rounds that to a tenth."""
    task = rows["llava-bench"]
    marks = [{"scores": [9.0, 6.0]}, {"scores": [8.0, 5.12]}]
    samples = [{"doc": {}, "doc_id": n, "gpt_eval_llava_all": mark} for n, mark in enumerate(marks)]
    raw = {
        "results": {task.lmms_task: {"gpt_eval_llava_all,none": score}},
        "samples": {task.lmms_task: samples},
    }
    metrics, units = normalise_results(raw, task, lambda name, values: values[0])
    assert metrics["gpt_eval_llava_all"]["score"] == score
    assert (metrics["gpt_eval_llava_all"]["stderr"] is not None) == ("gpt_eval_llava_all" in units) == known


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
