"""A missing key is said before a run starts, and no key is ever shown."""

from __future__ import annotations

from safe_llava.config.prism import Judge
from safe_llava.config.secrets import missing_keys

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
