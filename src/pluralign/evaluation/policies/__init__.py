"""What policies say: distance to a reward model, win rates, regret."""
