"""One type for each file format that two rooms read."""
