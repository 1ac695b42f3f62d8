"""Align language models with a population, not with an average annotator."""
