# Trivial jobs to which something happens: each rule makes one file, and writes a line to runs.RULE whenever it starts.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir).parents[1] / "scripts"))

from snakemake_executor_plugin_slurm_steady.script import TRAP

shell.prefix(TRAP + "set -euo pipefail; ")

FIRST = '[ "$(wc -l < runs.{rule})" = 1 ]'
SAY = "echo $SLURM_JOB_ID >> runs.{rule}; "
LONG = SAY + f"if {FIRST}; then sleep 900; fi; echo done > {{output}}"


wildcard_constraints:
    link="[0-9]+",


rule works:
    output:
        "works",
    shell:
        SAY + "env > environment; echo done > {output}"


rule bug:
    output:
        "bug",
    shell:
        SAY + "exit 1"


rule again:
    output:
        "again",
    shell:
        SAY + '[ "$(wc -l < runs.{rule})" = 3 ] || exit 75; echo done > {output}'


rule always_again:
    output:
        "always_again",
    shell:
        SAY + "exit 75"


# Memory that is really touched, beside what the job's own processes need.
rule memory:
    output:
        "memory",
    resources:
        mem_mb=450,
    shell:
        SAY + "python3 -c 'import time; x = bytearray(b\"x\") * (450 << 20); time.sleep(5)'; echo done > {output}"


rule killed:
    output:
        "killed",
    shell:
        SAY + f"if {FIRST}; then kill -9 $$; fi; echo done > {{output}}"


rule interrupted:
    output:
        "interrupted",
    shell:
        LONG


rule preempted:
    output:
        "preempted",
    resources:
        cpus_per_task=8,
    shell:
        LONG


rule time:
    output:
        "time",
    resources:
        runtime=1,
    shell:
        LONG


# A program that saves its work when it is told to stop, as the trainer does.
rule notice:
    output:
        "notice",
    resources:
        runtime=2,
        notice=60,
    shell:
        SAY + f"if {FIRST}; then bash -c 'trap \"sleep 2; exit 75\" TERM; sleep 900 & wait'; fi; echo done > {{output}}"


# For the tests that end Snakemake: the job takes a while, then is done.
rule slow:
    output:
        "slow",
    shell:
        SAY + "sleep 30; echo done > {output}"


rule impossible:
    output:
        "impossible",
    resources:
        runtime=600,
    shell:
        SAY + "echo done > {output}"


def link_before(wildcards):
    number = int(wildcards.link)
    return f"link.{number - 1}" if number else []


rule chain:
    input:
        link_before,
    output:
        "link.{link}",
    shell:
        "sleep 1; echo done > {output}"
