"""What a step's process prints and how it exits."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterator, Sequence

import pytest

from safe_llava.core import cli
from safe_llava.core.errors import DataError


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Leave the handlers of the test run as they were."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def step(result: int | None = None, error: BaseException | None = None) -> Callable[[Sequence[str] | None], int | None]:
    def main(argv: Sequence[str] | None) -> int | None:
        assert argv is None, "the step reads its own command line"
        if error is not None:
            raise error
        return result

    return main


def test_a_known_fault_is_one_message_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.run(step(error=DataError("a.json: no such file", "fetch it")))
    assert exit_.value.code == 1
    shown = capsys.readouterr()
    assert shown.err == "error: a.json: no such file\n  remedy: fetch it\n"
    assert shown.out == ""


def test_a_full_disk_is_one_message_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(step(error=OSError(errno.ENOSPC, "No space left on device", "out/x.json")))
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "error: out/x.json: No space left on device" in said and "remedy: make room" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("fault", [errno.EACCES, errno.EROFS])
def test_a_place_that_may_not_be_written_is_one_message(capsys: pytest.CaptureFixture[str], fault: int) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(step(error=OSError(fault, "not here", "shared/x.csv")))
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: shared/x.csv: not here\n  remedy: name another place")
    with pytest.raises(OSError, match="of nobody"):  # which file it is, nobody could say: a defect of ours
        cli.run(step(error=OSError(fault, "of nobody")))


def test_an_unknown_fault_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        cli.run(step(error=ZeroDivisionError("ours")))
    assert "main" in [entry.name for entry in caught.traceback]


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (3, 3), (cli.EXIT_RUN_AGAIN, 75)])
def test_the_exit_code_is_the_steps_own(result: int | None, code: int) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.run(step(result))
    assert exit_.value.code == code


def test_a_step_that_ends_itself_is_let(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.run(step(error=SystemExit(2)))
    assert exit_.value.code == 2
    assert capsys.readouterr().err == ""
