"""Metrics of policies: distance to a reward model, win rates, regret, and properties of their responses."""
