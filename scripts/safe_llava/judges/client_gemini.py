"""Gemini through Google's client: generateContent, and its batches at half price.

Source: Gemini's API reference (generateContent; batch API: inline requests of under 20 MB altogether), as of 2025.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from google import genai
from google.genai import errors, types

from safe_llava.config.prism import Judge
from safe_llava.judges.calls import Call, RawReply
from safe_llava.judges.clients import (
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
    without_key,
    word,
)
from safe_llava.judges.faults import CallError, Fault, read_error

PAGE = 100


class GeminiClient(Client):
    """A judge of kind ``gemini``."""

    max_requests = 50_000
    max_bytes = 18_000_000  # of 20 MB

    def __init__(self, judge: Judge, secret: str | None) -> None:
        super().__init__(judge, secret)
        root, _, version = self._url.rpartition("/")
        self._client = genai.Client(
            api_key=secret or "none",
            vertexai=False,
            http_options=types.HttpOptions(
                base_url=root,
                api_version=version,
                timeout=int(judge.timeout_s * 1000),  # it counts in milliseconds
                retry_options=types.HttpRetryOptions(attempts=1),
                httpx_async_client=self._http,
                extra_body=judge.extra_body or None,
            ),
        )

    async def ask(self, call: Call) -> RawReply:
        settings = _settings(call, should_return_http_response=True)
        with self._errors():
            found = await self._client.aio.models.generate_content(
                model=call.model, contents=whole_text(call.text), config=settings
            )
        response = found.sdk_http_response or types.HttpResponse()
        body = response.body or ""
        return reply_or_error(json_of(body, self._secret), len(body), read_reply, response.headers)

    def size(self, call: Call) -> int:
        return len(json.dumps(call.text)) + 400  # with its key and settings around it

    async def submit(self, label: str, calls: Sequence[Call]) -> str:
        requests = [
            types.InlinedRequest(contents=whole_text(call.text), config=_settings(call), metadata={"key": call.key})
            for call in calls
        ]
        with self._errors():
            batch = await self._client.aio.batches.create(
                model=calls[0].model, src=requests, config=types.CreateBatchJobConfig(display_name=label)
            )
        return _named(batch)

    async def find(self, label: str) -> str | None:
        with self._errors():
            looked = 0
            async for batch in await self._client.aio.batches.list(config=types.ListBatchJobsConfig(page_size=PAGE)):
                if batch.display_name == label:
                    return _named(batch)
                looked += 1
                if looked >= PAGES * PAGE:
                    break
        return None

    async def poll(self, batch: str) -> BatchState:
        found = await self._get(batch)
        state = (found.state.name if found.state else "").removeprefix("JOB_STATE_").lower()
        if state == "failed":  # why, the client does not pass on
            return BatchState("failed", "Gemini says that it failed")
        ended = state in ("succeeded", "cancelled", "expired", "partially_succeeded") or found.dest is not None
        return BatchState("ended" if ended else "running", state or "pending")

    async def results(self, batch: str) -> list[Line]:
        found = await self._get(batch)
        inlined = (found.dest.inlined_responses if found.dest else None) or []
        plain = [one.model_dump(mode="json", by_alias=True, exclude_none=True) for one in inlined]
        rows = without_key(plain, self._secret)
        if found.dest and found.dest.file_name:
            with self._errors():
                data = await self._client.aio.files.download(file=found.dest.file_name)
            rows += json_rows(data.decode("utf-8", "replace"), f"batch {batch}", self._secret)
        return [_line(row) for row in rows]

    async def close(self) -> None:
        await self._client.aio.aclose()
        await self._http.aclose()

    async def _get(self, batch: str) -> types.BatchJob:
        with self._errors():
            return await self._client.aio.batches.get(name=batch)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the client's exceptions into ours; those of the connections it passes on as they are."""
        try:
            with http_errors(self._url):
                yield
        except errors.APIError as error:
            headers = getattr(error.response, "headers", None) or {}
            raise read_error(error.code, headers, without_key(error.details, self._secret)) from None
        except (ValueError, TypeError, AttributeError, errors.UnknownApiResponseError) as error:
            raise CallError(
                Fault.TRANSIENT, f"a reply that the client cannot read: {type(error).__name__}", unseen=True
            ) from None


def _settings(call: Call, **more: Any) -> types.GenerateContentConfig:
    return types.GenerateContentConfig(temperature=call.temperature, max_output_tokens=call.max_tokens, **more)


def _named(batch: types.BatchJob) -> str:
    if not batch.name:
        raise CallError(Fault.TRANSIENT, "a batch without a name")
    return batch.name


def read_reply(payload: Mapping[str, Any]) -> RawReply:
    """Read a generateContent reply; a prompt that the safety filter stopped has a reason in the place of a reply."""
    model = word(payload.get("modelVersion"))
    candidates: Sequence[Mapping[str, Any]] = payload.get("candidates") or ()
    if not candidates:
        return RawReply(
            "", finish_reason=str(payload["promptFeedback"].get("blockReason") or "no candidates"), model=model
        )
    parts = (candidates[0].get("content") or {}).get("parts") or ()
    text = "".join(part["text"] for part in parts if "text" in part and not part.get("thought"))
    return RawReply(text, finish_reason=word(candidates[0].get("finishReason")), model=model)


def _line(row: Mapping[str, Any]) -> Line:
    key = str(row.get("key") or (row.get("metadata") or {}).get("key"))
    if row.get("response") is not None:
        return batch_line(key, row["response"], read_reply)
    return Line(key, reason=f"failed in the batch: code {(row.get('error') or {}).get('code', 'unknown')}")
