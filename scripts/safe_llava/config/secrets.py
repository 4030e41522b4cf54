"""Which secrets a run needs, checked before it starts; no value is ever read into a message."""

from __future__ import annotations

from collections.abc import Mapping

from safe_llava.config.prism import Judge


def missing_keys(judges: Mapping[str, Judge], environment: Mapping[str, str]) -> str | None:
    """Return what to tell the user where a judge's key is not in the environment, else None."""
    missing = {
        name: judge.key_env for name, judge in judges.items() if judge.key_env and not environment.get(judge.key_env)
    }
    if not missing:
        return None
    lines = "\n".join(
        f"  judge `{name}` needs the environment variable {variable}" for name, variable in missing.items()
    )
    return (
        f"this run would call judges whose keys are not set:\n{lines}\n"
        "  remedy: export the keys, or select judges that need none (prism.select.judges: [rules])"
    )
