"""The lock of the demo's results folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from safe_llava.core.errors import SafeLlavaError
from safe_llava.demo.run import only_demo


def test_one_demo_at_a_time(tmp_path: Path) -> None:
    refused = pytest.raises(SafeLlavaError, match="another demo is running there")
    with only_demo(tmp_path), refused, only_demo(tmp_path):
        pytest.fail("both hold it")
    with only_demo(tmp_path):
        pass


def test_without_locks_a_warning_and_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", refuse)
    with only_demo(tmp_path):
        pass
    assert "no lock here (Function not implemented)" in capsys.readouterr().err
