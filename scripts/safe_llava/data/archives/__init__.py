"""Archives from outside."""
