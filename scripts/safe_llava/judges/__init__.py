"""Asking language models for a verdict: what is asked, how fast, what it costs, what is kept."""
