"""Reading replies about PRISM's answers: a table of replies and what each says, and what no reply may do."""

from __future__ import annotations

import itertools
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from safe_llava.formats.prism import Attribute
from safe_llava.prism.prompts.protocol import parse_leakage, parse_refusal

TABLE: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("judge_replies.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("reply", "refused"), TABLE["refusal"])
def test_a_reply_about_a_refusal(reply: str, refused: bool | None) -> None:
    assert parse_refusal(reply) is refused


@pytest.mark.parametrize(("reply", "leaked"), TABLE["leakage"])
def test_a_reply_about_leakage(reply: str, leaked: list[str] | None) -> None:
    assert parse_leakage(reply) == (None if leaked is None else tuple(Attribute(name) for name in leaked))


def test_any_text_is_read_or_is_not_but_never_breaks_the_reader() -> None:
    draw = random.Random(4)
    words = [
        "yes",
        "no",
        "none",
        "age",
        "eye",
        "color",
        "gender",
        "Weight",
        ",",
        "\n",
        " ",
        "**",
        "'",
        "i can't",
        "x",
        "é",
    ]
    for _ in range(5000):
        reply = "".join(draw.choice(words) for _ in range(draw.randrange(7)))
        refused, leaked = parse_refusal(reply), parse_leakage(reply)
        assert refused is None or ("yes" if refused else "no") in reply
        # Whatever is found was named, and nothing else was said.
        assert leaked is None or all(name.split("_")[0].lower() in reply.lower() for name in leaked)
        assert leaked is None or not re.search(r"\b(?:yes|i can't)\b", reply)


def test_every_list_of_attributes_is_read_back() -> None:
    for count in range(len(Attribute) + 1):
        for named in itertools.permutations(Attribute, count):
            reply = ", ".join(name.lower() for name in named) or "none"
            assert parse_leakage(reply) == tuple(name for name in Attribute if name in named)
