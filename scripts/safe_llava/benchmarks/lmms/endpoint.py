"""A chat-completions endpoint of our own, on this machine alone, that lmms-eval's judged tasks call.

They know nothing of it: it stands where they look for OpenAI's. A request that cannot be answered gets an empty reply,
which every task takes for none; that there was one is known here, and so is a request whose client has gone before the
reply came (MMBench's waits 30 s, 15 times): no score is made of either.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol

from safe_llava.judges.calls import RawReply

PATH = "/v1"
MAX_BYTES = 8 << 20
HOST = "127.0.0.1"
# Through a proxy of the environment this machine would not find itself.
NO_PROXY = ("no_proxy", "NO_PROXY")


class Answerer(Protocol):
    """Who answers requests for chat completions."""

    def reply(self, request: Mapping[str, Any]) -> RawReply | None:
        """Return the reply, or None where there is none."""
        ...


def completion(reply: RawReply | None, model: str) -> dict[str, Any]:
    """Return a chat completion; no reply is an empty one."""
    message = {"role": "assistant", "content": reply.text if reply else ""}
    used = reply.usage if reply and reply.usage else None
    tokens = (used.prompt_tokens, used.completion_tokens) if used else (0, 0)
    return {
        "id": "chatcmpl-local",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": (reply.model if reply else None) or model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }


class Endpoint:
    """The server, in threads of its own, on a port that the system chooses.

    Args:
        answerer: who answers.
        model: the name that replies carry where the judge names none.
    """

    def __init__(self, answerer: Answerer, model: str) -> None:
        self.answerer, self.model = answerer, model
        self.refused: list[str] = []  # requests that did not get as far as the judge
        self.waiting: set[str] = set()  # digests of requests that nobody has received a reply to
        self.token = secrets.token_urlsafe(24)  # whoever else is on this machine does not know it
        self._server = ThreadingHTTPServer((HOST, 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="endpoint", daemon=True)

    @property
    def url(self) -> str:
        """The address that paths are appended to."""
        return f"http://{HOST}:{self._server.server_address[1]}{PATH}"

    def failures(self) -> list[str]:
        """Return why requests came to nothing here: refused, or given up by the client before a reply was there."""
        unheard = "the benchmark's code did not wait for the reply"
        return [*self.refused, *(f"request {digest[:12]}: {unheard}" for digest in sorted(self.waiting))]

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """One connection to the endpoint."""

    protocol_version = "HTTP/1.1"

    def __init__(self, endpoint: Endpoint, *connection: Any) -> None:
        self._endpoint = endpoint
        super().__init__(*connection)  # which serves it

    def do_POST(self) -> None:
        # Some tasks append the path themselves, others take the address as it is.
        if self.path not in (PATH, f"{PATH}/chat/completions"):
            return self._send(404, {"error": {"message": "no such path"}})
        if not hmac.compare_digest(self.headers.get("Authorization", ""), f"Bearer {self._endpoint.token}"):
            return self._send(401, {"error": {"message": "not the token of this run"}})
        try:
            length = int(self.headers.get("Content-Length", ""))
            request = json.loads(self.rfile.read(length)) if 0 < length <= MAX_BYTES else None
        except ValueError:
            request = None
        if not isinstance(request, dict):
            self.close_connection = True
            return self._send(400, {"error": {"message": "the body is not a JSON object"}})
        return self._answer(request)

    def _answer(self, request: dict[str, Any]) -> None:
        # A client that has given up asks the same again, and may get the reply then.
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode("ascii")).hexdigest()
        self._endpoint.waiting.add(digest)
        found = completion(self._endpoint.answerer.reply(request), self._endpoint.model)
        with contextlib.suppress(OSError):  # it may also go while the reply is on its way
            if has_gone(self.connection):
                self.close_connection = True
            else:
                self._send(200, found)
                self._endpoint.waiting.discard(digest)

    def _send(self, status: int, value: dict[str, Any]) -> None:
        if status != 200:
            self._endpoint.refused.append(f"HTTP {status}: {value['error']['message']}")
        body = json.dumps(value).encode("ascii")
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: headers hold the token."""


def has_gone(connection: socket.socket) -> bool:
    """Return whether whoever asked has closed the connection."""
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False


@contextlib.contextmanager
def stands_for_openai(endpoint: Endpoint, model: str, hide: str | None) -> Iterator[None]:
    """Let lmms-eval's code find the endpoint where it looks for OpenAI's; the judge's own key is out of its sight.

    The tasks read these when they are imported.

    Args:
        endpoint: what is found.
        model: the name that the tasks give the judge.
        hide: the variable that holds the judge's key, whatever its name.
    """
    around = {name: ",".join(filter(None, (os.environ.get(name), HOST))) for name in NO_PROXY}
    new = {
        **({hide: None} if hide else {}),
        "API_TYPE": "openai",
        "OPENAI_API_URL": endpoint.url,
        "OPENAI_BASE_URL": endpoint.url,
        "OPENAI_API_KEY": endpoint.token,
        "MODEL_VERSION": model,
        **around,
    }
    with changed_environment(new):
        yield


@contextlib.contextmanager
def changed_environment(new: Mapping[str, str | None]) -> Iterator[None]:
    """Set variables of the environment, None unsets one; what stood there before stands there again afterwards."""
    before = {name: os.environ.get(name) for name in new}
    _set(new)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
