"""Stage prism: asking about people's biometric attributes, and judging and scoring the answers.

``from safe_llava.prism import judge, score`` is what other programs use: ``score(judge("answers.jsonl"))``. Both names
are the steps' modules, which can be called as their functions; importing them needs NumPy and pydantic alone.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a type checker sees the functions
    from safe_llava.prism.judge import judge as judge
    from safe_llava.prism.score import score as score
