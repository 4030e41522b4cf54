"""The engine over transformers."""
