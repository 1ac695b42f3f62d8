"""Outside formats: each is a function from a file to a stream of (row number, canonical row)."""

FORMATS = ("table", "trl", "hh-rlhf", "mapping", "polis", "preflib", "label-studio", "argilla")
"""The names of the formats that can be imported."""
