"""A missing key is said before a run starts, and no key is ever shown."""

from __future__ import annotations

import pytest

from safe_llava.config.prism import Judge
from safe_llava.config.secrets import missing_keys, read_key
from safe_llava.core.errors import PrismError

JUDGES = {
    "rules": Judge(description="offline", kind="rules"),
    "paid": Judge(description="paid", kind="openai", model="m", key_env="SOME_KEY"),
}


def test_missing_key_names_judge_and_variable() -> None:
    message = missing_keys(JUDGES, {})
    assert message is not None
    assert "`paid`" in message
    assert "SOME_KEY" in message
    assert "rules]" in message


def test_present_key_is_enough_and_an_empty_one_is_not() -> None:
    assert missing_keys(JUDGES, {"SOME_KEY": "secret"}) is None
    assert missing_keys(JUDGES, {"SOME_KEY": ""}) is not None


def test_a_key_is_read_without_what_stands_around_it() -> None:
    assert read_key(JUDGES["paid"], {"SOME_KEY": " secret\n"}) == "secret"
    assert read_key(JUDGES["rules"], {}) is None


@pytest.mark.parametrize("value", ["", " \n", "two\nlines", "s\u00e9cret"])
def test_a_key_that_cannot_be_one_is_named_and_not_shown(value: str) -> None:
    with pytest.raises(PrismError, match="SOME_KEY") as caught:
        read_key(JUDGES["paid"], {"SOME_KEY": value})
    assert "lines" not in str(caught.value)
