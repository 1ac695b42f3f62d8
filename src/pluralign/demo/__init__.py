"""Layer 8: the simulated town from end to end."""
