"""Make a page that shows every question with its image, the models' answers side by side, and each judge's verdict.

The page needs no network: open it from the disk. Its data lie in the folder of the same name beside it, which has to be
copied with it. Marked are the words that the rule-based judge's verdict rests on.

``python -m safe_llava.prism.browse --answers FILE… --verdicts FILE… --images v1=FOLDER --out browse.html``
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from safe_llava.core import cli
from safe_llava.core.errors import PrismError
from safe_llava.prism.browsing.gather import gather
from safe_llava.prism.browsing.pages import write_pages

RELEASED = " (released)"
log = logging.getLogger(__name__)


def read_folders(pairs: Iterable[str]) -> dict[str, list[Path]]:
    """Return the image folders of each edition, from ``edition=folder``.

    Raises:
        PrismError: a pair has no equals sign, or a side of it is empty.
    """
    found: dict[str, list[Path]] = {}
    for pair in pairs:
        edition, _, folder = pair.partition("=")
        if not (edition and folder):
            raise PrismError(f"--images {pair!r} is no pair", "write it as edition=folder")
        found.setdefault(edition, []).append(Path(folder))
    return found


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read answers and verdicts, write the page."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--answers", type=Path, nargs="*", default=[], help="answers files")
    parser.add_argument("--verdicts", type=Path, nargs="*", default=[], help="verdicts on them")
    parser.add_argument("--released", type=Path, nargs="*", default=[], help="answers files that upstream released")
    parser.add_argument("--released-verdicts", type=Path, nargs="*", default=[], help="verdicts on them")
    parser.add_argument("--images", action="append", default=[], metavar="EDITION=FOLDER", help="may be repeated")
    parser.add_argument("--title", default="PRISM: questions, answers and verdicts")
    parser.add_argument("--out", type=Path, required=True, help="the page, an .html file")
    options = parser.parse_args(argv)
    if not (options.answers or options.released):
        raise PrismError("there is nothing to show", "give answers files with --answers or --released")
    questions, columns = gather(
        {"": options.answers, RELEASED: options.released},
        {"": options.verdicts, RELEASED: options.released_verdicts},
        options.out.parent,
    )
    count = write_pages(options.out, questions, columns, read_folders(options.images), options.title)
    log.info("%s: %d questions, %d models, %d data files", options.out, len(questions), len(columns), count)
    return None


if __name__ == "__main__":
    cli.run(main)
