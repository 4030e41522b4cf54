"""Replies read by the rules of the benchmarks' own scripts, where lmms-eval reads some replies otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

POPE_NO = {"No", "not", "no"}
LETTERS = "ABCDE"  # as many as a question of ScienceQA has choices
STATED = re.compile(r"The answer is ([A-Z])[^\n]")


def pope_answer(reply: str) -> str:
    """Return what a reply to POPE says: "yes", "no", or nothing where it is empty.

    The rule is that of POPE's evaluate.py (LLaVA's eval_pope.py has the same): what stands before the first full stop
    says no where "No", "not" or "no" is one of its words, and yes otherwise. lmms-eval takes nothing but the two words.
    """
    if not reply.strip():
        return ""
    words = reply.strip().split(".")[0].replace(",", "").split(" ")
    return "yes" if POPE_NO.isdisjoint(words) else "no"


def mme_answer(reply: str) -> str:
    """Return what a reply to MME says: "yes", "no", or "other", which is never right.

    The rule is that of MME's calculation.py: in small letters, the first four characters hold "yes" or else "no".
    lmms-eval drops full stops first, and takes "y" and "n" for the words.
    """
    start = reply.strip().lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")


def scienceqa_answer(reply: str) -> str:
    """Return the letter that a reply to ScienceQA names, or nothing.

    The rule is that of LLaVA's eval_science_qa.py: the letter alone, or with ". " behind it at the start, or once as
    "The answer is X" with another character behind it. lmms-eval takes a small letter and "A.x", and no sentence.
    """
    text = reply.strip()
    if text and text[0] in LETTERS and text[1:3] in ("", ". "):
        return text[0]
    stated = STATED.findall(text)
    return stated[0] if len(stated) == 1 else ""


def gqa_answer(reply: str) -> str:
    """Return the words of a reply to GQA, which have to be the answer's.

    The rule is that of LLaVA's convert_gqa_for_eval.py before GQA's eval.py: small letters, full stops at the end
    dropped. lmms-eval drops all punctuation of both.
    """
    return reply.strip().rstrip(".").lower()


def seedbench_answer(reply: str) -> str:
    """Return a reply to SEED-Bench: right is the letter alone.

    The rule is that of LLaVA's convert_seed_for_submission.py. lmms-eval takes the first character of any reply.
    """
    return reply.strip()


# By the name of lmms-eval's task: what a reply says, and what it says where it is right, from the task's target.
ANSWER_RULES: dict[str, tuple[Callable[[str], str], Callable[[str], str]]] = {
    "mme": (mme_answer, str.lower),
    "scienceqa": (scienceqa_answer, str),
    "scienceqa_img": (scienceqa_answer, str),
    "gqa": (gqa_answer, str),
    "seedbench": (seedbench_answer, str),
}
# Its metrics, where they are not the exact match alone.
RULED = {"seedbench": ("seed_all", "seed_image", "seed_video")}


def is_right(sample: Mapping[str, Any], lmms_task: str) -> bool:
    """Return whether a sample's reply is right by the rule of its benchmark, one of ``RULES``."""
    said, true = ANSWER_RULES[lmms_task]
    return said(str(sample["filtered_resps"][0])) == true(str(sample["target"]))
