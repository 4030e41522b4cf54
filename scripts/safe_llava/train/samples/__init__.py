"""From annotations to batches: conversations, pixels, order."""
