"""Which sample of one annotation file is which of another: by id, whatever the order, though ids come again.

Both are read side by side. Samples that come in the same order are paired as they come; of those that do not, only
their packed text waits in memory.
"""

from __future__ import annotations

import json
import zlib
from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import zip_longest
from typing import Any, Literal

from safe_llava.formats.annotations import HUMAN, Sample, Turn

SamplePair = tuple[Sample | None, Sample | None]
What = Literal["changed", "added", "dropped", "image", "sample added", "sample dropped"]


@dataclass(frozen=True)
class TurnDifference:
    """One way in which a sample differs.

    Args:
        id: the sample's.
        sample: its number in the safe set (in the original one where the safe one has it not), from 1.
        turn: the turn's number in the original (where it was added: in the safe one), from 1; empty for a sample.
        speaker: whose turn it is.
        what: what became of it.
        original, safe: what is said there, or the image; empty on the side that has none.
    """

    id: str
    sample: int
    turn: int | None
    speaker: str
    what: What
    original: str
    safe: str


def pairs(original: Iterable[Sample], safe: Iterable[Sample]) -> Iterator[SamplePair]:
    """Yield pairs (original, safe) with the same id; None stands for a sample that the other side has not.

    Samples that share their id are paired by what they have in common: image and questions, image and first question,
    image, and the rest as they come.
    """
    waiting: tuple[_Waiting, _Waiting] = (_Waiting(), _Waiting())
    for one, other in zip_longest(original, safe):
        if one is not None and other is not None and _by_questions(one) == _by_questions(other):
            yield one, other
            continue
        for side, sample in enumerate((one, other)):
            if sample is None:
                continue
            partner = waiting[1 - side].take(_by_questions(sample))
            if partner is None:
                waiting[side].put(_by_questions(sample), sample)
            else:
                yield (sample, partner) if side == 0 else (partner, sample)
    yield from _rest(waiting[0].left(), waiting[1].left())


def moved(places: Sequence[int]) -> int:
    """Return how many of a list of different numbers have to be moved to put the list in order."""
    tails: list[int] = []
    for place in places:
        at = bisect_left(tails, place)
        tails[at : at + 1] = [place]
    return len(places) - len(tails)


class _Waiting:
    """Samples of one side whose partner has not come, by what identifies them."""

    def __init__(self) -> None:
        self._packed: dict[bytes, deque[bytes]] = {}

    def put(self, key: bytes, sample: Sample) -> None:
        self._packed.setdefault(key, deque()).append(_pack(sample))

    def take(self, key: bytes) -> Sample | None:
        found = self._packed.get(key)
        if found is None:
            return None
        packed = found.popleft()
        if not found:
            del self._packed[key]
        return _unpack(packed)

    def left(self) -> list[bytes]:
        left = [packed for several in self._packed.values() for packed in several]
        self._packed.clear()
        return left


def _rest(originals: list[bytes], safes: list[bytes]) -> Iterator[SamplePair]:
    """Pair what is left by less and less, then give what has no partner, each side in its own order."""
    for key in (_by_first_question, _by_image, _by_id):
        places: dict[bytes, deque[int]] = {}
        for place, packed in enumerate(safes):
            places.setdefault(key(_unpack(packed)), deque()).append(place)
        alone, taken = [], set()
        for packed in originals:
            sample = _unpack(packed)
            found = places.get(key(sample))
            if not found:
                alone.append(packed)
                continue
            taken.add(found[0])
            yield sample, _unpack(safes[found.popleft()])
        originals, safes = alone, [packed for place, packed in enumerate(safes) if place not in taken]
    yield from ((_unpack(packed), None) for packed in originals)
    yield from ((None, _unpack(packed)) for packed in safes)


def _by_questions(sample: Sample) -> bytes:
    return _key(sample.id, sample.image, [turn.text for turn in sample.turns if turn.speaker == HUMAN])


def _by_first_question(sample: Sample) -> bytes:
    return _key(sample.id, sample.image, [turn.text for turn in sample.turns if turn.speaker == HUMAN][:1])


def _by_image(sample: Sample) -> bytes:
    return _key(sample.id, sample.image, None)


def _by_id(sample: Sample) -> bytes:
    return _key(sample.id, None, None)


def _key(*parts: Any) -> bytes:
    return blake2b(json.dumps(parts).encode(), digest_size=16).digest()


def _pack(sample: Sample) -> bytes:
    return zlib.compress(json.dumps(sample).encode(), 1)


def _unpack(packed: bytes) -> Sample:
    number, name, image, turns = json.loads(zlib.decompress(packed))
    return Sample(number, name, image, tuple(Turn(*turn) for turn in turns))
