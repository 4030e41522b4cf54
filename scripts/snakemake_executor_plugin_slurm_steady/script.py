"""The batch script of a job, and the record in which the job says how it ended.

An exit code does not reach SLURM: between the rule's shell and the batch script is a Snakemake, which turns every
failure into 1. So the shell of a rule says it itself, where the environment variable ``RECORD`` names a file
(``TRAP``, which the workflow puts before each rule's command), and the batch script says when it is over. The shell
runs in the rule's image, and says in which. The launcher of each machine of a training has a file of its own beside
the record: to append to one file from several machines is not atomic on NFS.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from safe_llava.core.cli import JOB_RECORD as RECORD
from safe_llava.core.cli import NOTICE

# Where SLURM ends a job, SIGTERM may come to all processes of a step. The rule's shell has to outlive it, or nobody
# waits for the program that saves its work; with a handler, unlike with "ignore", the program itself still gets it.
# Snakemake formats the prefix of its shells: braces are doubled.
TRAP = (
    f'if [ -n "${{{{{RECORD}:-}}}}" ]; then echo "started ${{{{APPTAINER_CONTAINER:-}}}}" >> "${RECORD}"; trap : TERM; '
    f'trap \'echo "exit $?" >> "${RECORD}"\' EXIT; fi; '
)


# The first process of a step. With cgroups a signal reaches it alone (``SignalChildrenProcesses`` in cgroup.conf): it
# passes on, to all of its group, that the work is to be saved. It waits for its child, whatever wakes it. A signal can
# end a wait in the moment in which the child ends and is no more: only the wait after that has the child's code, or
# 127 where the code was told already.
PASS_ON = (
    f"trap 'trap : {NOTICE:d}; kill -{NOTICE:d} 0' TERM {NOTICE:d}; "
    '"$@" & wait $!; code=$?; while [ $code -gt 128 ] && kill -0 $! 2> /dev/null; do wait $!; code=$?; done; '
    "[ $code -le 128 ] || { wait $!; last=$?; [ $last -eq 127 ] || code=$last; }; exit $code"
)

# What sbatch put there for the whole job would be taken by srun as said for each step. What names the job, or finds
# the controller, stays.
FORGET = (
    "unset $(env | sed -n 's/^\\(\\(SLURM\\|SRUN\\|SBATCH\\)_[A-Z0-9_]*\\)=.*/\\1/p' | grep -vxE "
    "'SLURM_(CONF|CONF_SERVER|JOB_ID|JOBID|JOB_NODELIST|CLUSTER_NAME|SUBMIT_DIR|SUBMIT_HOST)') _"
)


def batch_script(command: str, record: Path, events: Path) -> str:
    """Return the script that sbatch gets: the command, with its record, and a word to the waiting Snakemake."""
    paths = {"record": shlex.quote(str(record)), "events": shlex.quote(str(events))}
    return (
        "#!/bin/sh\n"
        f"export {RECORD}={paths['record']}\n"
        # SLURM may run the job once more: what the launchers said before is no longer true.
        f'rm -f "${RECORD}".*; echo started-batch >> "${RECORD}"\n'
        f"{FORGET}\n"
        f"{command}\n"
        "code=$?\n"
        f'echo "batch $code" >> "${RECORD}"\n'
        # Whatever becomes of this line, the job has ended as it did.
        f"echo >> {paths['events']} || true\n"
        "exit $code\n"
    )
