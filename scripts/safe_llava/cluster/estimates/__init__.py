"""What a run takes, from what was measured."""
