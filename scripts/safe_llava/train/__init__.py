"""The two training stages: what a sample is, what is trained on it, in what order."""
