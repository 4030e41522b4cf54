"""PRISM as tasks of lmms-eval, for any of its models: ``LMMS_EVAL_PLUGINS=safe_llava.prism.lmms lmms-eval …``."""
