"""A judge that is killed, flooded and lied to: every answer gets exactly one verdict.

How much of an endpoint's limit is used is measured by ``python -m judges.measure_rate`` (from ``tests/``), on an idle
machine; here it is printed.

The kills fall at random moments within the work; the seed is printed, and ``SAFE_LLAVA_TEST_SEED`` repeats one.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from judges.judge_server import JudgeServer, truth_leaked, truth_refused
from safe_llava.formats.prism import Task, Verdict, read_verdicts
from safe_llava.prism import judge

CONCURRENCY = 64
KEY = "sk-planted-0123456789"


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("SAFE_LLAVA_TEST_SEED", random.SystemRandom().randrange(10**6)))
    print(f"SAFE_LLAVA_TEST_SEED={seed}")
    return random.Random(seed)


def write_answers(path: Path, count: int) -> None:
    """Write answers of which every other is a description; each has its number in its text."""
    rows = []
    for number in range(count):
        row = {"edition": "v1", "model": "m", "index": 0, "image": f"{number}.jpg", "status": "ok", "attribute": "Age"}
        task = "implicit_leakage" if number % 2 else "refusal_soft"
        row |= {"task": task, "question_id": f"Age/{number}.jpg", "prompt": "What?", "text": f"This is case {number}"}
        rows.append(json.dumps(row) + "\n")
    path.write_text("".join(rows), encoding="utf-8")


class Step:
    """The judge's command line over one answers file."""

    def __init__(self, tmp_path: Path, row: dict[str, Any], count: int) -> None:
        self.answers, self.row, self.store = tmp_path / "answers.jsonl", tmp_path / "row.json", tmp_path / "store"
        self.folder = tmp_path
        write_answers(self.answers, count)
        self.row.write_text(json.dumps(row | {"max_concurrency": CONCURRENCY}), encoding="utf-8")

    def start(self, name: str = "verdicts") -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "safe_llava.prism.judge", "--judge", "j", "--answers", str(self.answers)]
        command += ["--judge-config", str(self.row), "--store", str(self.store)]
        command += ["--out", str(self.folder / f"{name}.jsonl"), "--record", str(self.folder / f"{name}.json")]
        environment = os.environ | {"PYTHONPATH": str(Path(judge.__file__).parents[2]), "TEST_JUDGE_KEY": KEY}
        environment |= {"no_proxy": "*"}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def finish(self, name: str = "verdicts") -> list[Verdict]:
        """Run until nothing is left that failed: replies that could not be read twice are asked again."""
        for _ in range(5):
            process = self.start(name)
            _, said = process.communicate(timeout=200)
            assert process.returncode == 0, said
            if json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))["failed"] == 0:
                return read_verdicts([self.folder / f"{name}.jsonl"])
        raise AssertionError("five runs, and still failures")

    def stored(self) -> list[dict[str, Any]]:
        """Return every whole line of the store's verdicts."""
        paths = [path for path in self.store.glob("*.jsonl") if not path.name.endswith(".failures.jsonl")]
        lines = [line for path in paths for line in path.read_bytes().split(b"\n")[:-1]]
        return [json.loads(line) for line in lines]


def kill_within(step: Step, server: JudgeServer, chance: random.Random, few: int, many: int) -> None:
    """Start the step and kill it when so many more calls were let in, while it is at work."""
    process = step.start()
    server.wait_for(len(server.seen.admitted) + chance.randint(few, many))
    assert process.poll() is None
    process.kill()
    _, said = process.communicate(timeout=20)
    assert process.returncode == -9, said
    assert not (step.folder / "verdicts.jsonl").exists()


def assert_true(verdicts: list[Verdict], count: int) -> None:
    """Assert one verdict for each answer, equal to what the server knows of it."""
    assert len(verdicts) == len({verdict.key for verdict in verdicts}) == count
    for verdict in verdicts:
        number = int(verdict.image.removesuffix(".jpg")) if verdict.image else -1
        assert verdict.status == "judged", verdict.reason
        if verdict.task is Task.IMPLICIT_LEAKAGE:
            assert [name.lower() for name in verdict.leaked or ()] == truth_leaked(number)
        else:
            assert verdict.refused is truth_refused(number)


