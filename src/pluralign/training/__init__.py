"""Floor 4: one thin trainer and one config dataclass per method."""
