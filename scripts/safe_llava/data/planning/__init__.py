"""How much is to come, and whether there is room for it."""
