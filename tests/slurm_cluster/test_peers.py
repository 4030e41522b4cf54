"""The published SLURM plugin's own tests, and with them those that Snakemake ships for executors, on the cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from slurm_cluster.conftest import FOR_EVER, HERE, ROOT, Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.newest]
NAME = "snakemake-executor-plugin-slurm"


def source_of_the_published_plugin(folder: Path) -> Path:
    """Fetch and unpack the source distribution that the lock names, with its checksum; the wheel has no tests."""
    (locked,) = re.findall(rf"^{NAME}==(?:.*\\\n)*.*\n", (ROOT / "envs/local.lock").read_text(), re.MULTILINE)
    (folder / "requirements.txt").write_text(locked)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--no-binary", NAME, "-r", str(folder / "requirements.txt"), "-d", str(folder)]
    subprocess.run(command, check=True, timeout=FOR_EVER)
    (archive,) = folder.glob("*.tar.gz")
    subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)  # Debian 12's tarfile has no filters
    return folder / archive.name.removesuffix(".tar.gz")


def test_the_published_plugin_s_own_tests(cluster: Cluster, tmp_path: Path) -> None:
    tests = source_of_the_published_plugin(tmp_path) / "tests"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "-p",
        "slurm_cluster.published",
        "--rootdir",
        str(tests),
    ]
    command += ["-c", "/dev/null", "--basetemp", str(tmp_path / "runs"), *map(str, sorted(tests.glob("*.py")))]
    path = f"{cluster.environment['PYTHONPATH']}:{HERE.parent}"
    environment = {**cluster.environment, "PYTHONPATH": path}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=4 * FOR_EVER, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d+ passed(, \d+ (deselected|warnings?))* in ", done.stdout, re.MULTILINE), done.stdout
