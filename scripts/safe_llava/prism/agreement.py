"""Agreement of a judge's verdicts with labels given by hand: accuracy and Cohen's kappa.

The labels' columns are ``model,task,question_id,index,answer_id,label``; ``safe_llava.prism.sample`` draws the answers.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from safe_llava.core import cli
from safe_llava.formats.prism import read_verdicts
from safe_llava.formats.tables import write_table
from safe_llava.prism.scoring.labels import LabelAgreement, agreements, pair_labels, read_labels

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int | None:
    """Read labels and verdicts, write their agreement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--verdicts", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    pairs = pair_labels(read_labels(options.labels), read_verdicts(options.verdicts))
    rows = [row for judge, found in pairs.items() for row in agreements(judge, found)]
    write_table(options.out, LabelAgreement, rows)
    for row in rows:
        log.info("%s %s %s: n %d, accuracy %s, kappa %s", row.judge, row.task, row.what, row.n, row.accuracy, row.kappa)
    return None


if __name__ == "__main__":
    cli.run(main)
