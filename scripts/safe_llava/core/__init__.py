"""What every stage shares: errors, files, progress, command lines, provenance, statistics."""
