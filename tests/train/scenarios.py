"""Run several trainings in one start of the processes: importing and starting cost more than training.

Usage: ``… scenarios.py FILE.json``, a mapping of names to command lines of ``safe_llava.train.run``. A known
error of the first process is written to ``NAME.error`` beside the file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from safe_llava.core.errors import SafeLlavaError
from safe_llava.train import run


def main() -> None:
    file = Path(sys.argv[1])
    for name, argv in json.loads(file.read_text()).items():
        try:
            run.train(run.parser().parse_args(argv))
        except SafeLlavaError as error:
            if torch.distributed.get_rank() == 0:
                (file.parent / f"{name}.error").write_text(str(error))


if __name__ == "__main__":
    main()
