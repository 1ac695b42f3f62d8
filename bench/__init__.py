"""Benchmarks: `python bench/run.py --list` shows them, `bench/results/` holds their tables."""
