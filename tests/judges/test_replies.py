"""Reading judges' replies: what stands behind the reasoning, however it is marked."""

from __future__ import annotations

import pytest

from safe_llava.judges.replies import without_reasoning


@pytest.mark.parametrize(
    ("reply", "rest"),
    [
        ("No…\n</think>\n\nYes", "Yes"),
        ("<thinking>Yes</thinking>No", "No"),
        ("<reasoning>no</reasoning>\nYes", "Yes"),
        ("[THINK]no[/THINK]Yes", "Yes"),
        ("◁think▷no◁/think▷Yes", "Yes"),
        ("<seed:think>no</seed:think>Yes", "Yes"),
        ("<|START_THINKING|>no<|END_THINKING|>Yes", "Yes"),
        ("<|channel|>analysis<|message|>no<|end|><|start|>assistant<|channel|>final<|message|>Yes", "Yes"),
        ("<think>no</think>\n<answer>Yes</answer>", "Yes"),
        ("</think>No</think>Yes", "Yes"),
        ("<think>Yes, or perhaps", ""),
        ("[THINK]Yes", ""),
        ("Yes", "Yes"),
    ],
)
def test_reasoning_is_not_the_reply(reply: str, rest: str) -> None:
    assert without_reasoning(reply).strip() == rest
