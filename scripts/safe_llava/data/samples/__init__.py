"""Samples of annotation files as the data stage reads them."""
