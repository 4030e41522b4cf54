"""Count how many samples and answers of a set of annotations mention an attribute of people.

`python -m safe_llava.data.audit --annotations FILE… --out OUT.json [--processes N]`. Only answers are counted, for a
model learns these; a sample counts once for an attribute, however many of its answers mention it. Two measures: what
PRISM's rules take for a mention or a hint (``implied``), and the values that are said outright (``named``).
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from safe_llava.core import cli
from safe_llava.core.files import file_digest, write_json
from safe_llava.core.progress import Progress
from safe_llava.formats.annotations import Facts, Sample, read_all
from safe_llava.formats.prism import Attribute
from safe_llava.lexicon import named_words as audit_words
from safe_llava.lexicon.mentions import MEASURES, find_mentions
from safe_llava.lexicon.rules import rules_version

logger = logging.getLogger(__name__)
ANY = "any"
ALL, WITH_IMAGE = "all", "with image"
PARTS = (ALL, WITH_IMAGE)
PART_SAMPLES = 2000  # that one process is given at once
WAITING = 3  # parts a process that are read ahead

# (part, measure, attribute, unit): the unit is "samples" or "answers".
MentionKey = tuple[str, str, str, str]
Texts = list[tuple[bool, list[str]]]


def count_part(samples: Texts) -> Counter[MentionKey]:
    """Count the mentions in some samples, each given as whether it has an image, and its answers."""
    counts: Counter[MentionKey] = Counter()
    for has_image, answers in samples:
        parts = PARTS if has_image else (ALL,)
        found = [find_mentions(answer) for answer in answers]
        for measure in MEASURES:
            mentioned = [getattr(one, measure) for one in found]
            once: set[Attribute] = set().union(*mentioned)
            tally = Counter(str(name) for one in mentioned for name in one)
            tally[ANY] = sum(map(bool, mentioned))
            for part in parts:
                counts.update({(part, measure, name, "answers"): count for name, count in tally.items() if count})
                counts.update((part, measure, name, "samples") for name in ([*map(str, once), ANY] if once else []))
    return counts


def count_mentions(samples: Iterable[Sample], processes: int = 1) -> Counter[MentionKey]:
    """Count the mentions of all samples, and under the attribute "" how many samples and answers there are."""
    counts: Counter[MentionKey] = Counter()
    progress = Progress(None, "look for mentions", "samples")
    parts = _parts(samples, counts, progress)
    first = next(parts, [])
    if processes == 1 or len(first) < PART_SAMPLES:
        for part in (first, *parts):
            counts.update(count_part(part))
    else:
        # Spawned: a process that is forked may inherit another thread's lock.
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            waiting: deque[Future[Counter[MentionKey]]] = deque([pool.submit(count_part, first)])
            for part in parts:
                if len(waiting) > WAITING * processes:
                    counts.update(waiting.popleft().result())
                waiting.append(pool.submit(count_part, part))
            for done in waiting:
                counts.update(done.result())
    progress.close()
    return counts


def _parts(samples: Iterable[Sample], counts: Counter[MentionKey], progress: Progress) -> Iterator[Texts]:
    stream = iter(samples)
    while part := [(sample.image is not None, sample.answers) for sample in islice(stream, PART_SAMPLES)]:
        for name, within in ((ALL, part), (WITH_IMAGE, [one for one in part if one[0]])):
            counts[name, "", "", "samples"] += len(within)
            counts[name, "", "", "answers"] += sum(len(answers) for _, answers in within)
        progress.update(len(part))
        yield part


def audit(files: Sequence[Path], processes: int = 1) -> dict[str, Any]:
    """Return the counts of a set of annotations, ready to be written.

    Raises:
        DataError: a file is missing, or has a sample that is none.
    """
    facts = Facts()
    counts = count_mentions(read_all(files, facts), processes)
    names = [*map(str, Attribute), ANY]
    rows = [
        {"part": part, "measure": measure, "attribute": name}
        | {unit: counts[part, measure, name, unit] for unit in ("samples", "answers")}
        for part in PARTS
        for measure in MEASURES
        for name in names
    ]
    return {
        "files": {path.name: file_digest(path) for path in files},
        "total": {part: {unit: counts[part, "", "", unit] for unit in ("samples", "answers")} for part in PARTS},
        "mentions": rows,
        "rules_version": rules_version(),
        "words_version": file_digest(audit_words.__file__)[:16],
        **facts.as_json(),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Audit one set of annotations."""
    parser = argparse.ArgumentParser(description="Count the answers that mention an attribute of people.")
    parser.add_argument("--annotations", type=Path, nargs="+", required=True, metavar="FILE.json")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    parser.add_argument("--processes", type=int, default=1, help="processes that look for mentions at once")
    args = parser.parse_args(argv)
    result = audit(args.annotations, args.processes)
    for row in result["mentions"]:
        if row["part"] == ALL:
            logger.info("%s %s: %s samples", row["measure"], row["attribute"], f"{row['samples']:,}")
    write_json(args.out, result)


if __name__ == "__main__":
    cli.run(main)
