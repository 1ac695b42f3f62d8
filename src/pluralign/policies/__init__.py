"""Floor 4: using policies: base and adapters, samples with log-probabilities."""
