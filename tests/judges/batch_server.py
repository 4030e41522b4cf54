"""A server that speaks as the batch APIs of OpenAI and of Gemini do, on a real socket, with faults to order."""

from __future__ import annotations

import json
import random
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = str | int | None  # a text, the HTTP status of a row that failed, or nothing: not done when the batch expired


class BatchServer:
    """Batches live in the server: they go on, whatever becomes of the client.

    Attributes:
        reply: gives the reply to a text that is asked for the nth time (from 1).
        polls: looks at a batch, before it is done.
        faults: HTTP statuses for the next calls, whatever they ask for; 0 hangs up without a reply.
        hang_up_on_submit: batches whose submission is taken, but never acknowledged.
        capacity: calls that a batch may hold, or None; a larger one fails for lack of room.
        as_file: whether Gemini's results lie in a file.
        garbled: whether results come shuffled, twice, with broken lines, and with lines of somebody else.
    """

    def __init__(self) -> None:
        self.reply: Callable[[str, int], Reply] = lambda text, nth: "yes"
        self.polls = 1
        self.faults: list[int] = []
        self.hang_up_on_submit = 0
        self.hold_submit = threading.Event()  # set: a submission is answered at once
        self.hold_submit.set()
        self.capacity: int | None = None
        self.garbled = False
        self.as_file = False
        self.keys: set[str] = set()
        self.requests: list[str] = []
        self.batches: dict[str, dict[str, Any]] = {}
        self.files: dict[str, str] = {}
        self.asked: Counter[str] = Counter()
        self.lock = threading.RLock()
        self.submitted = threading.Event()

    def texts(self) -> list[list[str]]:
        """Return what each batch was asked, in the order of the batches."""
        return [[text for _, text in batch["calls"]] for batch in self.batches.values()]

    def take(self, label: str, calls: list[tuple[str, str]]) -> dict[str, Any]:
        """Begin a batch."""
        with self.lock:
            batch = {"id": f"batch-{len(self.batches)}", "label": label, "calls": calls, "looks": 0, "done": None}
            batch["full"] = self.capacity is not None and len(calls) > self.capacity
            self.batches[str(batch["id"])] = batch
            self.submitted.set()
            return batch

    def look(self, name: str) -> tuple[dict[str, Any], str]:
        """Return a batch and whether it is running, done, expired or full."""
        with self.lock:
            batch = self.batches[name]
            if batch["full"]:
                return batch, "full"
            batch["looks"] += 1
            if batch["looks"] <= self.polls:
                return batch, "running"
            if batch["done"] is None:
                batch["done"] = [(key, self._answer(text)) for key, text in batch["calls"]]
            expired = any(reply is None for _, reply in batch["done"])
            return batch, "expired" if expired else "done"

    def _answer(self, text: str) -> Reply:
        self.asked[text] += 1
        return self.reply(text, self.asked[text])


def openai_lines(server: BatchServer, batch: dict[str, Any]) -> tuple[str, str]:
    """Return the output file and the error file of a batch."""
    good, bad = [], []
    for key, reply in batch["done"]:
        row: dict[str, Any] = {"id": f"r-{key[:6]}", "custom_id": key, "error": None}
        if isinstance(reply, str):
            usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": reply}}
            body = {"id": "c", "object": "chat.completion", "model": "model-0", "choices": [choice], "usage": usage}
            good.append(row | {"response": {"status_code": 200, "request_id": "q", "body": body}})
        elif reply is None:
            bad.append(row | {"response": None, "error": {"code": "batch_expired", "message": "out of time"}})
        else:
            bad.append(row | {"response": {"status_code": reply, "request_id": "q", "body": {"error": {}}}})
    lines = [json.dumps(row) for row in good]
    if server.garbled and good:
        stranger = json.dumps(good[0] | {"custom_id": "f" * 64})
        lines = [*lines, lines[0], stranger, lines[-1][:40], "", "[]"]
        random.Random(1).shuffle(lines)
        bad.append({"custom_id": good[0]["custom_id"], "response": None, "error": {"code": "late", "message": "no"}})
    return "\n".join(lines), "".join(json.dumps(row) + "\n" for row in bad)


