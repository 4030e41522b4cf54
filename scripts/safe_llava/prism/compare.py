"""PairedDifference differences between two models that were asked the same questions and judged by the same judge.

``python -m safe_llava.prism.compare --verdicts FILE… --pair SAFE ORIGINAL --out paired.csv``

Only questions with a verdict on both models count (``n_pairs``); ``n_only_first`` and ``n_only_second`` have one on
that model alone. Rates are those of the scores, over the pairs; ``difference`` is first minus second, in points.
``first_alone`` counts the pairs that raise the rate of the first model alone, ``second_alone`` those that raise the
second's alone.

- Where every photo is asked once: McNemar's exact test (``mcnemar_exact``) and Newcombe's interval (``newcombe``).
- Where photos repeat: both models' results are exchanged photo by photo, which gives each photo's difference a random
  sign (``sign_flip``: the exact distribution; ``sign_flip_drawn``: drawn signs, where sums have a very wide range);
  the interval draws photos with replacement (``cluster_bootstrap``). Where no photo differs from another, it is
  Newcombe's with as many pairs as photos (``newcombe_images``).

The p-values are two-sided, and not corrected for their number. Where more answers or verdicts of a pair's models are
missing than is allowed (none, unless said otherwise), no file is written.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from safe_llava.core import cli
from safe_llava.core.statistics import RESAMPLES, SEED
from safe_llava.formats.prism import Verdict, read_verdicts
from safe_llava.formats.scores import PairedDifference
from safe_llava.formats.tables import write_table
from safe_llava.prism.scoring.cells import SCORED_HELP, ScoredFor, grouped, leakage_scored, read_scored
from safe_llava.prism.scoring.completeness import ALLOWED_HELP, Allowed, refuse_incomplete
from safe_llava.prism.scoring.paired import paired_differences
from safe_llava.prism.scoring.rates import score_group

log = logging.getLogger(__name__)


def refuse_missing(
    verdicts: Iterable[Verdict], models: Iterable[str], choice: Mapping[str, ScoredFor], allowed: Allowed
) -> None:
    """Make sure that no more is missing of what the models were asked than is allowed.

    Raises:
        PrismError: see ``refuse_incomplete``.
    """
    named = set(models)
    own = grouped(verdict for verdict in verdicts if verdict.model in named)
    refuse_incomplete(
        [
            row
            for group, rows in own.items()
            # Counts are all that matters here.
            for row in score_group(group, rows, leakage_scored(group.edition, choice.get(group.edition)), resamples=1)
        ],
        allowed,
    )


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read verdicts, write the paired differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--verdicts", type=Path, nargs="+", required=True)
    parser.add_argument(
        "--pair", action="append", nargs=2, required=True, metavar=("FIRST", "SECOND"), help="models; may be repeated"
    )
    parser.add_argument("--leakage-scored", nargs="+", default=[], metavar="EDITION=own|all", help=SCORED_HELP)
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap, and of drawn signs")
    parser.add_argument("--seed", type=int, default=SEED, help="of the bootstrap, and of drawn signs")
    parser.add_argument("--allow-failed-answers", type=float, default=0.0, help=ALLOWED_HELP % "answers")
    parser.add_argument("--allow-failed-verdicts", type=float, default=0.0, help=ALLOWED_HELP % "verdicts")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    pairs = [(first, second) for first, second in options.pair]
    scored = read_scored(options.leakage_scored)
    verdicts = read_verdicts(options.verdicts)
    allowed = Allowed(options.allow_failed_answers, options.allow_failed_verdicts)
    refuse_missing(verdicts, [model for pair in pairs for model in pair], scored, allowed)
    rows = paired_differences(verdicts, pairs, scored, options.resamples, options.seed)
    log.info("%s: %d paired differences", options.out, write_table(options.out, PairedDifference, rows))
    return None


if __name__ == "__main__":
    cli.run(main)
