# Trivial jobs to which something happens: each rule makes one file, and writes a line to runs.RULE whenever it starts.
import sys
from pathlib import Path

sys.path.insert(0, str(Path(workflow.basedir).parents[1] / "scripts"))

from snakemake_executor_plugin_slurm_steady.script import TRAP

shell.prefix(TRAP + "set -euo pipefail; ")

FIRST = '[ "$(wc -l < runs.{rule})" = 1 ]'
SAY = "echo $SLURM_JOB_ID >> runs.{rule}; "
IMAGE = config.get("image")  # none for most tests
LONG = SAY + f"if {FIRST}; then sleep 900; fi; echo done > {{output}}"


wildcard_constraints:
    link="[0-9]+",


rule works:
    output:
        "works",
    container:
        IMAGE
    shell:
        SAY + "env > environment; ls /sys/class/net > networks; echo done > {output}"


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


# Memory that is really touched, beside what the job's own processes need; a kill goes through the controller, which
# another test may have taken away for a while.
rule memory:
    output:
        "memory",
    resources:
        mem_mb=450,
    params:
        seconds=60,
    shell:
        SAY
        + "python3 -c 'import time; x = bytearray(b\"x\") * (450 << 20); time.sleep({params.seconds})'; echo done > {output}"


# A rule that asks for no memory: it gets its partition's default, 100 MB a CPU.
rule memory_unsaid:
    output:
        "memory_unsaid",
    resources:
        mem_mb=0,
    shell:
        SAY + "python3 -c 'import time; x = bytearray(b\"x\") * (250 << 20); time.sleep(30)'; echo done > {output}"


# A node whose GPU is broken: the program's log says so, as CUDA does.
rule faulty:
    output:
        "faulty",
    log:
        "faulty.log",
    shell:
        SAY
        + "scontrol show job -o $SLURM_JOB_ID | grep -o ' NodeList=[^ ]*' >> nodes; "
        + f"if {FIRST}; then echo 'CUDA error: uncorrectable ECC error encountered' > {{log}}; exit 1; fi; "
        "echo done > {output}"


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
        runtime=3,
        notice=60,
    shell:
        SAY
        + f"if {FIRST}; then bash -c 'trap \"sleep 2; exit 75\" WINCH; sleep 900 & wait'; fi; echo done > {{output}}"


# For the tests that end Snakemake: the job takes a while, or until it may go, then is done.
rule slow:
    output:
        "slow",
    params:
        seconds=config.get("seconds", 30),
    shell:
        SAY + "for second in $(seq {params.seconds}); do [ ! -e go ] || break; sleep 1; done; echo done > {output}"


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


# A training that takes a whole node, so that whoever is preferred has to take it away.
rule train:
    output:
        "train",
    container:
        IMAGE
    resources:
        cpus_per_task=8,
        mem_mb=3000,
        notice=60,
    params:
        arguments=config.get("arguments", ""),
    shell:
        SAY + "python -m safe_llava.train.launch --processes 2 -- {params.arguments}; echo done > {output}"


# One job of two nodes, as the training rules have it: its shell runs on the first and starts a launcher on each.
rule spread:
    output:
        "spread",
    resources:
        mpi=0,
        nodes=2,
        gpu=0,
        gres="gpu:2",
        cpus_per_task=2,
        mem_mb=3000,
    params:
        module=config.get("module", "spread"),
        arguments=config.get("arguments", ""),
        inside=f"apptainer exec {IMAGE}" if IMAGE else "",
    shell:
        SAY + "srun --nodes={resources.nodes} --ntasks-per-node=1 --cpus-per-task=2 --wait=120 --kill-on-bad-exit=0 "
        "{params.inside} python -m safe_llava.train.launch --processes 2 --nodes 2 "
        '--rendezvous "$(hostname):$((20000 + SLURM_JOB_ID % 20000))" --module {params.module} -- {params.arguments}; '
        "echo done > {output}"
