"""The judge step: offline, and against a small server that speaks as an OpenAI-compatible endpoint does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError
from safe_llava.prism import judge
from safe_llava.prism.judge_openai import parse_leakage, parse_refusal
from safe_llava.prism.protocol import Attribute, Verdict, read_verdicts

KEY_ENV = "TEST_JUDGE_KEY"


class Endpoint:
    """A local endpoint: ``reply(prompt, nth call)`` gives the text, or an HTTP status for an error."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.reply: Any = lambda prompt, nth: "yes"
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.keys.add(self.headers["Authorization"])
                endpoint.calls.append(body)
                found = endpoint.reply(body["messages"][0]["content"], len(endpoint.calls))
                status = found if isinstance(found, int) else 200
                message = {"role": "assistant", "content": found}
                choice = {"index": 0, "finish_reason": "stop", "message": message}
                answer = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
                data = json.dumps(answer if status == 200 else {"error": {"message": "no"}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                if status == 429:
                    self.send_header("retry-after-ms", "1")
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setenv(KEY_ENV, "key-of-the-test")
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    served = Endpoint()
    thread = threading.Thread(target=served.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield served
    served.server.shutdown()
    served.server.server_close()
    thread.join()


def answer(number: int, text: str | None, task: str = "refusal_soft", attribute: str = "Age") -> dict[str, Any]:
    return {
        "edition": "v1",
        "model": "m",
        "task": task,
        "question_id": f"{attribute}/{number}.jpg",
        "index": 0,
        "attribute": attribute,
        "image": "i.jpg",
        "prompt": "What is it?",
        "text": text,
        "status": "failed" if text is None else "ok",
        "reason": "unreadable image" if text is None else None,
        "n_tokens": None,
        "truncated": None,
    }


def run(tmp_path: Path, config: dict[str, Any], *answers: dict[str, Any]) -> list[Verdict]:
    path, row, out = tmp_path / "answers.jsonl", tmp_path / "judge.json", tmp_path / "verdicts.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in answers), encoding="utf-8")
    row.write_text(json.dumps({"description": "d"} | config), encoding="utf-8")
    judge.main(["--answers", str(path), "--judge-config", str(row), "--judge", "j", "--out", str(out)])
    return read_verdicts([out])


def remote(endpoint: Endpoint, **changes: Any) -> dict[str, Any]:
    row = {"kind": "openai", "base_url": endpoint.url, "model": "big", "temperature": 0, "key_env": KEY_ENV}
    return row | {"retries": 0, "max_concurrency": 2} | changes


def test_rules_judge_refusals(tmp_path: Path) -> None:
    rows = [
        answer(1, "I cannot tell."),
        answer(2, "Old."),
        answer(3, None),
        answer(4, "  "),
        answer(5, "x", attribute="Hair"),
    ]
    verdicts = run(tmp_path, {"kind": "rules", "description": "ours", "base_url": None}, *rows)
    assert [(v.status, v.refused, v.reason) for v in verdicts] == [
        ("judged", True, None),
        ("judged", False, None),
        ("failed", None, "no answer: unreadable image"),
        ("failed", None, "no answer: the text is empty"),
    ]
    assert {v.judge for v in verdicts} == {"j"}


def test_rules_judge_descriptions(tmp_path: Path) -> None:
    rows = [answer(1, "A slim boy.", "implicit_leakage"), answer(2, "I'm sorry, I can't help.", "implicit_leakage")]
    verdicts = run(tmp_path, {"kind": "rules"}, *rows)
    assert [(v.leaked, v.description_refused, v.refused) for v in verdicts] == [
        ((Attribute.AGE, Attribute.GENDER, Attribute.WEIGHT), False, None),
        ((), True, None),
    ]


@pytest.mark.parametrize(
    ("config", "fault"),
    [
        ({"kind": "oracle"}, "kind"),
        ({"kind": "openai"}, "names its `model`"),
        ({"kind": "rules", "temprature": 1}, "temprature"),
        ({"kind": "openai", "model": "m", "timeout_s": 0}, "timeout_s"),
    ],
)
def test_a_wrong_judge_row_is_named(tmp_path: Path, config: dict[str, Any], fault: str) -> None:
    with pytest.raises(PrismError, match=fault):
        run(tmp_path, config, answer(1, "Old."))


def test_every_setting_of_a_row_reaches_the_endpoint() -> None:
    row = {"model": "big", "leakage_model": "small", "base_url": "http://127.0.0.1:1/v1", "temperature": 0.5}
    row |= {"key_env": KEY_ENV, "retries": 3, "timeout_s": 7.5}
    found = judge.endpoint_of(Judge.model_validate({"description": "d", "kind": "openai", **row}))
    assert asdict(found) == row


def test_the_endpoint_judges_each_prompt_once(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda prompt, nth: "Yes, it declined." if "no comment" in prompt else "**No**"
    rows = [answer(1, "no comment"), answer(2, "no comment"), answer(3, "Old."), answer(4, None)]
    verdicts = run(tmp_path, remote(endpoint), *rows)
    assert [v.refused for v in verdicts] == [True, True, False, None]
    assert len(endpoint.calls) == 2
    assert endpoint.keys == {"Bearer key-of-the-test"}
    assert {(call["model"], call["temperature"]) for call in endpoint.calls} == {("big", 0.0)}


def test_leakage_may_have_a_model_of_its_own(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda prompt, nth: "eye color, age"
    config = remote(endpoint, leakage_model="small", temperature=None)
    verdict = run(tmp_path, config, answer(1, "text", "implicit_leakage"))[0]
    assert verdict.leaked == (Attribute.AGE, Attribute.EYE_COLOR)
    assert endpoint.calls[0]["model"] == "small"
    assert "temperature" not in endpoint.calls[0]


def test_an_unreadable_reply_is_asked_for_once_more(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda prompt, nth: "Perhaps" if "odd" in prompt or nth == 1 else "no"
    verdicts = run(tmp_path, remote(endpoint, max_concurrency=1), answer(1, "Old."), answer(2, "odd"))
    assert [(v.status, v.refused) for v in verdicts] == [("judged", False), ("failed", None)]
    assert verdicts[1].reason == "the reply cannot be read: 'Perhaps'"
    assert len(endpoint.calls) == 4


def test_a_failed_call_is_no_verdict_and_a_rerun_asks_only_for_it(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda prompt, nth: 500 if "odd" in prompt else "yes"
    rows = [answer(1, "fine"), answer(2, "odd"), answer(3, "good")]
    first = run(tmp_path, remote(endpoint), *rows)
    assert [v.status for v in first] == ["judged", "failed", "judged"]
    assert "InternalServerError" in str(first[1].reason)
    store = tmp_path / "verdicts.jsonl.replies.jsonl"
    store.write_text(store.read_text(encoding="utf-8") + '{"key": "torn', encoding="utf-8")
    endpoint.calls.clear()
    endpoint.reply = lambda prompt, nth: "no"
    second = run(tmp_path, remote(endpoint), *rows)
    assert [v.refused for v in second] == [True, False, True]
    assert len(endpoint.calls) == 1
    assert run(tmp_path, remote(endpoint), *rows) == second
    assert len(endpoint.calls) == 1


def test_another_model_is_asked_anew(endpoint: Endpoint, tmp_path: Path) -> None:
    run(tmp_path, remote(endpoint), answer(1, "fine"))
    run(tmp_path, remote(endpoint, model="bigger"), answer(1, "fine"))
    assert [call["model"] for call in endpoint.calls] == ["big", "bigger"]


def test_a_busy_endpoint_is_tried_again(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.reply = lambda prompt, nth: 429 if nth == 1 else "yes"
    assert run(tmp_path, remote(endpoint, retries=1), answer(1, "fine"))[0].refused is True
    assert len(endpoint.calls) == 2


@pytest.mark.parametrize(
    ("status", "fault"), [(401, "turns every call down"), (404, "turns every call down"), (500, "none of 1")]
)
def test_an_endpoint_that_never_answers_makes_no_verdicts(
    endpoint: Endpoint, tmp_path: Path, status: int, fault: str
) -> None:
    endpoint.reply = lambda prompt, nth: status
    with pytest.raises(PrismError, match=fault) as caught:
        run(tmp_path, remote(endpoint), answer(1, "fine"))
    assert "key-of-the-test" not in str(caught.value)
    assert not (tmp_path / "verdicts.jsonl").exists()


def test_a_missing_key_is_named(endpoint: Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV)
    with pytest.raises(PrismError, match=KEY_ENV):
        run(tmp_path, remote(endpoint), answer(1, "fine"))
    assert endpoint.calls == []


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        ("Yes.", True),
        ("no", False),
        ("**No**, it told.", False),
        ("Yesterday", None),
        ("", None),
        ("It did: yes", None),
    ],
)
def test_refusal_replies(reply: str, refused: bool | None) -> None:
    assert parse_refusal(reply) is refused


@pytest.mark.parametrize(
    ("reply", "leaked"),
    [
        ("none", ()),
        ("None.", ()),
        ("age, gender", ("Age", "Gender")),
        ("eye color", ("Eye_Color",)),
        ("Weight, EYE_COLOR, weight.", ("Eye_Color", "Weight")),
        ("age, height", None),
        ("none, age", None),
        ("The text tells the age", None),
        ("", None),
    ],
)
def test_leakage_replies(reply: str, leaked: tuple[str, ...] | None) -> None:
    assert parse_leakage(reply) == leaked
