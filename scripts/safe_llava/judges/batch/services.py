"""The batch APIs that charge half: OpenAI's (files and batches) and Gemini's (batchGenerateContent, inline requests).

Both are used alike: submit calls under a label, ask how far they are, read the results by the calls' keys. The label
goes along with a batch, so that one whose submission was cut off is found again and not paid for twice.

Sources: OpenAI's API reference (batches, files; 50,000 requests and 200 MB a batch, one model a batch) and Gemini's
(batch API; inline requests of under 20 MB altogether), as of 2025.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import httpx

from safe_llava.config.prism import Judge
from safe_llava.config.secrets import without_secret
from safe_llava.core.errors import PrismError
from safe_llava.judges.client import (
    Call,
    RawReply,
    UnusableReplyError,
    auth_headers,
    endpoint_url,
    read_reply,
    request_body,
)

log = logging.getLogger(__name__)
LABEL = "safe_llava_label"
PAGES = 10  # pages of batches that are looked through for a label, the newest first
TURNED_DOWN = "see the judge's base_url, model and key, and whether the account may use the batch API"


class TemporaryError(Exception):
    """A call of the API that may succeed later; the message is its reason."""


class GoneError(Exception):
    """A batch or its results are not there any more."""


@dataclass(frozen=True)
class State:
    """How far a batch is: ``full`` where it was not taken for lack of room, ``failed`` where nothing was asked."""

    state: Literal["running", "ended", "failed", "full"]
    detail: str = ""


@dataclass(frozen=True)
class Line:
    """What a batch says of one call: a reply, or the reason why there is none."""

    key: str
    reply: RawReply | None = None
    reason: str | None = None


class Service(Protocol):
    """A batch API; errors are ``TemporaryError``, ``GoneError`` and, where nothing can help, ``PrismError``."""

    max_requests: int
    max_bytes: int

    def size(self, call: Call) -> int:
        """Return the bytes that a call takes in a batch."""

    async def submit(self, label: str, calls: Sequence[Call]) -> str:
        """Hand in calls of one model and return the batch's id."""

    async def find(self, label: str) -> str | None:
        """Return the id of the batch that was handed in under a label, or None."""

    async def poll(self, batch: str) -> State:
        """Return how far a batch is."""

    async def results(self, batch: str) -> list[Line]:
        """Return the results of a batch that has ended, in any order, perhaps not all."""

    async def close(self) -> None:
        """Let go of the connections."""


def open_service(judge: Judge, secret: str | None) -> Service:
    """Return the batch API of a judge's endpoint."""
    return GeminiBatches(judge, secret) if judge.kind == "gemini" else OpenAIBatches(judge, secret)


def _reply_of(judge: Judge, key: str, body: Any) -> Line:
    try:
        return Line(key, reply=read_reply(judge, body))
    except UnusableReplyError as error:
        return Line(key, reason=f"the batch holds no reply: {error}")


