"""Which variables of the environment hold secrets: they go into no job, and no benchmark's code sees them."""

from __future__ import annotations

import re

SECRET = re.compile(r"(^|_)(KEY|TOKEN|SECRET|PAT)_?\d*$|PASSW", re.IGNORECASE)


def is_secret(variable: str) -> bool:
    """Return whether a variable's name says that it holds a secret."""
    return bool(SECRET.search(variable))
