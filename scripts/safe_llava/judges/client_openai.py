"""OpenAI and every endpoint compatible with it, through OpenAI's client: chat completions, and batches at half price.

Source: OpenAI's API reference (chat, batches, files: 50,000 requests and 200 MB a batch, one model a batch), as of
2025.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import httpx2
import openai

from safe_llava.config.prism import Judge
from safe_llava.config.secrets import without_secret
from safe_llava.judges.calls import Call, RawReply
from safe_llava.judges.clients import (
    LABEL,
    PAGES,
    BatchState,
    Client,
    Line,
    batch_line,
    http_errors,
    json_of,
    json_rows,
    reply_or_error,
    whole_text,
    word,
)
from safe_llava.judges.faults import CallError, Fault, read_error

REFUSED = "refusal"  # in the place of a finish reason, where the endpoint marks a refusal to judge as one


class OpenAIClient(Client):
    """A judge of kind ``openai``."""

    max_requests = 50_000
    max_bytes = 190_000_000  # of 200 MB

    def __init__(self, judge: Judge, secret: str | None) -> None:
        super().__init__(judge, secret)
        if secret is None:  # the client itself refuses to ask without a key
            self._http.event_hooks = {"request": [_without_authorization]}
        self._client = openai.AsyncOpenAI(
            api_key=secret or "none",
            base_url=self._url,
            max_retries=0,
            timeout=judge.timeout_s,
            http_client=self._http,
        )

    async def ask(self, call: Call) -> RawReply:
        body = request_body(self._judge, call)
        extra = body.pop("extra_body", None)
        # The body as it came: the client's own reading takes an error of status 200 for a completion.
        with self._errors():
            response = await self._client.chat.completions.with_raw_response.create(**body, extra_body=extra)
        body = response.content
        return reply_or_error(json_of(body, self._secret), len(body), read_reply, response.headers)

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

    async def poll(self, batch: str) -> BatchState:
        with self._errors():
            found = await self._client.batches.retrieve(batch)
        if found.status == "failed":
            errors = (found.errors.data if found.errors else None) or []
            said = "; ".join(f"{error.code}: {error.message}" for error in errors[:3]) or "no reason given"
            full = any(error.code == "token_limit_exceeded" for error in errors)
            return BatchState("full" if full else "failed", without_secret(said, self._secret))
        if found.status in ("completed", "expired", "cancelled"):
            return BatchState("ended", found.status)
        counts = found.request_counts
        return BatchState(
            "running", f"{found.status}, {counts.completed} of {counts.total}" if counts else found.status
        )

    async def results(self, batch: str) -> list[Line]:
        with self._errors():
            found = await self._client.batches.retrieve(batch)
            files = [name for name in (found.output_file_id, found.error_file_id) if name]
            texts = [(await self._client.files.content(name)).text for name in files]
        return [_line(row) for text in texts for row in json_rows(text, f"batch {batch}", self._secret)]

    async def close(self) -> None:
        await self._client.close()

    def _request(self, call: Call) -> bytes:
        body = request_body(self._judge, call)
        body |= body.pop("extra_body", {})
        row = {"custom_id": call.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        return json.dumps(row).encode("ascii") + b"\n"

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the client's exceptions into ours."""
        try:
            with http_errors(self._url):
                try:
                    yield
                except openai.APIConnectionError as error:
                    # What is below says whether the call was sent.
                    raise (error.__cause__ or ConnectionError()) from None
        except openai.APIStatusError as error:
            raise read_error(
                error.status_code, error.response.headers, json_of(error.response.content, self._secret)
            ) from None
        except openai.OpenAIError as error:
            raise CallError(Fault.TRANSIENT, type(error).__name__, unseen=True) from None


async def _without_authorization(request: httpx2.Request) -> None:
    request.headers.pop("Authorization", None)


def request_body(judge: Judge, call: Call) -> dict[str, Any]:
    """Return the body of a call; what the row leaves null is not sent."""
    # OpenAI's newer models know only the second name of the cap, compatible servers often only the first.
    newer = judge.base_url is None or judge.max_completion_tokens is not None
    body = {
        "model": call.model,
        "messages": [{"role": "user", "content": whole_text(call.text)}],
        "temperature": call.temperature,
        "max_completion_tokens" if newer else "max_tokens": call.max_tokens,
        "reasoning_effort": judge.reasoning_effort,
        "extra_body": judge.extra_body or None,
    }
    return {name: value for name, value in body.items() if value is not None}


def read_reply(payload: Mapping[str, Any]) -> RawReply:
    """Read a chat completion."""
    choice = payload["choices"][0]
    message, ended = choice["message"], choice.get("finish_reason")
    text, refusal = _text(message.get("content")), message.get("refusal")
    if not (ended is None or isinstance(ended, str)):
        ended = "no text"
    # A refusal to judge is no verdict, even where it begins with "No"; it is kept.
    reply = str(refusal or "") if text is None else text
    return RawReply(reply, finish_reason=REFUSED if refusal else ended, model=word(payload.get("model")))


def _text(content: Any) -> str | None:
    """Return the text of a message, which may come in parts; parts of reasoning are none of it."""
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {"text": part} for part in content if part]
        said = [part.get("text") for part in parts if not re.search("reason|think", str(part.get("type")))]
        return "".join(one for one in said if isinstance(one, str))
    if content is not None and not isinstance(content, str):
        raise TypeError("content")
    return content


def _line(row: Mapping[str, Any]) -> Line:
    key, response, error = str(row.get("custom_id")), row.get("response"), row.get("error")
    if isinstance(response, dict) and response.get("status_code") == 200:
        return batch_line(key, response.get("body"), read_reply)
    status = f"HTTP {response['status_code']}" if isinstance(response, dict) and "status_code" in response else ""
    code = error.get("code") if isinstance(error, dict) else None
    return Line(key, reason=f"failed in the batch: {status or code or 'no reason given'}")
