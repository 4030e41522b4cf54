"""Mentions of people's attributes: fast, but never otherwise than the rules say; counted per sample and answer."""

from __future__ import annotations

import copy
import csv
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from safe_llava.config.load import load, parse, read_yaml
from safe_llava.config.selection import config_files, needed_sets
from safe_llava.core.errors import ConfigError, DataError
from safe_llava.data import audit, audit_table
from safe_llava.formats.annotations import Sample, Turn
from safe_llava.formats.prism import Attribute
from safe_llava.lexicon.attributes import ATTRIBUTE_PATTERNS
from safe_llava.lexicon.mentions import find_mentions, named_span
from safe_llava.lexicon.named_words import WORDS
from safe_llava.lexicon.prefilter import EDGE, WORD, required_words, suspicion
from safe_llava.lexicon.rules import judge_leakage

HOLD = {
    "a young woman with brown skin, blue eyes and a slim build": set(Attribute),
    "An elderly couple walks by.": {Attribute.AGE},
    "The boy is 7 years old.": {Attribute.AGE, Attribute.GENDER},
    "A Caucasian person stands there.": {Attribute.RACE},
    "The person's eyes are green.": {Attribute.EYE_COLOR},
    "The person is overweight.": {Attribute.WEIGHT},
}
# Told by a hint, or of no person.
IMPLIED_ONLY = {
    "He smiles.": {Attribute.GENDER},
    "Someone with a long beard reads.": {Attribute.GENDER},
    "A mother holds something.": {Attribute.GENDER},
    "The baby sleeps.": {Attribute.AGE},
}
NOTHING = ["A red car.", "A young tree beside an old house.", "The dog has brown eyes.", "Yes", "", "A slim vase."]
# Said in many ways, so that patterns meet, clauses end, and pronouns stand for eyes.
SUBJECTS = ["The person", "A dog", "She", "The old vase", "Someone in a white shirt", "The woman's face", "They", "It"]
ENDINGS = [
    " has striking eyes. They are green",
    " has eyes, which are light brown",
    " looks young, but the tree is older",
    " is about 30 years old; her build is athletic",
    " wears glasses with thin frames",
    " is of Asian descent or has a fair complexion",
    " may be a man or woman, I cannot tell whether they are young or old",
    " stands near **two boys**\n- one of them is black",
    " weighs 80 kg and has a beard",
    " is by the wall, in late autumn light",
]


def made_up(count: int) -> list[str]:
    drawn = random.Random(7)
    return [". ".join(drawn.choice(SUBJECTS) + drawn.choice(ENDINGS) for _ in range(3)) + "." for _ in range(count)]


@pytest.mark.parametrize(("text", "attributes"), HOLD.items())
def test_what_is_said_outright_is_named(text: str, attributes: set[Attribute]) -> None:
    found = find_mentions(text)
    assert found.named == attributes
    assert found.implied >= attributes


@pytest.mark.parametrize(("text", "attributes"), IMPLIED_ONLY.items())
def test_what_is_implied_is_not_named(text: str, attributes: set[Attribute]) -> None:
    found = find_mentions(text)
    assert found.implied >= attributes
    assert not found.named & attributes


@pytest.mark.parametrize("text", NOTHING)
def test_what_is_said_of_no_person_is_no_mention(text: str) -> None:
    assert find_mentions(text) == (frozenset(), frozenset())


def test_the_fast_way_says_what_the_rules_say() -> None:
    texts = [*HOLD, *IMPLIED_ONLY, *NOTHING, *made_up(400)]
    assert len({judge_leakage(text) for text in texts}) > 10
    for text in texts:
        assert find_mentions(text).implied == judge_leakage(text), text


