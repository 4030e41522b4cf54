"""Weights, tokenizers and templates: read, converted and written, the original's formats among them."""
