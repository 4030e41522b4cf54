"""SLURM's commands, as functions that tell "no" from "no answer"."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence

from snakemake_executor_plugin_slurm_steady.fates import (
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    Sight,
    parse_sacct,
    parse_squeue,
)

SECONDS = 60
# What the controller says, or its clients say for it, when the same request may be granted later.
TRY_LATER = re.compile(
    r"unable to contact slurm controller|socket timed out|connection (refused|reset|timed out)|zero bytes"
    r"|temporarily un|communication connection failure|not responding|standby mode|not connected"
    r"|MaxSubmitJob|queue is full",
    re.IGNORECASE,
)
# A request that got no answer may have been granted all the same.
NO_ANSWER = re.compile(r"timed out|zero bytes|reset", re.IGNORECASE)
SECRET = re.compile(r"(_API_KEY|_TOKEN|_SECRET|_PASSWORD|_KEY)$")


class SlurmError(Exception):
    """A command failed for good; the message is SLURM's."""


class NoAnswer(SlurmError):  # noqa: N818 (it is no fault of the job)
    """The daemon that was asked is away."""


def without_secrets(environment: dict[str, str]) -> dict[str, str]:
    """Leave out what names itself a secret: SLURM keeps a job's environment, on some sites in its accounting."""
    return {name: value for name, value in environment.items() if not SECRET.search(name)}


def call(command: Sequence[str] | str, text: str | None = None) -> str:
    """Run a command of SLURM and return what it prints.

    Raises:
        NoAnswer: it got none within a minute, or says that the daemon is away.
        SlurmError: anything else went wrong.
    """
    try:
        done = subprocess.run(
            command,
            input=text,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            shell=isinstance(command, str),
            env=without_secrets(dict(os.environ)),
            check=False,
            # Ctrl-C is for Snakemake, which decides what becomes of the jobs.
            start_new_session=True,
        )
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"no answer in {SECONDS} s: timed out") from error
    except OSError as error:
        raise SlurmError(f"{error}") from error
    if done.returncode == 0:
        return done.stdout
    message = done.stderr.strip() or f"exit code {done.returncode}"
    raise (NoAnswer if TRY_LATER.search(message) else SlurmError)(message)


def mine() -> dict[str, Sight]:
    """Every job of this user that the controller remembers: one request, that it filters itself."""
    return parse_squeue(call(["squeue", "-h", "-t", "all", "-u", getpass.getuser(), "-o", SQUEUE_FORMAT]))


def remembered(jobs: Sequence[str]) -> dict[str, Sight]:
    """What the accounting says about jobs; nothing where there is none, or it is away."""
    try:
        return parse_sacct(call(["sacct", "-X", "-P", "-n", "-j", ",".join(jobs), "-o", SACCT_FORMAT]))
    except SlurmError:
        return {}


def cancel(jobs: Sequence[str]) -> None:
    """Cancel jobs; one that has ended is no error.

    Raises:
        NoAnswer: the controller is away.
    """
    for first in range(0, len(jobs), 100):
        try:
            call(["scancel", "-Q", *jobs[first : first + 100]])
        except NoAnswer:
            raise
        except SlurmError:
            continue


def submit(command: str, script: str, name: str, stopped: Callable[[float], bool], patience: float) -> str:
    """Submit a job and return its number; go on trying while the controller is away.

    Args:
        command: the sbatch call, as a line for the shell.
        name: the job's own: a submission that got no answer is looked for by it.
        stopped: waits so many seconds, and says whether to give up.
        patience: seconds after which the absence of the controller is an error.

    Raises:
        SlurmError: SLURM refuses the job, or ``patience`` is over.
    """
    deadline, pause, unsure = time.monotonic() + patience, 1.0, False
    while True:
        try:
            if unsure and (found := _named(name)):
                return found
            return _number(call(command, script))
        except NoAnswer as error:
            unsure = unsure or bool(NO_ANSWER.search(str(error)))
            if time.monotonic() > deadline or stopped(pause):
                raise
            pause = min(2 * pause, 30.0)


def _named(name: str) -> str | None:
    user = getpass.getuser()
    found = call(["squeue", "-h", "-t", "all", "-u", user, "--name", name, "-o", "%i"]).split()
    return found[0] if found else None


def _number(text: str) -> str:
    """The job's number in what ``sbatch --parsable`` prints; sites put their own lines before it."""
    for line in reversed(text.splitlines()):
        if found := re.fullmatch(r"(\d+)(;\S+)?", line.strip()):
            return found[1]
    raise SlurmError(f"sbatch did not say the job's number: {text.strip()!r}")
