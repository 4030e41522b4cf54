"""Every fault comes with its remedy, and keeps it on the way between processes."""

from __future__ import annotations

import copy
import pickle

import pytest

from safe_llava.core import errors
from safe_llava.core.errors import SafeLlavaError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SafeLlavaError)]


def test_there_is_one_kind_a_stage() -> None:
    stages = {"Data", "Train", "Prism", "Benchmark", "Paper"}
    assert {f"{stage}Error" for stage in stages} <= {kind.__name__ for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_the_way_to_another_process(kind: type[SafeLlavaError]) -> None:
    error = kind("row 3 is broken", "mend it")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301
        assert type(again) is kind
        assert (again.message, again.remedy) == ("row 3 is broken", "mend it")
        assert str(again) == "row 3 is broken\n  remedy: mend it"
