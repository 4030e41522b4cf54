"""YAML of which each mapping has a key once; PyYAML itself takes the last of several without a word."""

from __future__ import annotations

from collections import Counter
from typing import Any

import yaml

# libyaml's parser reads the project's files ten times faster; PyYAML may be built without it.
BASE: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(BASE):
    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._seen: set[yaml.MappingNode] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Look at the keys before those of `<<` are put beside them."""
        if node not in self._seen:
            self._seen.add(node)
            keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            count = Counter(key.value for key in keys)
            for key in reversed(keys):
                if count[key.value] > 1:
                    said = f"the key `{key.value}` comes {count[key.value]} times"
                    raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
        super().flatten_mapping(node)


def parse_yaml(text: str) -> Any:
    """Return what a YAML text holds.

    Raises:
        yaml.YAMLError: it is no YAML, holds what is no plain value, or a mapping has a key twice; the line is named.
    """
    return yaml.load(text, _Loader)
