"""From tidy rows to tables."""
