"""The launcher passes exit codes and signals on, and ends its processes together."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from safe_llava.core.cli import JOB_RECORD, NOTICE
from train.tiny import environment

MODULES = {
    "ok": 'import os; sys.stdout.write(f\'{os.environ["RANK"]} {os.environ["WORLD_SIZE"]} {sys.argv[1:]}\\n\')',
    "again": "sys.exit(75 if os.environ['RANK'] == '1' else 0)",
    "one_fails": "time.sleep(0 if os.environ['RANK'] == '1' else 60); sys.exit(3)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL) if os.environ['RANK'] == '0' else time.sleep(60)",
    "waits": (
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(75));"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75));"
        "open(f'{sys.argv[1]}/{os.environ[\"RANK\"]}', 'w').write(str(os.getpid()));"
        "time.sleep(60)"
    ),
}


def start(folder: Path, name: str, *arguments: str, processes: int = 2) -> subprocess.Popen[str]:
    (folder / f"{name}.py").write_text(f"import os, signal, sys, time\n{MODULES[name]}\n")
    env = environment()
    env["PYTHONPATH"] += f":{folder}"
    command = [sys.executable, "-m", "safe_llava.train.launch", "--processes", str(processes), "--module", name]
    return subprocess.Popen([*command, "--", *arguments], env=env, stdout=subprocess.PIPE, text=True)


def test_every_process_gets_its_rank_and_the_arguments(tmp_path: Path) -> None:
    process = start(tmp_path, "ok", "--stage", "finetune", processes=3)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert sorted(out.splitlines()) == [f"{rank} 3 ['--stage', 'finetune']" for rank in range(3)]


@pytest.mark.parametrize(("name", "code"), [("again", 75), ("one_fails", 3), ("killed", 128 + signal.SIGKILL)])
def test_exit_codes(tmp_path: Path, name: str, code: int) -> None:
    process = start(tmp_path, name)
    process.communicate(timeout=60)
    assert process.returncode == code


def start_waiting(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Start processes that wait, and return the launcher and their ids."""
    process = start(folder, "waits", str(folder))
    files = [folder / rank for rank in "01"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not all(file.exists() and file.read_text() for file in files):
        time.sleep(0.01)
    return process, [int(file.read_text()) for file in files]


def test_signals_go_on_to_the_processes(tmp_path: Path) -> None:
    process, _ = start_waiting(tmp_path)
    process.send_signal(signal.SIGUSR1)
    process.communicate(timeout=60)
    assert process.returncode == 75


def test_a_notice_is_heeded_on_a_cluster_and_a_resized_window_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, code in ((tmp_path / "cluster", 75), (tmp_path / "terminal", -signal.SIGKILL)):
        folder.mkdir()
        if folder.name == "cluster":
            monkeypatch.setenv(JOB_RECORD, str(folder / "record"))
        else:
            monkeypatch.delenv(JOB_RECORD)
        process, members = start_waiting(folder)
        process.send_signal(NOTICE)
        if code != 75:
            time.sleep(1)
            assert process.poll() is None and all(Path(f"/proc/{member}").exists() for member in members)
            process.kill()
        process.communicate(timeout=60)
        assert process.returncode == code


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_processes_do_not_outlive_a_killed_launcher(tmp_path: Path) -> None:
    process, members = start_waiting(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(Path(f"/proc/{member}").exists() for member in members):
        time.sleep(0.01)
    states = [Path(f"/proc/{member}/stat") for member in members]
    assert all(not state.exists() or ") Z " in state.read_text() for state in states)


def test_a_number_of_processes_is_needed(tmp_path: Path) -> None:
    process = start(tmp_path, "ok", processes=0)
    process.communicate(timeout=60)
    assert process.returncode == 1
