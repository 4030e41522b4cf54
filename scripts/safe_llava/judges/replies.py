"""What every reader of judges' replies shares: which endings are good, where reasoning ends, what a reading is.

A reply that is not sure to be read right is asked for again and never guessed at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from safe_llava.judges.calls import Call, Found, RawReply

# The endings of a reply that was not broken off, and those of one that was cut off at its cap; no other is read.
GOOD_ENDINGS = {"stop", "STOP", "end_turn", "stop_sequence", "eos", "eos_token"}
CUT_OFF = {"length", "MAX_TOKENS", "max_tokens"}
# Where a reply's reasoning begins and ends, as models mark it, and what may stand around the reply itself.
_THOUGHT = r"(?:[\w-]+:)?(?:think|thought|reason|reflect|analysis|scratchpad)\w*\s*[>\]▷]"
_REASONING = re.compile(
    rf"\s*(?:[<\[◁]\s*{_THOUGHT}|<\|(?:begin_of_thought|start_thinking|channel\|>analysis)\b|<unused94>)", re.IGNORECASE
)
_END_OF_REASONING = re.compile(
    rf"[<\[◁]/\s*{_THOUGHT}|<\|end_(?:of_thought|thinking)\|>|<\|channel\|>final<\|message\|>|<unused95>", re.IGNORECASE
)
_WRAPPING = re.compile(r"<\|\w+\|>|</?(?:answer|final_answer|response|output|solution|s)>", re.IGNORECASE)


class Reading(Protocol[Found]):
    """How a judge's replies are read, and how what they say is kept."""

    def read(self, call: Call, reply: RawReply) -> Found | None:
        """Return what a reply says, or None where it cannot be read for certain."""

    def columns(self, found: Found) -> dict[str, Any]:
        """Return what is kept of it, as JSON values beside the reply."""

    def stored(self, row: Mapping[str, Any]) -> Found | None:
        """Return it from a row of the store, or None where the row holds none that fits its task."""


def unreadable(reply: RawReply) -> str:
    """Return the reason of a failure whose reply could not be read."""
    reason = reply.finish_reason
    ended = "" if reason in GOOD_ENDINGS else f" (finish reason {reason})" if reason else " (no finish reason)"
    return f"the reply cannot be read: {reply.text[-80:]!r}{ended}"


def without_reasoning(text: str) -> str:
    """Return what stands behind a reply's reasoning; nothing, where the reasoning does not end."""
    reply = _END_OF_REASONING.split(text)[-1]
    return "" if _REASONING.match(reply) else _WRAPPING.sub("", reply)
