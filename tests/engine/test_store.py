"""Answers kept as they come."""

from __future__ import annotations

from pathlib import Path

from safe_llava.engine.base import Reply, failed
from safe_llava.engine.images import ByteCache
from safe_llava.engine.store import ReplyStore, content_key, folder_digest


def reply(key: str) -> Reply:
    return Reply(key, f"answer {key}\nü", "ok", n_tokens=3, truncated=False, prompt="p")


def test_good_replies_survive_and_failed_ones_do_not(tmp_path: Path) -> None:
    path = tmp_path / "new" / "store.jsonl"
    with ReplyStore(path) as store:
        store.add(reply("a"))
        store.add(failed("b", "no image"))
        assert store["b"].reason == "no image"
    with ReplyStore(path) as store:
        assert "b" not in store
        assert store["a"] == reply("a")


def test_a_line_cut_off_is_dropped_and_written_over(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    with ReplyStore(path) as store:
        store.add(reply("a"))
        store.add(reply("b"))
    path.write_bytes(path.read_bytes()[:-9])
    with ReplyStore(path) as store:
        assert ("a" in store, "b" in store) == (True, False)
        store.add(reply("c"))
    with ReplyStore(path) as store:
        assert (len(store), store["c"]) == (2, reply("c"))


def test_a_line_of_something_else_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "store.jsonl"
    path.write_text('[1]\n{"key": "x"}\nnot json\n', encoding="utf-8")
    with ReplyStore(path) as store:
        assert len(store) == 0
        store.add(reply("a"))
    with ReplyStore(path) as store:
        assert "a" in store


def test_keys_follow_the_content() -> None:
    assert content_key(a=1, b="x") == content_key(b="x", a=1)
    assert content_key(a=1, b="x") != content_key(a=1, b="y")


def test_a_folder_is_its_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_bytes(b"1")
    before = folder_digest(tmp_path)
    (tmp_path / ".hidden").write_bytes(b"2")
    assert folder_digest(tmp_path) == before
    (tmp_path / "sub" / "a").rename(tmp_path / "sub" / "b")
    assert folder_digest(tmp_path) != before


def test_the_cache_holds_what_fits() -> None:
    made: list[str] = []
    cache: ByteCache[bytes] = ByteCache(10, len)

    def value(name: str) -> bytes:
        return cache.get(Path(name), lambda: made.append(name) or b"12345")

    for name in ("a", "b", "a", "c", "a", "b"):
        value(name)
    assert made == ["a", "b", "c", "b"]
