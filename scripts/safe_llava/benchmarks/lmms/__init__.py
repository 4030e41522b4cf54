"""lmms-eval from inside: the engine as its model, its tasks, its results."""
