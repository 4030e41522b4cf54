"""From tidy rows to figures."""
