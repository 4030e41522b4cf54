"""Checkpoints in their original formats, turned into the Hugging Face class that computes the same."""
