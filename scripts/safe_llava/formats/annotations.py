"""Annotation files in LLaVA's format: read one sample after the other, checked, and counted.

A file is a JSON list of samples, ``{"id", "image"?, "conversations": [{"from": "human" | "gpt", "value"}]}``, or one
sample a line (JSONL); what it begins with says which, whatever its name. Faults of a sample are errors; what the
published files are known to have (ids that come again, keys of some sources, conversations that begin with an answer)
is counted instead.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import ijson

from safe_llava.core.errors import DataError, damaged
from safe_llava.core.files import CHUNK_BYTES

HUMAN, GPT = "human", "gpt"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# Escaped backslashes, whole surrogate pairs, and in group 1 what is left: half a pair.
ESCAPES = re.compile(rb"\\(?:\\|u[dD](?:[89abAB]..\\u[dD][c-fC-F]..|([89a-fA-F])))", re.DOTALL)
LONGEST_ESCAPE = len(r"\ud83d\ude00")
READ_BYTES = 1 << 14  # how deep a row can get between two looks
DEEPEST = 5000
PLACEHOLDER = "<image>"
SAMPLE_KEYS = frozenset({"id", "image", "conversations"})
TURN_KEYS = frozenset({"from", "value"})


class Turn(NamedTuple):
    """What one side said once."""

    speaker: str
    text: str


def spoken(turns: Sequence[Turn]) -> Sequence[Turn]:
    """Return the turns that are trained on: all but a first one that is not the human's."""
    return turns[turns[0].speaker != HUMAN :]


class Sample(NamedTuple):
    """One sample: its number in the file (from 1), its id as text, its image if any, and its turns."""

    number: int
    id: str
    image: str | None
    turns: tuple[Turn, ...]

    @property
    def answers(self) -> list[str]:
        """What was answered, in order."""
        return [turn.text for turn in self.turns if turn.speaker == GPT]

    @property
    def teaches(self) -> bool:
        """Whether there is a supervised token: an answer to a question that is not empty."""
        return any(turn.speaker == GPT and turn.text for turn in spoken(self.turns))

    @property
    def words(self) -> int:
        """The whitespace-separated words of all turns, as written in the annotations."""
        return sum(len(turn.text.split()) for turn in self.turns)


@dataclass
class Facts:
    """What was counted while a file was read.

    Args:
        counts: how often each fact was met; a fact that was never met is absent.
        first: the first sample of each fact that is unusual, as (number, id).
        unknown_keys: how many samples have each key that is not LLaVA's.
        ids: how often each id came.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, tuple[int, str]] = field(default_factory=dict)
    unknown_keys: Counter[str] = field(default_factory=Counter)
    ids: Counter[str] = field(default_factory=Counter)

    def note(self, fact: str, sample: Sample) -> None:
        """Count an unusual fact of a sample."""
        self.counts[fact] += 1
        self.first.setdefault(fact, (sample.number, sample.id))

    def as_json(self) -> dict[str, Any]:
        """Return the facts, ready to be written."""
        repeated = [count for count in self.ids.values() if count > 1]
        return {
            "counts": dict(self.counts)
            | {"ids that come again": len(repeated), "samples that share their id": sum(repeated)},
            "first": {fact: {"sample": number, "id": name} for fact, (number, name) in self.first.items()},
            "unknown_keys": dict(self.unknown_keys),
        }


def read_samples(path: Path, facts: Facts | None = None) -> Iterator[Sample]:
    """Yield the samples of a file, each checked; a gigabyte takes some megabytes of memory.

    Args:
        path: the file.
        facts: where to count, if anywhere.

    Raises:
        DataError: the file is missing, is no list of samples, or a sample (named by its number and id, with the key)
            is not one. Samples that were yielded before are not taken back.
    """
    number, remedy = 0, damaged(path, "mend the row")
    for number, row in enumerate(read_rows(path, remedy), start=1):
        if fault := _sample_fault(row):
            name = f" (id {row['id']!r})" if isinstance(row, dict) and "id" in row else ""
            raise DataError(f"{path}: sample {number}{name}: {fault}", remedy)
        turns = tuple(Turn(turn["from"], turn["value"]) for turn in row["conversations"])
        sample = Sample(number, str(row["id"]), row.get("image"), turns)
        if facts is not None:
            _count(sample, row, facts)
        yield sample
    if not number:
        raise DataError(f"{path}: not a list of samples", remedy)


def read_rows(path: Path, remedy: str) -> Iterator[Any]:
    """Yield the items of a JSON list, or the objects of a JSONL file; nothing where the file holds something else.

    Raises:
        DataError: the file is missing, or is not JSON; the row is named. What was yielded before is not taken back.
    """
    number = 0
    try:
        with path.open("rb") as stream:
            backend = ijson.get_backend("python") if _holds_half_pair(stream) else ijson
            stream.seek(0)
            stream.seek(len(BYTE_ORDER_MARK) if stream.read(len(BYTE_ORDER_MARK)) == BYTE_ORDER_MARK else 0)
            lines = stream.peek(CHUNK_BYTES).lstrip()[:1] == b"{"
            watched = _Watched(stream, DataError(f"{path}: a row is nested too deeply", remedy))
            for row in backend.items(
                watched,
                "" if lines else "item",
                multiple_values=lines,
                use_float=True,
                buf_size=READ_BYTES,
                map_type=_Object,
            ):
                number, watched.open = number + 1, 0
                yield row
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file", remedy) from error
    except (ijson.JSONError, UnicodeDecodeError) as error:
        said = error.args[0] if error.args and isinstance(error.args[0], bytes) else str(error).encode()
        why = said.decode(errors="replace").strip().partition("\n")[0]
        raise DataError(f"{path}: not JSON: row {number + 1}: {why}", remedy) from error


class _Object(dict[str, Any]):
    """An object of a JSON text that remembers a key that comes again: JSON leaves open which value it has."""

    repeated = ""

    def __setitem__(self, key: str, value: Any) -> None:
        if key in self:
            self.repeated = key  # ijson's C parser takes no exception here
        super().__setitem__(key, value)


@dataclass
class _Watched:
    """A stream that ends with an error where brackets open and open: the parser's memory grows with their square."""

    stream: BinaryIO
    error: DataError
    open: int = 0

    def read(self, size: int) -> bytes:
        """Read on; brackets in texts count as well, so the bound is far above what rows have."""
        chunk = self.stream.read(size)
        self.open += sum(map(chunk.count, (b"[", b"{"))) - sum(map(chunk.count, (b"]", b"}")))
        if self.open > DEEPEST:
            raise self.error
        return chunk


