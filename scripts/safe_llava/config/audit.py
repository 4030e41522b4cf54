"""The ``data.audit`` section: which sets of annotations are set beside the ones that they were made from."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from safe_llava.config.base import Name, Row


class AuditPair(Row):
    """A cleaned set of annotations and the one that it was made from."""

    original: Name = Field(description="Row of `data.sets` of the kind annotations, as it was before.")
    safe: Name = Field(description="Row of `data.sets` of the kind annotations, cleaned.")
    published: dict[Literal["Age", "Gender", "Race", "Eye_Color", "Weight"], int] = Field(
        default={}, description="Published numbers of mentions in the original set, shown beside those counted here."
    )


class AuditConfig(Row):
    """The comparison of annotations, and the count of what they mention of people."""

    pairs: list[AuditPair] = Field(default=[], description="Sets that are compared and counted.")

    @property
    def sets(self) -> list[str]:
        """The sets of all pairs, each once."""
        return list(dict.fromkeys(name for pair in self.pairs for name in (pair.original, pair.safe)))

    @model_validator(mode="after")
    def _one_original_each(self) -> Self:
        safe = [pair.safe for pair in self.pairs]
        if twice := sorted({name for name in safe if safe.count(name) > 1}):
            raise ValueError(f"pairs: {', '.join(twice)} is the safe set of two pairs; it was made from one")
        if same := [pair.safe for pair in self.pairs if pair.safe == pair.original]:
            raise ValueError(f"pairs: {same[0]} is beside itself")
        return self
