"""What the steps of PRISM share between verdicts and tables: what counts in a cell, rates, differences, labels."""
