"""Layer 4: load, sample, mix and route policies."""
