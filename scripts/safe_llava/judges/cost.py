"""What judging costs: tokens estimated before a call, the highest that it may come to, and dollars counted after it.

Nothing is known of a judge's tokenizer: text counts as a token for each four bytes, which is what English takes, and at
most as one for each two, which is what other scripts and lists of numbers take.
"""

from __future__ import annotations

import math
from typing import Any

from safe_llava.config.prism import Judge, Price
from safe_llava.core.errors import PrismError
from safe_llava.judges.calls import Call, Usage
from safe_llava.judges.store import VerdictStore

BYTES_PER_TOKEN, FEWEST_BYTES_PER_TOKEN = 4, 2
FRAME_TOKENS = 8  # of the roles around a message
BATCH_SHARE = 0.5  # the batch APIs of OpenAI and Gemini charge half


def estimated_usage(judge: Judge, call: Call, reply: str = "") -> Usage:
    """Return the tokens that a call may be expected to take, or took where its endpoint counts none."""
    said = math.ceil(_bytes(reply) / BYTES_PER_TOKEN)
    return Usage(math.ceil(_bytes(call.text) / BYTES_PER_TOKEN) + FRAME_TOKENS, max(judge.reply_tokens, said))


def highest_usage(judge: Judge, call: Call, longest: int) -> Usage:
    """Return the tokens that a call takes at most: to its cap, or, without one, as the longest reply so far took."""
    cap = call.max_tokens if call.max_tokens is not None else max(judge.reply_tokens, longest)
    return Usage(math.ceil(_bytes(call.text) / FEWEST_BYTES_PER_TOKEN) + FRAME_TOKENS, cap)


def price_for(judge: Judge, model: str) -> Price | None:
    """Return the price of one of a judge's models, or None where it is unknown."""
    return judge.leakage_prices if judge.leakage_model and model == judge.leakage_model else judge.prices


def cost_of(judge: Judge, model: str, usage: Usage, batch: bool = False) -> float | None:
    """Return what tokens cost, in US dollars, or None where the price is unknown."""
    price = price_for(judge, model)
    if price is None:
        return None
    dollars = (usage.prompt_tokens * price.input + usage.completion_tokens * price.output) / 1e6
    return dollars * (BATCH_SHARE if batch else 1.0)


def too_dear(judge: Judge, store: VerdictStore[Any]) -> PrismError:
    """Return the error of a judge that can ask nothing more."""
    return PrismError(
        f"the judge has cost ${store.spent_at_most:.4f}, and batches under way may come to ${store.in_batches():.4f}: "
        f"not one call more is sure to stay below max_cost (${judge.max_cost or 0.0:.4f})",
        "raise the judge's max_cost and run again: the verdicts so far are kept, and batches under way are picked up",
    )


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))
