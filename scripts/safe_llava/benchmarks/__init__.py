"""Stage benchmarks: the general benchmarks through lmms-eval."""
