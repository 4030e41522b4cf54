"""The data stage: fetch, verify, unpack and check every file that the workflow did not make itself."""
