"""The store of verdicts: a union of segments that no kill, no second process and no broken line can spoil."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import Attribute, Task
from safe_llava.judges import store as judge_store
from safe_llava.judges.calls import Call, RawReply, Usage
from safe_llava.judges.store import VerdictStore
from safe_llava.judges.store_index import Spent
from safe_llava.prism.prompts.protocol import Finding, PrismReading, make_call

JUDGE = Judge(description="d", kind="openai", model="m", temperature=0)


def call(text: str, task: Task = Task.REFUSAL_SOFT, **changes: Any) -> Call:
    return make_call(JUDGE.model_copy(update=changes), task, text, "ours:1")


def keep(store: VerdictStore, text: str, refused: bool) -> None:
    store.add(
        call(text), RawReply("yes", Usage(7, 2), "stop", "m-1"), Finding(refused=refused), usage=Usage(7, 2), cost=0.5
    )


def segments(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.jsonl") if not path.name.endswith(".failures.jsonl"))


@pytest.mark.parametrize(
    "other",
    [
        {"text": "two"},
        {"task": Task.IMPLICIT_LEAKAGE},
        {"model": "n"},
        {"temperature": None},
        {"base_url": "http://127.0.0.1/v1"},
        {"kind": "gemini"},
        {"max_tokens": 5},
    ],
)
def test_a_call_is_known_by_all_that_its_reply_depends_on(other: dict[str, Any]) -> None:
    assert call("one").key == call("one", timeout_s=3.0, retries=0, description="e").key
    assert call(**{"text": "one", **other}).key != call("one").key
    assert make_call(JUDGE, Task.REFUSAL_SOFT, "one", "ours:2").key != call("one").key


def test_verdicts_are_read_back_with_all_that_was_said(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path, "j", PrismReading())
    half = "half a pair \ud83d, a line's end \n and \u2028"
    store.add(
        call(half, Task.IMPLICIT_LEAKAGE),
        RawReply(half, model="m-1"),
        Finding(leaked=(Attribute.AGE,)),
        usage=Usage(0, 0),
        cost=0.0,
    )
    keep(store, "b", True)
    store.close()
    again = VerdictStore(tmp_path, "j", PrismReading())
    assert len(again) == 2
    found = again.get(call(half, Task.IMPLICIT_LEAKAGE).key)
    assert found is not None
    assert (found.found, found.model) == (Finding(leaked=(Attribute.AGE,)), "m-1")
    assert again.total == Spent(calls=2, prompt_tokens=7, completion_tokens=2, longest=2, cost=0.5)
    assert json.loads(segments(tmp_path)[0].read_text(encoding="utf-8").split("\n")[0])["raw"] == half


def test_a_failure_is_counted_and_is_no_verdict(tmp_path: Path) -> None:
    store = VerdictStore(tmp_path, "j", PrismReading())
    store.fail(call("a"), "the reply cannot be read", reply=RawReply("hm"), usage=Usage(3, 1), cost=0.25)
    store.close()
    again = VerdictStore(tmp_path, "j", PrismReading())
    assert again.get(call("a").key) is None
    assert again.total.cost == 0.25
    assert segments(tmp_path) == []
    assert VerdictStore(tmp_path, "another", PrismReading()).total.cost == 0.0


def test_torn_and_broken_lines_are_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = VerdictStore(tmp_path, "j", PrismReading())
    for text in "abc":
        keep(store, text, True)
    store.close()
    path = segments(tmp_path)[0]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for cut in range(1, len(lines[2])):  # a kill at any byte of the last line
        path.write_bytes(whole[:-cut])
        again = VerdictStore(tmp_path, "j", PrismReading())
        assert (len(again), again.get(call("c").key)) == (2, None)
    path.write_bytes(
        lines[0] + b'\xff\xfe{"key": 1}\n[]\n{"key": "x", "time": "1", "task": "refusal_soft"}\n' + lines[2]
    )
    again = VerdictStore(tmp_path, "j", PrismReading())
    assert len(again) == 2
    assert again.get(call("b").key) is None
    assert "passed over" in caplog.text


def test_of_two_verdicts_the_earlier_counts_in_whatever_order_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = VerdictStore(tmp_path, "j", PrismReading()), VerdictStore(tmp_path, "j", PrismReading())
    keep(first, "a", True)
    keep(second, "a", False)
    for store in (first, second):
        store.refresh()
        assert store.get(call("a").key).found.refused is True  # type: ignore[union-attr]
    for name in ("0", "z"):
        segments(tmp_path)[0].rename(tmp_path / f"{name}.jsonl")
        assert VerdictStore(tmp_path, "j", PrismReading()).get(call("a").key).found.refused is True  # type: ignore[union-attr]


def test_a_line_that_another_process_is_writing_is_read_when_it_is_whole(tmp_path: Path) -> None:
    writer, reader = VerdictStore(tmp_path, "j", PrismReading()), VerdictStore(tmp_path, "j", PrismReading())
    keep(writer, "a", True)
    path = segments(tmp_path)[0]
    keep(writer, "b", True)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    reader.refresh()
    assert (len(reader), reader.total.calls) == (1, 1)
    path.write_bytes(whole)
    reader.refresh()
    reader.refresh()
    assert (len(reader), reader.total.calls) == (2, 2)


def test_processes_that_write_at_once_do_not_touch_each_other(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from safe_llava.judges.store import VerdictStore\n"
        "from safe_llava.judges.calls import *; from safe_llava.prism.prompts.protocol import *\n"
        "store = VerdictStore(Path(sys.argv[1]), 'j', PrismReading())\n"
        "for n in range(400): store.add(Call(f'{sys.argv[2]} {n}', Task.REFUSAL_SOFT, 'x' * 2000, 'm'),"
        " RawReply('y' * 3000), Finding(refused=True), usage=Usage(1, 1), cost=None)\n"
        "store.close()"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(judge_store.__file__).parents[2])}
    processes = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], env=environment) for name in "ab"]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(segments(tmp_path)) == 2
    assert len(VerdictStore(tmp_path, "j", PrismReading())) == 800


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    store = VerdictStore(tmp_path, "j", PrismReading())
    keep(store, "a", True)
    monkeypatch.setattr(os, "write", lambda handle, data: len(data) // 2)
    with pytest.raises(PrismError, match="the disk is full"):
        keep(store, "b", True)
    monkeypatch.undo()
    assert store.get(call("b").key) is None
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[: len(data) // 2]))
    with pytest.raises(PrismError, match="the disk is full"):
        keep(store, "b", True)
    monkeypatch.undo()
    keep(store, "c", True)  # calls that were under way come home, and there is room again
    store.close()
    again = VerdictStore(tmp_path, "j", PrismReading())
    assert [again.get(call(text).key) is not None for text in "abc"] == [True, False, True]


@pytest.mark.parametrize(
    "wrong",
    [{"key": ["k"]}, {"time": 5}, {"usage": 3}, {"usage": [1]}, {"usage": ["a", "b"]}, {"cost": "free"}, {"leaked": 7}],
)
def test_files_of_others_in_the_folder_do_no_harm(tmp_path: Path, wrong: dict[str, Any]) -> None:
    store = VerdictStore(tmp_path, "j", PrismReading())
    keep(store, "a", True)
    store.close()
    row = json.loads(segments(tmp_path)[0].read_bytes()) | {"key": "k", "task": "implicit_leakage", "leaked": []}
    (tmp_path / "other.jsonl").write_text(json.dumps(row | wrong) + "\n" + "[" * 10**5 + "\n", encoding="utf-8")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "notes.txt").write_bytes(b"\xff")
    again = VerdictStore(tmp_path, "j", PrismReading())
    assert (len(again), again.total.calls, again.total.cost) == (1, 1, 0.5)


def test_a_store_that_takes_no_verdicts_is_told_of_before_the_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(PrismError, match="takes no verdicts"):
        VerdictStore(tmp_path / "file" / "store", "j", PrismReading()).prepare()


def test_a_store_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(PrismError, match="file/store"):
        keep(VerdictStore(tmp_path / "file" / "store", "j", PrismReading()), "a", True)


def test_an_index_gives_what_the_segments_hold_and_is_made_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judge_store, "INDEX_FROM", 0)
    first = VerdictStore(tmp_path, "j", PrismReading())
    for text in "abc":
        keep(first, text, text == "b")
    first.note(lambda longest: 0.25)
    first.close()
    made = []
    real = judge_store.StoreIndex.save
    monkeypatch.setattr(judge_store.StoreIndex, "save", lambda index: made.append(1) or real(index))
    for _ in range(3):
        again = VerdictStore(tmp_path, "j", PrismReading())
        found = [again.get(call(text).key) for text in "abc"]
        assert [one.found.refused for one in found if one] == [False, True, False]
        assert (len(again), again.total.calls, again.total.cost) == (3, 3, 1.5)
        assert again.spent_at_most == 1.75, "a call whose end is not known counts"
        again.close()
    assert made == [1]
    more = VerdictStore(tmp_path, "j", PrismReading())
    keep(more, "d", True)
    more.close()
    assert len(VerdictStore(tmp_path, "j", PrismReading())) == 4
    longest = max(segments(tmp_path), key=lambda path: path.stat().st_size)
    longest.write_bytes(b"")  # it does not fit the index any more, which is made anew
    assert len(VerdictStore(tmp_path, "j", PrismReading())) == 1
