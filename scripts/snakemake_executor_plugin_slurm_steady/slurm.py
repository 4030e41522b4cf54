"""SLURM's commands, as functions that tell "no" from "no answer"."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from safe_llava.core.secrets import is_secret
from snakemake_executor_plugin_slurm_steady.fates import (
    ENDS,
    SACCT_FORMAT,
    SQUEUE_FORMAT,
    Sight,
    parse_given,
    parse_sacct,
    parse_squeue,
)

T = TypeVar("T")
SECONDS = 60
AWAY_SECONDS = 3600.0  # for a controller that is away while a job is to be submitted or ended
END_SECONDS = 3600.0  # within which a job that was cancelled has to end
# What the controller says, or its clients say for it, when the same request may be granted later.
TRY_LATER = re.compile(
    r"unable to contact slurm controller|socket timed out|connection (refused|reset|timed out)|zero bytes"
    r"|temporarily un|communication connection failure|not responding|standby mode|not connected"
    r"|(Max|Grp)SubmitJob|queue is full",
    re.IGNORECASE,
)
# The controller is there, and takes no more jobs until some have ended.
FULL = re.compile(r"(Max|Grp)SubmitJob|queue is full", re.IGNORECASE)
# A request that got no answer may have been granted all the same.
NO_ANSWER = re.compile(r"timed out|zero bytes|reset", re.IGNORECASE)
USER_IN_URL = re.compile(r"://[^/?#\s]*@")
# GPUs, or whole nodes, that the environment would ask for in every job, unseen by whoever counts their hours; what
# makes several jobs of one, or waits for it; and filters behind which a job that runs cannot be seen.
ASKED_BY_THE_WAY = re.compile(
    r"SBATCH_(GPUS(_PER_\w+)?|GRES|TRES_PER_\w+|EXCLUSIVE|ARRAY_INX|WAIT|CLUSTERS)"
    r"|SLURM_CLUSTERS|(SQUEUE|SACCT|SCANCEL)_\w+"
)


class SlurmError(Exception):
    """A command failed for good; the message is SLURM's."""


class NoAnswer(SlurmError):  # noqa: N818 (it is no fault of the job)
    """The daemon that was asked is away."""


def without_secrets(environment: dict[str, str]) -> dict[str, str]:
    """Leave out what names itself a secret, and addresses with a user (``https://user:password@host``).

    SLURM keeps a job's environment, on some sites in its accounting.
    """
    return {name: value for name, value in environment.items() if not is_secret(name) and not USER_IN_URL.search(value)}


def _for_slurm(environment: dict[str, str]) -> dict[str, str]:
    """What SLURM's commands see: no secrets, and nothing that changes what is asked of them."""
    kept = without_secrets(environment)
    return {name: value for name, value in kept.items() if not ASKED_BY_THE_WAY.fullmatch(name)}


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
            env=_for_slurm(dict(os.environ)),
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
    """Every job of this user that the controller remembers: one request, that it filters itself.

    ``-a``: a job in a partition that is hidden from the user is not shown otherwise.
    """
    return parse_squeue(call(["squeue", "-h", "-a", "-t", "all", "-u", getpass.getuser(), "-o", SQUEUE_FORMAT]))


def remembered(jobs: Sequence[str]) -> dict[str, Sight]:
    """How jobs ended, from the accounting; nothing where there is none, or it is away.

    A job whose end never reached the accounting runs there for ever: only ends are believed.
    """
    try:
        known = parse_sacct(call(["sacct", "-X", "-P", "-n", "-j", ",".join(jobs), "-o", SACCT_FORMAT]))
    except SlurmError:
        return {}
    return {job: sight for job, sight in known.items() if sight.state in ENDS}


def given(job: str) -> dict[str, int]:
    """What SLURM gave a job in memory and time, by the resources' names; nothing where the controller does not say."""
    try:
        return parse_given(call(["scontrol", "show", "job", "-o", job]))
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


def answered(ask: Callable[[], T], stopped: Callable[[float], bool]) -> T:
    """What SLURM answers; the controller may be away for a while.

    Raises:
        NoAnswer: it was away for ``AWAY_SECONDS``, or ``stopped`` says to give up.
    """
    deadline = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            return ask()
        except NoAnswer:
            if time.monotonic() > deadline or stopped(2.0):
                raise


def end(job: str, stopped: Callable[[float], bool]) -> None:
    """Cancel a job and wait until it has ended: no two may write the same files.

    Raises:
        SlurmError: it does not end, or ``stopped`` says to give up.
    """
    answered(lambda: cancel([job]), stopped)
    deadline = time.monotonic() + END_SECONDS
    while (sight := answered(mine, stopped).get(job)) is not None and sight.active:
        if time.monotonic() > deadline:
            raise SlurmError(f"job {job} was cancelled and does not end ({sight.state} on {sight.nodes or 'no node'})")
        if stopped(1.0):
            raise SlurmError(f"ended while job {job} was being cancelled")


def submit(
    command: str, script: str, name: str, stopped: Callable[[float], bool], seconds: float = AWAY_SECONDS
) -> str:
    """Submit a job and return its number; go on trying while the controller is away.

    Args:
        command: the sbatch call, as a line for the shell.
        name: the job's own: a submission that got no answer is looked for by it.
        stopped: waits so many seconds, and says whether to give up.
        seconds: seconds after which the absence of the controller is an error; a limit of submitted jobs is none
            while there are others, whose end makes room.

    Raises:
        NoAnswer: ``seconds`` is over, or ``stopped`` says so; SLURM may have taken the job all the same.
        SlurmError: SLURM refuses the job.
    """
    deadline, pause, unsure = time.monotonic() + seconds, 1.0, False
    while True:
        try:
            if unsure and (found := named(name)):
                return found
            return _number(call(command, script))
        except NoAnswer as error:
            unsure = unsure or bool(NO_ANSWER.search(str(error)))
            if FULL.search(str(error)) and _others():
                deadline = time.monotonic() + seconds
            if time.monotonic() > deadline or stopped(pause):
                raise
            pause = min(2 * pause, 30.0)


def _others() -> bool:
    """Whether jobs of this user are queued or run."""
    try:
        return any(sight.active for sight in mine().values())
    except SlurmError:
        return False


def named(name: str) -> str | None:
    """The number of the job with this name, if the controller remembers one.

    Raises:
        NoAnswer: the controller is away.
    """
    user = getpass.getuser()
    found = call(["squeue", "-h", "-a", "-t", "all", "-u", user, "--name", name, "-o", "%i"]).split()
    return next((one for one in found if one.isdecimal()), None)


def _number(text: str) -> str:
    """The job's number in what ``sbatch --parsable`` prints; sites put their own lines before it."""
    for line in reversed(text.splitlines()):
        if found := re.fullmatch(r"(\d+)(;\S+)?", line.strip()):
            return found[1]
    raise SlurmError(f"sbatch did not say the job's number: {text.strip()!r}")
