"""MORE: one reward model over several sources (arXiv 2312.07401)."""
