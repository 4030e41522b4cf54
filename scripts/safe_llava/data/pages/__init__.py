"""What the data stage found, as pages for people."""
