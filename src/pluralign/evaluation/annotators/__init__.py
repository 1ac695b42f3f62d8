"""Agreement and disagreement of annotators."""
