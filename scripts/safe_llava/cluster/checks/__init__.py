"""What preflight looks at."""
