"""What a score is made of, and how a reply is read where lmms-eval reads it otherwise."""