def _rows(text: str, what: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of lines; a broken line is told and its call is asked again."""
    broken = 0
    for line in text.split("\n"):
        try:
            row = json.loads(line) if line.strip() else None
        except ValueError:
            broken, row = broken + 1, None
        if isinstance(row, dict):
            yield row
    if broken:
        log.warning("%s: %d broken lines are passed over; their calls are asked again", what, broken)


class OpenAIBatches:
    """OpenAI's batch API through its own client: a file of requests in, files of results and of errors out."""

    max_requests = 50_000
    max_bytes = 190_000_000  # of 200 MB

    def __init__(self, judge: Judge, secret: str | None) -> None:
        import openai  # only batches of this kind need it

        self.judge, self._secret = judge, secret
        self._openai = openai
        url = endpoint_url(judge)
        self._client = openai.AsyncOpenAI(
            api_key=secret or "none", base_url=url, max_retries=0, timeout=judge.timeout_s
        )

    def _request(self, call: Call) -> bytes:
        body = request_body(self.judge, call)
        row = {"custom_id": call.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(row).encode("ascii") + b"\n"

    def size(self, call: Call) -> int:
        return len(self._request(call))

    async def submit(self, label: str, calls: Sequence[Call]) -> str:
        data = b"".join(self._request(call) for call in calls)
        with self._errors():
            file = await self._client.files.create(file=(f"{label}.jsonl", data), purpose="batch")
            batch = await self._client.batches.create(
                input_file_id=file.id,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={LABEL: label},
            )
        return batch.id

    async def find(self, label: str) -> str | None:
        with self._errors():
            page = await self._client.batches.list(limit=100)
            for _ in range(PAGES):
                for batch in page.data:
                    if (batch.metadata or {}).get(LABEL) == label:
                        return batch.id
                if not page.has_next_page():
                    break
                page = await page.get_next_page()
        return None

    async def poll(self, batch: str) -> State:
        with self._errors():
            found = await self._client.batches.retrieve(batch)
        if found.status == "failed":
            errors = (found.errors.data if found.errors else None) or []
            said = "; ".join(f"{error.code}: {error.message}" for error in errors[:3]) or "no reason given"
            return State(
                "full" if any(error.code == "token_limit_exceeded" for error in errors) else "failed",
                without_secret(said, self._secret),
            )
        if found.status in ("completed", "expired", "cancelled"):
            return State("ended", found.status)
        counts = found.request_counts
        return State("running", f"{found.status}, {counts.completed} of {counts.total}" if counts else found.status)

    async def results(self, batch: str) -> list[Line]:
        with self._errors():
            found = await self._client.batches.retrieve(batch)
            files = [name for name in (found.output_file_id, found.error_file_id) if name]
            texts = [(await self._client.files.content(name)).text for name in files]
        return [
            self._line(row) for text in texts for row in _rows(without_secret(text, self._secret), f"batch {batch}")
        ]

    def _line(self, row: Mapping[str, Any]) -> Line:
        key = str(row.get("custom_id"))
        response = row.get("response") if isinstance(row.get("response"), dict) else None
        if response and response.get("status_code") == 200:
            return _reply_of(self.judge, key, response.get("body"))
        error = row.get("error") if isinstance(row.get("error"), dict) else {}
        status = f"HTTP {response['status_code']}" if response and "status_code" in response else ""
        return Line(key, reason=f"failed in the batch: {status or (error or {}).get('code') or 'no reason given'}")

    def _errors(self) -> _OpenAIErrors:
        return _OpenAIErrors(self._openai)

    async def close(self) -> None:
        await self._client.close()


class _OpenAIErrors:
    """Turns the client's exceptions into ours; their own texts may quote the key and are left out."""

    def __init__(self, module: Any) -> None:
        self._openai = module

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        openai = self._openai
        if not isinstance(error, openai.OpenAIError):
            return
        status, code = getattr(error, "status_code", None), getattr(error, "code", None)
        name = type(error).__name__ + (f" (HTTP {status})" if status else "")
        if isinstance(error, openai.NotFoundError):
            raise GoneError(name) from None
        waits = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
        if isinstance(error, waits) and code != "insufficient_quota":
            raise TemporaryError(name) from None
        if isinstance(error, openai.APIResponseValidationError) or status in (408, 409):
            raise TemporaryError(name) from None
        reason = "the account's quota is used up" if code == "insufficient_quota" else name
        raise PrismError(f"the judge's batch API turns calls down: {reason}", TURNED_DOWN) from None


class GeminiBatches:
    """Gemini's batch API over plain HTTP, with the requests inside the call that hands them in."""

    max_requests = 50_000
    max_bytes = 18_000_000  # of 20 MB

    def __init__(self, judge: Judge, secret: str | None) -> None:
        self.judge, self._secret = judge, secret
        self._url = endpoint_url(judge)
        self._client = httpx.AsyncClient(headers=auth_headers(judge, secret), timeout=judge.timeout_s)

    def _request(self, call: Call) -> dict[str, Any]:
        return {"request": request_body(self.judge, call), "metadata": {"key": call.key}}

    def size(self, call: Call) -> int:
        return len(json.dumps(self._request(call))) + 2

    async def submit(self, label: str, calls: Sequence[Call]) -> str:
        requests = {"requests": [self._request(call) for call in calls]}
        body = {"batch": {"displayName": label, "inputConfig": {"requests": requests}}}
        return _named(await self._ask("POST", f"{self._url}/models/{calls[0].model}:batchGenerateContent", body))

    async def find(self, label: str) -> str | None:
        token = ""
        for _ in range(PAGES):
            page = await self._ask("GET", f"{self._url}/batches?pageSize=100{token}")
            for operation in page.get("operations") or ():
                if (operation.get("metadata") or {}).get("displayName") == label:
                    return _named(operation)
            if not page.get("nextPageToken"):
                break
            token = f"&pageToken={page['nextPageToken']}"
        return None

    async def poll(self, batch: str) -> State:
        found = await self._ask("GET", f"{self._url}/{batch}")
        metadata = found.get("metadata") or {}
        state = str(metadata.get("state") or "").rpartition("_STATE_")[2]
        if state in ("SUCCEEDED", "CANCELLED", "EXPIRED") or (found.get("response") and found.get("done")):
            return State("ended", state.lower())
        if state == "FAILED" or found.get("error"):
            error = found.get("error") or {}
            full = error.get("status") == "RESOURCE_EXHAUSTED" or error.get("code") == 8
            return State("full" if full else "failed", str(error.get("message") or "no reason given")[:200])
        return State("running", state.lower() or "pending")

    async def results(self, batch: str) -> list[Line]:
        found = await self._ask("GET", f"{self._url}/{batch}")
        output = found.get("response") or (found.get("metadata") or {}).get("output") or {}
        inlined = output.get("inlinedResponses") or {}
        rows = list(inlined.get("inlinedResponses") or ()) if isinstance(inlined, dict) else list(inlined)
        if output.get("responsesFile"):
            host, _, version = self._url.rpartition("/")
            url = f"{host}/download/{version}/{output['responsesFile']}:download?alt=media"
            rows += _rows(without_secret((await self._send("GET", url)).text, self._secret), f"batch {batch}")
        return [self._line(row) for row in rows if isinstance(row, dict)]

    def _line(self, row: Mapping[str, Any]) -> Line:
        key = str(row.get("key") or (row.get("metadata") or {}).get("key"))
        if row.get("response") is not None:
            return _reply_of(self.judge, key, row["response"])
        return Line(key, reason=f"failed in the batch: code {(row.get('error') or {}).get('code', 'unknown')}")

    async def _ask(self, method: str, url: str, body: Any = None) -> dict[str, Any]:
        response = await self._send(method, url, body)
        try:
            found = json.loads(without_secret(response.text, self._secret))
        except ValueError as error:
            raise TemporaryError("a reply that is not JSON") from error
        if not isinstance(found, dict):
            raise TemporaryError("a reply that is no JSON object")
        return found

    async def _send(self, method: str, url: str, body: Any = None) -> httpx.Response:
        try:
            response = await self._client.request(method, url, json=body)
        except httpx.HTTPError as error:
            raise TemporaryError(type(error).__name__) from None
        if response.status_code in (408, 409, 429) or response.status_code >= 500:
            raise TemporaryError(f"HTTP {response.status_code}")
        if response.status_code == 404:
            raise GoneError("HTTP 404")
        if response.status_code != 200:
            raise PrismError(f"the judge's batch API turns calls down: HTTP {response.status_code}", TURNED_DOWN)
        return response

    async def close(self) -> None:
        await self._client.aclose()


def _named(operation: Mapping[str, Any]) -> str:
    name = operation.get("name")
    if not isinstance(name, str) or not name:
        raise TemporaryError("a batch without a name")
    return name
