"""Layer 7: thin commands. Each imports the heavy libraries that it needs when it runs."""
