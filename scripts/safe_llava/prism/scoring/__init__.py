"""What counts in a PRISM table, and when a table is complete."""
