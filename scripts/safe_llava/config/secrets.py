"""Which secrets a run needs, checked before it starts; no value is ever read into a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from safe_llava.config.prism import Judge
from safe_llava.core.errors import PrismError

WITHOUT_KEYS = (
    "select judges that need none (prism.select.judges: [rules]; benchmarks.judge: local, or no judged rows in "
    "benchmarks.select.tasks)"
)
SHORTEST_SECRET = 8  # shorter ones may stand in any text by chance


def missing_keys(judges: Mapping[str, Judge], environment: Mapping[str, str]) -> str | None:
    """Return what to tell the user where a judge's key is not in the environment, else None."""
    missing = {
        name: judge.key_env
        for name, judge in judges.items()
        if judge.key_env and not environment.get(judge.key_env, "").strip()
    }
    if not missing:
        return None
    lines = "\n".join(
        f"  judge `{name}` needs the environment variable {variable}" for name, variable in missing.items()
    )
    return f"this run would call judges whose keys are not set:\n{lines}\n  remedy: export the keys, or {WITHOUT_KEYS}"


def read_key(judge: Judge, environment: Mapping[str, str]) -> str | None:
    """Return a judge's key, or None where it needs none; what stands around it (a line's end) is left out.

    Raises:
        PrismError: it is not set, or cannot be a key; its value is not said.
    """
    if not judge.key_env:
        return None
    key = environment.get(judge.key_env, "").strip()
    if not key:
        raise PrismError(
            f"the judge's key is not there: environment variable {judge.key_env} is not set",
            f"export {judge.key_env}=… before the run, or choose the judge `rules`, which needs none",
        )
    if not (key.isascii() and key.isprintable()):
        raise PrismError(
            f"the judge's key in {judge.key_env} cannot be one: it holds more than printable ASCII",
            f"set {judge.key_env} again",
        )
    return key


def without_secret(words: str, secret: str | None) -> str:
    """Return a server's words without a key that they may repeat, as it is or escaped for JSON, HTML or an address."""
    if not secret or len(secret) < SHORTEST_SECRET:
        return words
    return _repeated(secret).sub("[the key]", words)


@lru_cache(maxsize=8)
def _repeated(secret: str) -> re.Pattern[str]:
    ways = (
        rf"(?:\\{{0,8}}{re.escape(one)}|\\{{1,8}}u00{ord(one):02x}|%{ord(one):02x}|&\#(?:x{ord(one):x}|{ord(one)});)"
        for one in secret
    )
    return re.compile("".join(ways), re.IGNORECASE)
