"""Measure how much of an endpoint's limit a judge uses: ``PYTHONPATH=../scripts:. python -m judges.measure_rate``.

From ``tests/``. It asks an endpoint on this machine, which breaks a tenth of its calls, and prints the share of the
limit that was used while there were new answers to ask about.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from judges.judge_server import JudgeServer
from judges.test_kills import Step, share_of_limit


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--rate", type=float, default=100.0, help="calls a second that the endpoint takes")
    parser.add_argument("--faults", type=float, default=0.1, help="share of calls that go wrong")
    parser.add_argument("--stated", action="store_true", help="state the limit in the row; else it is learned")
    options = parser.parse_args()
    stated = {"requests_per_minute": options.rate * 60} if options.stated else {}
    with (
        tempfile.TemporaryDirectory() as folder,
        JudgeServer(rate=options.rate, burst=options.rate / 2, faults=options.faults, hang_s=8) as server,
    ):
        Step(Path(folder), server.row(timeout_s=2, **stated), options.calls).finish()
        print(
            f"{share_of_limit(server, 0):.3f} of {options.rate:g} calls/s; {len(server.seen.rate_limited)} rate-limited"
        )


if __name__ == "__main__":
    main()
