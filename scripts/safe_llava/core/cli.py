"""What every step's command line shares: logging, errors, exit codes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence

from safe_llava.core.errors import SafeLlavaError

EXIT_ERROR = 1
FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
# Names the file in which a cluster job records how it ended (slurm-steady's ``script.py``); each of its machines
# records in FILE.NODE. Unset elsewhere.
JOB_RECORD = "SAFE_LLAVA_JOB_RECORD"
# Asks a training on a cluster to save its work. A process that does not wait for this signal ignores it: SLURM may send
# it to every process of a step, also to those that serve a container image's files.
NOTICE = signal.SIGWINCH
EXIT_RUN_AGAIN = 75  # EX_TEMPFAIL of sysexits.h: the work is saved, and the same command resumes it


def run(main: Callable[[Sequence[str] | None], int | None]) -> None:
    """Run a step's ``main(argv)``: log to standard error, print a known fault and its remedy, exit.

    Unknown exceptions keep their traceback: they are defects of this code, not of the user's input.
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
        if error.errno in FULL:
            said, remedy = f"{error.filename or 'a disk'}: {error.strerror} (bytes or inodes)", "make room"
        elif error.errno in NOT_ALLOWED and error.filename:
            said, remedy = (
                f"{error.filename}: {error.strerror}",
                "name another place, or give this user access",
            )
        else:
            raise
        print(f"error: {said}\n  remedy: {remedy}, then run the same command", file=sys.stderr)
        sys.exit(EXIT_ERROR)
    sys.exit(code or 0)
