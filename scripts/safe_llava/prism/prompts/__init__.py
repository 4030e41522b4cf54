"""Judge prompts as data: read out of upstream's scripts without running them."""