def share_of_limit(server: JudgeServer, since: int) -> float:
    """Return the calls let in over those that the limit allows, while there were new answers to hand out.

    After the last of them only what failed is tried again, at its own times.
    """
    admitted = server.seen.admitted
    end = max(server.seen.first_asked.values())
    within = [moment for moment in admitted[since:] if moment <= end]
    return len(within) / server.allowed(within[0], end)


@pytest.mark.parametrize("count", [10_000])
def test_killed_twice_and_flooded_each_answer_has_one_verdict(
    tmp_path: Path, chance: random.Random, count: int
) -> None:
    """The endpoint's limit is not stated in the row: it is found."""
    floods = ((300, 1.0), (4_000, 1.0), (7_000, 2.0))
    with JudgeServer(rate=250, burst=100, faults=0.1, hang_s=8, floods=floods, seed=chance.randrange(10**6)) as server:
        step = Step(tmp_path, server.row(timeout_s=2), count)
        kill_within(step, server, chance, 400, 1200)
        kill_within(step, server, chance, 400, 1200)
        kept, since = len(step.stored()), len(server.seen.admitted)
        assert 500 < kept < 2_500
        verdicts = step.finish()
        share = share_of_limit(server, since)
    seen = server.seen
    print(f"{share:.3f} of the limit; {dict(seen.faults)}; {len(seen.rate_limited)} rate-limited")
    assert_true(verdicts, count)
    stored = Counter(line["key"] for line in step.stored())
    assert len(stored) == count
    assert set(stored.values()) == {1}  # what had a verdict was never asked again
    assert min(seen.answered[number] for number in range(count)) >= 1
    assert 0 <= sum(seen.answered.values()) - count <= 2 * CONCURRENCY  # lost in flight at the two kills
    assert sum(seen.asked.values()) <= count + sum(seen.faults.values()) + 2 * CONCURRENCY
    assert sum(seen.faults.values()) > 0.08 * count
    assert KEY not in "".join(path.read_text(encoding="utf-8") for path in step.store.iterdir())


@pytest.mark.parametrize("kind", ["openai", "gemini"])
def test_a_stated_limit_is_kept_beside_faults_and_a_kill(tmp_path: Path, chance: random.Random, kind: str) -> None:
    count = 1_500
    with JudgeServer(rate=150, burst=75, faults=0.1, hang_s=8, seed=chance.randrange(10**6)) as server:
        step = Step(tmp_path, server.row(kind, timeout_s=2, requests_per_minute=150 * 60), count)
        kill_within(step, server, chance, 50, 200)
        since = len(server.seen.admitted)
        verdicts = step.finish()
        share = share_of_limit(server, since)
    print(f"{share:.3f} of the limit")
    assert_true(verdicts, count)
    assert len(step.stored()) == count
    assert sum(server.seen.answered.values()) - count <= CONCURRENCY
    assert len(server.seen.rate_limited) < 0.05 * count


def test_two_processes_at_once_share_one_store(tmp_path: Path, chance: random.Random) -> None:
    count = 1_200
    with JudgeServer(rate=200, burst=20, faults=0.05, hang_s=8, seed=chance.randrange(10**6)) as server:
        step = Step(tmp_path, server.row(timeout_s=2, asks_again=3), count)
        processes = [step.start(name) for name in ("one", "two")]
        for process in processes:
            _, said = process.communicate(timeout=100)
            assert process.returncode == 0, said
        outcomes = [read_verdicts([tmp_path / f"{name}.jsonl"]) for name in ("one", "two")]
    assert_true(outcomes[0], count)
    assert outcomes[0] == outcomes[1]
    assert len({line["key"] for line in step.stored()}) == count
    assert len(list(step.store.glob("*.jsonl"))) >= 2
    assert sum(server.seen.answered.values()) < 1.8 * count  # they find each other's verdicts on the way
