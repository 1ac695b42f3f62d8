"""How well rewards predict judgments."""
