"""Judging through batch APIs, at half the price."""
