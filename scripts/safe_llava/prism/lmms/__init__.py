"""PRISM as tasks of lmms-eval, for any of its models (docs/lmms-eval.md)."""
