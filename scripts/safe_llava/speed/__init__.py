"""Every benchmark program, and the synthetic data that it measures with."""
