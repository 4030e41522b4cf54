"""Importing heavy libraries without what they import only because it happens to be installed."""

from __future__ import annotations


def light_transformers() -> None:
    """Keep transformers from importing scikit-learn and scipy, and with them pandas: about 3 s a process.

    It wants them for a kind of assisted generation and for losses of object detection that nothing here
    uses. Call this before the first model class is imported; later it does nothing.
    """
    import transformers.utils

    for name in ("is_sklearn_available", "is_scipy_available"):
        setattr(transformers.utils, name, lambda: False)
