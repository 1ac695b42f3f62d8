"""Floor 7: thin commands. Heavy libraries are imported inside the command that needs them."""
