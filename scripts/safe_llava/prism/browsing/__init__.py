"""The page that shows every question with all answers and verdicts: what it holds, its files, its script."""
