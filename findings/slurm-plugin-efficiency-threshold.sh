#!/usr/bin/env bash
# snakemake-executor-plugin-slurm 2.8.0: its efficiency report is to warn of jobs below a threshold, a fraction (0.8 by
# default; other values than 0 to 1 are refused), and compares it with percent: a job that used half of its CPUs is not
# named. Run it without arguments; it installs the published package into a temporary folder, and fails if that changes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" -q install snakemake-executor-plugin-slurm==2.8.0 snakemake==9.27.1
"$work/venv/bin/python" - << 'PYTHON'
import importlib.metadata
import logging

from snakemake_executor_plugin_slurm.efficiency_report import parse_sacct_data

print("snakemake-executor-plugin-slurm", importlib.metadata.version("snakemake-executor-plugin-slurm"))
said = []
logger = logging.getLogger("report")
logger.warning = said.append
# What sacct prints of a job and its step: 20 minutes of CPU time on 4 CPUs in 10 minutes.
rows = ["7|run|rule_a|00:10:00|00:20:00|1|4||4000M", "7.0|step|rule_a|00:10:00|00:20:00|1|4|1000M|"]
table = parse_sacct_data(rows, 0.8, "run", logger)
efficiency = float(table["CPU Efficiency (%)"].iloc[0])
print(f"efficiency {efficiency} %, threshold 0.8, warnings: {len(said)}")
assert efficiency == 50.0
assert not said, "the threshold is a fraction now"
parse_sacct_data(rows, 80, "run", logger)
print(f"threshold 80, warnings: {len(said)}")
assert len(said) == 1
PYTHON
