"""Annotation files: what training would refuse is refused by name, what the published files have is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from safe_llava.core.errors import DataError
from safe_llava.formats.annotations import Facts, Turn, read_samples

ASK = {"from": "human", "value": "<image>\nWho is it?"}
SAY = {"from": "gpt", "value": "A person."}


def row(number: int | str, *turns: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": f"id{number}", "image": f"a/{number}.jpg", "conversations": list(turns or (ASK, SAY)), **fields}


def write(path: Path, rows: Any) -> Path:
    path.write_text(json.dumps(rows))
    return path


BAD: list[tuple[Any, str]] = [
    ([1], "not an object"),
    (row(1, id=None), "`id`"),
    (row(1, id=True), "`id`"),
    (row(1, id=""), "`id`"),
    (row(1, image=7), "`image` is not a path"),
    (row(1, image="../a.jpg"), "`image` is '../a.jpg'"),
    (row(1, image="/a.jpg"), "`image` is '/a.jpg'"),
    (row(1, image="a\0.jpg"), "`image` is not a path"),
    (row(1, image="\ud83d.jpg"), "`image` is not a path"),
    (row("\ud83d"), "`id` holds half"),
    (row(1, conversations=[]), "`conversations`"),
    (row(1, conversations={}), "`conversations`"),
    (row(1, ASK, "A person."), "`conversations[1]` is not an object"),  # type: ignore[arg-type]
    (row(1, ASK, {"from": "assistant", "value": "?"}), "`conversations[1].from` is 'assistant'"),
    (row(1, ASK, {"from": "gpt"}), "`conversations[1].value` is not a text"),
    (row(1, ASK, {"from": "gpt", "value": "\ud83d"}), "`conversations[1].value` holds half"),
    (row(1, ASK, SAY, SAY), "`conversations[2].from` is 'gpt', as in the turn before"),
]


@pytest.mark.parametrize(("bad", "words"), BAD)
def test_a_bad_sample_is_named_with_file_number_id_and_key(bad: Any, words: str, tmp_path: Path) -> None:
    path = write(tmp_path / "mix.json", [row(0), bad])
    with pytest.raises(DataError) as caught:
        list(read_samples(path))
    assert caught.value.message.startswith(f"{path}: sample 2")
    assert words in caught.value.message
    assert caught.value.remedy
    if isinstance(bad, dict):
        assert f"(id {bad['id']!r})" in caught.value.message


def test_what_is_unusual_is_no_fault(tmp_path: Path) -> None:
    good = [row(1), row(2, id=7), row(3, SAY), row(4, ASK), row(5, image=None), row(6, model="gpt-4")]
    assert len(list(read_samples(write(tmp_path / "good.json", good)))) == len(good)


@pytest.mark.parametrize("text", ["{}", "[]", "3", "[", '[{"id": 1}'])
def test_a_file_that_is_no_list_of_samples_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mix.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"mix\.json"):
        list(read_samples(path))


def test_one_reader_for_lists_lines_and_a_byte_order_mark(tmp_path: Path) -> None:
    rows = [row(1), row(2)]
    wanted = write(tmp_path / "mix.json", rows)
    for name, text in (
        ("mine.jsonl", "\ufeff" + "\n".join(map(json.dumps, rows)) + "\n\n"),
        ("lines.json", "\n".join(map(json.dumps, rows))),
        ("list.jsonl", json.dumps(rows)),
        ("mark.json", "\ufeff" + json.dumps(rows)),
    ):
        (path := tmp_path / name).write_text(text)
        assert list(read_samples(path)) == list(read_samples(wanted)), name


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"id": 1, "id": 2, "conversations": [%s]}]', "sample 1 (id 2): `id` comes twice"),
        ('[{"id": 1, "conversations": [%s, {"from": "gpt", "value": "a", "value": "b"}]}]', "[1].value` comes twice"),
    ],
)
def test_a_key_that_comes_twice_has_no_value(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mix.json"
    for more in ("", '"\\ud83d"'):  # the other parser
        path.write_text(text % json.dumps(ASK) + more)
        with pytest.raises(DataError) as caught:
            list(read_samples(path))
        assert words in caught.value.message


@pytest.mark.parametrize("coding", ["utf-16", "latin-1"])
def test_a_file_in_another_coding_has_its_reason_on_one_line(coding: str, tmp_path: Path) -> None:
    path = tmp_path / "mix.json"
    path.write_bytes('[{"id": "é"}]'.encode(coding))
    with pytest.raises(DataError, match=r"not JSON: row 1: lexical error: invalid [^\\]*$"):
        list(read_samples(path))


def test_the_remedy_fits_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "mix.json", [row(1, id="")])
    with pytest.raises(DataError) as own:
        list(read_samples(path))
    assert own.value.remedy == "mend the row"
    path.with_name("mix.json.receipt.json").write_text("{}")
    with pytest.raises(DataError) as fetched:
        list(read_samples(path))
    assert "results/data/fetched" in fetched.value.remedy


@pytest.mark.parametrize(
    ("turns", "teaches"),
    [
        ((ASK, SAY), True),
        ((ASK, {"from": "gpt", "value": ""}), False),
        ((SAY, ASK), False),
        ((ASK,), False),
        ((SAY, ASK, SAY), True),
    ],
)
def test_what_teaches(turns: tuple[dict[str, str], ...], teaches: bool, tmp_path: Path) -> None:
    (sample,) = read_samples(write(tmp_path / "mix.json", [row(1, *turns)]))
    assert sample.teaches is teaches


def test_what_is_unusual_is_counted_and_named(tmp_path: Path) -> None:
    rows = [
        row(1),
        row(1, image="b.jpg"),
        row(2, {"from": "human", "value": "Who?"}, {"from": "gpt", "value": " "}, model="gpt-4"),
        row(3, SAY, ASK, image=None),
        row(4, {"from": "human", "value": "<image> <image>"}, {"from": "gpt", "value": "Two.", "weight": 1}),
    ]
    facts = Facts()
    samples = list(read_samples(write(tmp_path / "mix.json", rows), facts))
    assert samples[0] == (1, "id1", "a/1.jpg", (Turn(**_turn(ASK)), Turn(**_turn(SAY))))
    assert samples[3].answers == ["A person."]
    reported = facts.as_json()
    assert reported["counts"] == {
        "samples": 5,
        "samples with an image": 4,
        "samples without an image": 1,
        "questions": 5,
        "answers": 5,
        "empty answers": 1,
        "an image without <image>": 1,
        "<image> without an image": 1,
        "an image with several <image>": 1,
        "conversations that begin with an answer": 1,
        "conversations that end with a question": 1,
        "samples that teach nothing": 1,
        "ids that come again": 1,
        "samples that share their id": 2,
    }
    assert reported["unknown_keys"] == {"model": 1, "conversations.weight": 1}
    assert reported["first"]["empty answers"] == {"sample": 3, "id": "id2"}


def _turn(turn: dict[str, str]) -> dict[str, str]:
    return {"speaker": turn["from"], "text": turn["value"]}