def _holds_half_pair(stream: BinaryIO) -> bool:
    """Tell whether a JSON text has half a surrogate pair: ijson's C parser silently reads it as a question mark."""
    text = b""
    while chunk := stream.read(CHUNK_BYTES):
        text += chunk
        sure = judged = max(0, len(text) - LONGEST_ESCAPE)
        for found in ESCAPES.finditer(text):
            if found.start() >= sure:
                break
            if found[1]:
                return True
            judged = max(judged, found.end())
        text = text[judged:]
    return any(found[1] for found in ESCAPES.finditer(text))


def _sample_fault(row: Any) -> str | None:
    """Return what is wrong with a sample, beginning with the key, or None."""
    if not isinstance(row, dict):
        return "not an object"
    if isinstance(row, _Object) and row.repeated:
        return f"`{row.repeated}` comes twice"
    identity, image, turns = row.get("id"), row.get("image"), row.get("conversations")
    if not isinstance(identity, str | int) or isinstance(identity, bool) or identity == "":
        return "`id` is neither a text nor a whole number"
    if _has_half_pair(str(identity)):
        return "`id` holds half a surrogate pair, which is no character"
    if image is not None:
        if not isinstance(image, str) or not image or "\0" in image or _has_half_pair(image):
            return "`image` is not a path"
        if image.startswith("/") or (".." in image and ".." in PurePosixPath(image).parts):
            return f"`image` is {image!r}, not a path below its folder"
    if not isinstance(turns, list) or not turns:
        return "`conversations` is not a list of turns"
    for place, turn in enumerate(turns):
        if fault := _turn_fault(turn):
            return f"`conversations[{place}]{fault}"
    for place, (before, turn) in enumerate(pairwise(turns), start=1):
        if before["from"] == turn["from"]:
            return f"`conversations[{place}].from` is {turn['from']!r}, as in the turn before"
    return None


def _turn_fault(turn: Any) -> str | None:
    if not isinstance(turn, dict):
        return "` is not an object"
    if isinstance(turn, _Object) and turn.repeated:
        return f".{turn.repeated}` comes twice"
    if turn.get("from") not in (HUMAN, GPT):
        return f".from` is {turn.get('from')!r}, not {HUMAN!r} or {GPT!r}"
    text = turn.get("value")
    if not isinstance(text, str):
        return ".value` is not a text"
    return ".value` holds half a surrogate pair, which is no character" if _has_half_pair(text) else None


def _has_half_pair(text: str) -> bool:
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _count(sample: Sample, row: Mapping[str, Any], facts: Facts) -> None:
    counts, turns = facts.counts, sample.turns
    facts.ids[sample.id] += 1
    counts["samples"] += 1
    counts["samples with an image" if sample.image is not None else "samples without an image"] += 1
    for turn in turns:
        counts["questions" if turn.speaker == HUMAN else "answers"] += 1
        if not turn.text.strip():
            facts.note("empty questions" if turn.speaker == HUMAN else "empty answers", sample)
    if turns[0].speaker != HUMAN:
        facts.note("conversations that begin with an answer", sample)
    if turns[-1].speaker != GPT:
        facts.note("conversations that end with a question", sample)
    if not sample.teaches:
        facts.note("samples that teach nothing", sample)
    _count_placeholders(sample, facts)
    keys = row.keys() - SAMPLE_KEYS
    for turn in row["conversations"]:
        if len(turn) > len(TURN_KEYS):
            keys |= {f"conversations.{key}" for key in turn.keys() - TURN_KEYS}
    facts.unknown_keys.update(keys)


def _count_placeholders(sample: Sample, facts: Facts) -> None:
    shown = sum(turn.text.count(PLACEHOLDER) for turn in sample.turns if PLACEHOLDER in turn.text)
    if sample.image is None and shown:
        facts.note(f"{PLACEHOLDER} without an image", sample)
    elif sample.image is not None and shown != 1:
        facts.note(f"an image without {PLACEHOLDER}" if not shown else f"an image with several {PLACEHOLDER}", sample)
        return
    if any(PLACEHOLDER in turn.text for turn in sample.turns if turn.speaker == GPT):
        facts.note(f"{PLACEHOLDER} in an answer", sample)


def read_all(paths: Sequence[Path], facts: Facts | None = None) -> Iterator[Sample]:
    """Yield the samples of several files as of one, numbered on."""
    before = 0
    for path in paths:
        number = 0
        for number, sample in enumerate(read_samples(path, facts), start=1):
            yield sample._replace(number=before + number) if before else sample
        before += number
