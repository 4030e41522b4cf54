"""What every step's command line does alike: logging, errors, exit codes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from safe_llava.core.errors import SafeLlavaError

EXIT_ERROR = 1
# Names the file in which a job on a cluster says how it ended (slurm-steady's ``script.py``), and each machine of it in
# FILE.NODE; unset elsewhere.
JOB_RECORD = "SAFE_LLAVA_JOB_RECORD"
# Tells a training on a cluster to save its work. Whatever does not wait for this signal ignores it: SLURM may send it
# to every process of a step, to those that serve an image's files, too.
NOTICE = signal.SIGWINCH
EXIT_RUN_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the work is saved, the same command goes on with it


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run a step's ``main(argv)``: log to standard error, print a known fault and its remedy, exit.

    Unknown exceptions keep their traceback: they are defects of ours, not of the user's input.
    """
    logging.basicConfig(
        level=os.environ.get("SAFE_LLAVA_LOG_LEVEL", "INFO"),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        datefmt="%Y-%m-%d %H:%M:%S",
        stream=sys.stderr,
    )
    try:
        code = main(None)
    except SafeLlavaError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(f"error: {error.filename or 'a disk'}: {error.strerror} (bytes or inodes)", file=sys.stderr)
        print("  remedy: make room, then run the same command", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    sys.exit(code or 0)
