"""Apptainer: what a container image is made from, its tag, and the folders that it sees."""
