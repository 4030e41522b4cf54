"""The published counts as rows of a scores file, with the intervals that were never published.

``OVERALL`` and ``MACRO_AVG`` become ``macro``, ``SENTENCE_LEVEL`` becomes ``sentence``; a ``Hair`` row is dropped. What
was published without a count (macro and sentence of leakage) keeps its rate and has no interval. The interval of a
leakage rate is Wilson's with the photos as trials: as wide as if the three descriptions of a photo always agreed.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.formats.prism import EDITIONS
from safe_llava.formats.scores import Score
from safe_llava.formats.tables import write_table
from safe_llava.prism.scoring.published import read_published

log = logging.getLogger(__name__)


def select(scores: Sequence[Score], models: Sequence[str] | None) -> list[Score]:
    """Return the rows of the models; a model that nothing was published for is named in the log."""
    if models is None:
        return list(scores)
    for model in sorted(set(models) - {score.model for score in scores}):
        log.warning("nothing was published for model %s", model)
    return [score for score in scores if score.model in models]


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read the published counts and write them as scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--v1", type=Path, help="published counts of edition v1")
    parser.add_argument("--v2", type=Path, help="published counts of edition v2")
    parser.add_argument("--editions", nargs="+", choices=EDITIONS, help="by default those whose file is given")
    parser.add_argument("--models", nargs="+", help="by default all")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    files = {"v1": options.v1, "v2": options.v2}
    editions = options.editions or [edition for edition in EDITIONS if files[edition]]
    if not editions:
        raise PrismError("no published counts", "give --v1 or --v2")
    scores: list[Score] = []
    for edition in editions:
        if files[edition] is None:
            raise PrismError(f"edition {edition} has no file", f"give --{edition}")
        scores += read_published(files[edition], edition)
    kept = select(scores, options.models)
    write_table(options.out, Score, kept)
    log.info("%s: %d published rows", options.out, len(kept))
    return None


if __name__ == "__main__":
    cli.run(main)
