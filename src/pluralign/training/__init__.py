"""Layer 4: one trainer and one config dataclass for each method; `objectives.OBJECTIVES` is their table."""
