"""Layer 8: a simulated town end to end, from judgments to policies, compared with the known truth."""
