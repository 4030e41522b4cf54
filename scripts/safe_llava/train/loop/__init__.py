"""The run of a stage: steps, checkpoints, metrics, the plan for the device."""