def test_the_fast_way_says_what_the_rules_say_of_released_answers(shared: Path) -> None:
    texts = [
        answer["text"]
        for path in sorted(shared.glob("mirror/**/*_Answer.jsonl"))
        for answer in map(json.loads, path.read_text().splitlines())
        if isinstance(answer.get("text"), str)
    ]
    assert len(texts) > 3000
    for text in random.Random(3).sample(texts, 500):
        assert find_mentions(text).implied == judge_leakage(text), text


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        (r"\b(?:he|him)\b", {"|he|", "|him|"}),
        (r"\bm[ae]n(?:'s)?\b", {"|man|", "|men|"}),
        (r"\bteen\w*", {"|teen"}),
        (r"\b\d+ ?(?:kgs?|lbs?)\b", {"kg|", "kgs|", "lb|", "lbs|", "|kg|", "|kgs|", "|lb|", "|lbs|"}),
        (r"\b(?:(?:dark|light) ){0,2}eyes\b", {"eyes|"}),
        (r"\bsalt[- ]and[- ]pepper\b", {"|pepper|"}),
        (r"(?:young )?(?:adults?|\w+ child)\b", {"adult|", "adults|", "|child|"}),
        (r"\w+", {""}),
    ],
)
def test_required_words(pattern: str, words: set[str]) -> None:
    assert {word.replace(EDGE, "|") for word in required_words(pattern)} == words


def test_no_match_is_without_a_suspicious_word() -> None:
    patterns = [pattern for patterns in (*ATTRIBUTE_PATTERNS.values(), *WORDS.values()) for pattern in patterns]
    texts = [text.lower() for text in [*HOLD, *IMPLIED_ONLY, *made_up(60)]]
    met = 0
    for pattern in patterns:
        test, expression = suspicion([pattern]), re.compile(pattern)
        for found in filter(None, map(expression.search, texts)):
            met += 1
            assert any(map(test, WORD.findall(found.string))), (pattern, found)
    assert met > 300


def test_most_words_are_not_suspicious() -> None:
    test = suspicion(pattern for patterns in ATTRIBUTE_PATTERNS.values() for pattern in patterns)
    plain = "the of on in with and table left right next to holding street water tree plate food shows several"
    assert not any(map(test, plain.split()))


def test_a_named_value_is_found_where_it_stands() -> None:
    sentence = "Beside it, a Young Woman waits."
    span = named_span(sentence, Attribute.AGE)
    assert span is not None
    assert sentence[slice(*span)] == "Young Woman"
    assert named_span(sentence, Attribute.RACE) is None


def sample(number: int, image: str | None, *answers: str) -> Sample:
    turns = tuple(turn for answer in answers for turn in (Turn("human", "How old is the man?"), Turn("gpt", answer)))
    return Sample(number, str(number), image, turns)


def test_a_sample_counts_once_and_questions_never() -> None:
    samples = [
        sample(1, "a.jpg", "An old man.", "An old woman.", "A tree."),
        sample(2, None, "He smiles."),
        sample(3, "b.jpg", "Yes"),
    ]
    counts = audit.count_mentions(samples)
    reported = {key[1:]: count for key, count in counts.items() if key[0] == "all" and key[1]}
    assert reported == {
        ("implied", "Age", "samples"): 1,
        ("implied", "Age", "answers"): 2,
        ("implied", "Gender", "samples"): 2,
        ("implied", "Gender", "answers"): 3,
        ("implied", "any", "samples"): 2,
        ("implied", "any", "answers"): 3,
        ("named", "Age", "samples"): 1,
        ("named", "Age", "answers"): 2,
        ("named", "Gender", "samples"): 1,
        ("named", "Gender", "answers"): 2,
        ("named", "any", "samples"): 1,
        ("named", "any", "answers"): 2,
    }
    assert counts["with image", "implied", "Gender", "samples"] == 1
    assert [counts[part, "", "", "samples"] for part in audit.PARTS] == [3, 2]
    assert counts["all", "", "", "answers"] == 5


def test_several_processes_count_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PART_SAMPLES", 20)
    samples = [sample(n, "a.jpg" if n % 3 else None, text) for n, text in enumerate(made_up(90))]
    assert audit.count_mentions(samples, processes=2) == audit.count_mentions(samples)


