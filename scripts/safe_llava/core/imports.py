"""How modules are imported: heavy libraries without what they drag in, and modules that can be called."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


def light_transformers() -> None:
    """Keep transformers from importing scikit-learn and scipy, and with them pandas: about 3 s a process.

    It wants them for a kind of assisted generation and for losses of object detection that nothing here
    uses. Call this before the first model class is imported; later it does nothing.
    """
    import transformers.utils

    for name in ("is_sklearn_available", "is_scipy_available"):
        setattr(transformers.utils, name, lambda: False)


class _Callable(ModuleType):
    """A module that is called as its function of the same name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(module: str) -> None:
    """Let a module be called as its function of the same name.

    ``from safe_llava.prism import judge`` then gives the step's module and the function in one, whichever of the two
    was meant. Source: "Customizing module attribute access" in Python's reference of the data model.
    """
    sys.modules[module].__class__ = _Callable
