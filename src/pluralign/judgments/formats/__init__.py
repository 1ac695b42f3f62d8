"""Outside formats: each is a function from a file to a stream of (row number, canonical row)."""

from pluralign.judgments.formats.known import FORMATS, nearest_source

__all__ = ["FORMATS", "nearest_source"]
