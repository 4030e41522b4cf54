"""What judging costs: tokens estimated before a call, dollars counted after it, and the bound on both.

Nothing is known of a judge's tokenizer: text counts as a token for each four bytes, which is what English takes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from safe_llava.config.prism import Judge, Price
from safe_llava.core.errors import PrismError
from safe_llava.judges.client import Call, Usage

log = logging.getLogger(__name__)
BYTES_PER_TOKEN = 4
FRAME_TOKENS = 8  # of the roles around a message
BATCH_SHARE = 0.5  # the batch APIs of OpenAI and Gemini charge half


def estimated_usage(judge: Judge, call: Call) -> Usage:
    """Return the tokens that a call may be expected to take."""
    prompt = math.ceil(len(call.text.encode("utf-8", "surrogatepass")) / BYTES_PER_TOKEN) + FRAME_TOKENS
    return Usage(prompt, judge.reply_tokens)


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


def announce(
    judge: Judge,
    name: str,
    n_answers: int,
    n_different: int,
    missing: Sequence[Call],
    spent: float,
    batch: bool = False,
) -> None:
    """Say what is about to be asked and what it may cost, before the first call.

    Raises:
        PrismError: more than ``max_cost``, with what was spent before.
    """
    usage = sum((estimated_usage(judge, call) for call in missing), Usage(0, 0))
    costs = [cost_of(judge, call.model, estimated_usage(judge, call), batch) for call in missing]
    known = [cost for cost in costs if cost is not None]
    cost = sum(known)
    said = f"${cost:.4f}" if len(known) == len(costs) else "unknown (the row has no prices)"
    log.info(
        "judge %s: %d answers, %d different calls, %d there already, %d to ask%s; "
        "about %d tokens of prompts and %d of replies, estimated cost %s; spent before: $%.4f",
        *(name, n_answers, n_different, n_different - len(missing), len(missing)),
        *(" in batches" if batch else "", usage.prompt_tokens, usage.completion_tokens, said, spent),
    )
    if judge.max_cost is not None and missing and spent + cost > judge.max_cost:
        raise PrismError(
            f"judge {name}: {len(missing)} calls would cost about ${cost:.4f} beside the ${spent:.4f} spent before, "
            f"more than max_cost (${judge.max_cost:.4f})",
            "raise prism.judges.NAME.max_cost, or judge less; nothing was asked",
        )


class Budget:
    """The bound on what a judge may spend: what was spent, and what the calls under way may come to.

    Where replies cost more than was estimated (a model that reasons at length), calls under way are taken to do so too.

    Args:
        limit: US dollars, or None for no bound.
        spent: US dollars spent before.
    """

    def __init__(self, limit: float | None, spent: float) -> None:
        self.limit, self.spent, self.held = limit, spent, 0.0
        self.beside = 0.0  # what other processes have spent meanwhile
        self._estimated = self._taken = 0.0  # of the replies that came

    @property
    def untold(self) -> bool:
        """Whether there is a bound, and no reply yet to tell what one costs."""
        return self.limit is not None and self._taken == 0.0

    def allows(self, estimate: float) -> bool:
        """Return whether one more call of this estimate stays within the bound."""
        times = max(1.0, self._taken / self._estimated) if self._estimated else 1.0
        return self.limit is None or self.spent + self.beside + (self.held + estimate) * times <= self.limit

    def hold(self, estimate: float) -> None:
        """Set the estimate of a call aside while it is under way."""
        self.held += estimate

    def settle(self, estimate: float, cost: float) -> None:
        """Count what a call has cost in the place of its estimate; nothing, where it gave no reply."""
        self.held = max(0.0, self.held - estimate)
        self.spent += cost
        if cost:
            self._estimated += estimate
            self._taken += cost
