"""Layer 4: simulated votes by a language model that plays personas."""
