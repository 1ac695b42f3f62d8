"""`evaluate`: a reward model or a policy on judgments."""