def gemini_lines(server: BatchServer, batch: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the inlined responses of a batch."""
    rows = []
    for key, reply in batch["done"]:
        row: dict[str, Any] = {"metadata": {"key": key}}
        if isinstance(reply, str):
            usage = {"promptTokenCount": 100, "candidatesTokenCount": 10, "totalTokenCount": 110}
            candidate = {"content": {"role": "model", "parts": [{"text": reply}]}, "finishReason": "STOP"}
            body = {"candidates": [candidate], "usageMetadata": usage, "modelVersion": "model-0"}
            rows.append(row | {"response": body})
        elif reply is not None:
            rows.append(row | {"error": {"code": 13, "message": "internal"}})
    if server.garbled and rows:
        rows = [*rows, rows[0], {**rows[0], "metadata": {"key": "f" * 64}}, {"response": {}}]
        random.Random(1).shuffle(rows)
    return rows


class Handler(BaseHTTPRequestHandler):
    """One request to a ``BatchServer``, which is set on a subclass."""

    server_state: BatchServer

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self._fault():
            return
        if self.path == "/v1/files":
            self._upload(data)
        elif self.path == "/v1/batches":
            self._submit_openai(json.loads(data))
        elif match := re.fullmatch(r"/v1beta/models/([^:]+):batchGenerateContent", self.path):
            self._submit_gemini(json.loads(data))
        else:
            self._send(404, {"error": {"message": f"no {self.path}", "match": str(match)}})

    def do_GET(self) -> None:
        if self._fault():
            return
        state, path = self.server_state, self.path.partition("?")[0]
        if path in ("/v1/batches", "/v1beta/batches"):
            self._list(gemini=path.startswith("/v1beta"))
        elif match := re.fullmatch(r"/v1/files/(.+)/content|/(?:download/)?v1beta/(files/.+):download", path):
            self._send_text(200, state.files[match[1] or match[2]], "application/jsonl")
        elif match := re.fullmatch(r"/v1(beta)?/batches/(.+)", path):
            if match[2] not in state.batches:
                self._send(404, {"error": {"message": "no such batch"}})
            else:
                self._send(200, (self._gemini if match[1] else self._openai)(match[2]))
        else:
            self._send(404, {"error": {"message": f"no {path}"}})

    def _fault(self) -> bool:
        state = self.server_state
        with state.lock:
            state.requests.append(f"{self.command} {self.path.partition('?')[0]}")
            state.keys.add(self.headers.get("Authorization") or self.headers.get("x-goog-api-key") or "")
            if not state.faults:
                return False
            status = state.faults.pop(0)
        if status == 0:
            self._hang_up()
        else:
            self._send(status, {"error": {"message": f"fault, key {self.headers.get('Authorization')}"}})
        return True

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _upload(self, data: bytes) -> None:
        state = self.server_state
        lines = [line.strip() for line in data.split(b"\n") if line.strip().startswith(b'{"custom_id"')]
        with state.lock:
            name = f"file-{len(state.files)}"
            state.files[name] = b"\n".join(lines).decode()
        self._send(200, {"id": name, "object": "file", "bytes": len(data), "created_at": 0, "filename": "f",
                         "purpose": "batch", "status": "processed"})  # fmt: skip

    def _submit_openai(self, body: dict[str, Any]) -> None:
        state = self.server_state
        rows = [json.loads(line) for line in state.files[body["input_file_id"]].split("\n")]
        assert all(row["url"] == body["endpoint"] == "/v1/chat/completions" for row in rows)
        assert len({row["body"]["model"] for row in rows}) == 1, "a batch is of one model"
        calls = [(row["custom_id"], row["body"]["messages"][0]["content"]) for row in rows]
        batch = state.take(body["metadata"]["safe_llava_label"], calls)
        self._acknowledge(lambda: self._openai(batch["id"]))

    def _submit_gemini(self, body: dict[str, Any]) -> None:
        rows = body["batch"]["inputConfig"]["requests"]["requests"]
        calls = [(row["metadata"]["key"], row["request"]["contents"][0]["parts"][0]["text"]) for row in rows]
        batch = self.server_state.take(body["batch"]["displayName"], calls)
        self._acknowledge(lambda: self._gemini(batch["id"]))

    def _acknowledge(self, body: Callable[[], dict[str, Any]]) -> None:
        state = self.server_state
        with state.lock:
            hang_up, state.hang_up_on_submit = state.hang_up_on_submit > 0, max(0, state.hang_up_on_submit - 1)
        if hang_up:
            self._hang_up()
        elif state.hold_submit.wait(30):
            self._send(200, body())

    def _openai(self, name: str) -> dict[str, Any]:
        state = self.server_state
        batch, stage = state.look(name)
        found: dict[str, Any] = {"id": name, "object": "batch", "endpoint": "/v1/chat/completions", "created_at": 0}
        found |= {"input_file_id": "file-0", "completion_window": "24h", "status": "in_progress"}
        found |= {"metadata": {"safe_llava_label": batch["label"]}}
        if stage == "full":
            errors = [{"code": "token_limit_exceeded", "message": "too many tokens wait"}]
            return found | {"status": "failed", "errors": {"object": "list", "data": errors}}
        if stage != "running":
            output, errors_text = openai_lines(state, batch)
            found["status"] = "completed" if stage == "done" else "expired"
            for kind, text in (("output", output), ("error", errors_text)):
                if text:
                    state.files[f"{name}-{kind}"] = text
                    found[f"{kind}_file_id"] = f"{name}-{kind}"
        return found

    def _gemini(self, name: str) -> dict[str, Any]:
        batch, stage = self.server_state.look(name)
        states = {"running": "RUNNING", "done": "SUCCEEDED", "expired": "EXPIRED", "full": "FAILED"}
        metadata: dict[str, Any] = {"displayName": batch["label"], "state": f"BATCH_STATE_{states[stage]}"}
        found: dict[str, Any] = {"name": f"batches/{name}", "metadata": metadata}
        if stage == "full":
            return found | {"done": True, "error": {"code": 8, "message": "too many tokens wait"}}
        if stage == "running":
            return found
        rows = gemini_lines(self.server_state, batch)
        if self.server_state.as_file:
            lines = [{"key": row["metadata"]["key"]} | row for row in rows]
            self.server_state.files[f"files/{name}"] = "\n".join(json.dumps(line) for line in lines)
            metadata["output"] = {"responsesFile": f"files/{name}"}
            return found | {"done": True}
        metadata["output"] = {"inlinedResponses": {"inlinedResponses": rows}}
        return found | {"done": True}

    def _list(self, gemini: bool) -> None:
        batches = [
            {"name": f"batches/{name}", "metadata": {"displayName": batch["label"]}}
            if gemini
            else {"id": name, "object": "batch", "metadata": {"safe_llava_label": batch["label"]}, "status": "x",
                  "created_at": 0, "endpoint": "e", "input_file_id": "i", "completion_window": "24h"}
            for name, batch in reversed(self.server_state.batches.items())
        ]  # fmt: skip
        page: dict[str, Any] = {"object": "list", "data": batches, "has_more": False}
        self._send(200, {"operations": batches} if gemini else page)

    def _send(self, status: int, body: dict[str, Any]) -> None:
        self._send_text(status, json.dumps(body), "application/json")

    def _send_text(self, status: int, text: str, kind: str) -> None:
        data = text.encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the client was killed

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(state: BatchServer) -> Iterator[str]:
    """Serve until the block ends; yields the address without a path."""
    handler = type("BoundHandler", (Handler,), {"server_state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        state.hold_submit.set()
        server.shutdown()
        server.server_close()
        thread.join()