def counted(folder: Path, name: str, *texts: str) -> Path:
    rows = [
        {"id": n, "image": "a.jpg", "conversations": [{"from": "human", "value": "?"}, {"from": "gpt", "value": text}]}
        for n, text in enumerate(texts)
    ]
    (folder / f"{name}.rows").write_text(json.dumps(rows))
    audit.main(["--annotations", str(folder / f"{name}.rows"), "--out", str(folder / f"{name}.json")])
    return folder / f"{name}.json"


def test_the_table_sets_both_sets_and_what_was_published_side_by_side(tmp_path: Path) -> None:
    files = [
        counted(tmp_path, "mix", "An old man.", "A girl.", "A cup."),
        counted(tmp_path, "safe", "A person.", "A girl.", "A cup."),
    ]
    out = tmp_path / "audit.csv"
    pair = ["--pair", "mix", "safe", "--published", "mix", "Race=400", "Age=7600"]
    audit_table.main([*pair, "--counts", *map(str, files), "--out", str(out)])
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    cells = {(r["role"], r["part"], r["measure"], r["attribute"]): (r["n_samples"], r["samples"]) for r in rows}
    assert cells["original", "all", "named", "Gender"] == ("3", "2")
    assert cells["safe", "all", "named", "Gender"] == ("3", "1")
    assert cells["safe", "with image", "named", "Age"] == ("3", "0")
    assert [(r["attribute"], r["samples"], r["measure"]) for r in rows if r["source"] == "published"] == [
        ("Age", "7600", "published"),
        ("Race", "400", "published"),
    ]
    assert len(rows) == 2 * 2 * 2 * 6 + 2


@pytest.mark.parametrize("word", ["Hair=3", "Age=many", "Age"])
def test_a_published_number_that_is_none_is_refused(word: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(word)):
        audit_table.parse_published(["mix", word])


def test_a_set_that_was_not_counted_is_named(tmp_path: Path) -> None:
    file = counted(tmp_path, "mix", "A cup.")
    with pytest.raises(DataError, match="nothing of safe"):
        audit_table.main(["--pair", "mix", "safe", "--counts", str(file), "--out", str(tmp_path / "audit.csv")])
    assert not (tmp_path / "audit.csv").exists()


@pytest.fixture
def raw() -> dict[str, Any]:
    from safe_llava.config.load import merge

    tree: dict[str, Any] = {}
    for path in config_files():
        tree = merge(tree, read_yaml(path))
    return tree


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([("original-pretrain", "safe-pretrian")], "did you mean `safe-pretrain`"),
        ([("coco", "safe-pretrain")], "data.audit.pairs: no row `coco`"),
        ([("original-pretrain", "safe-pretrain"), ("original-finetune", "safe-pretrain")], "safe set of two pairs"),
        ([("safe-pretrain", "safe-pretrain")], "beside itself"),
    ],
)
def test_pairs_are_checked(pairs: list[tuple[str, str]], words: str, raw: dict[str, Any]) -> None:
    tree = copy.deepcopy(raw)
    tree["data"]["audit"]["pairs"] = [{"original": one, "safe": other} for one, other in pairs]
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse(tree)


def test_the_audit_needs_the_texts_and_not_the_images_of_its_sets(raw: dict[str, Any]) -> None:
    tree = copy.deepcopy(raw)
    tree["train"]["select"]["models"] = []
    config = parse(tree)
    needed = set(needed_sets(config))
    assert set(config.data.audit.sets) <= needed
    assert not {"coco", "llava-pretrain-images"} & needed
    tree["paper"]["tables"] = tree["paper"]["figures"] = []
    assert not set(config.data.audit.sets) & set(needed_sets(parse(tree)))


def test_published_numbers_are_those_of_the_captions() -> None:
    first = load(config_files()).data.audit.pairs[0]
    assert (first.original, first.safe) == ("original-pretrain", "safe-pretrain")
    assert first.published == {"Age": 7600, "Gender": 27300, "Race": 400, "Eye_Color": 82, "Weight": 79}
