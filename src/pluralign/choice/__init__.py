"""Floor 1: the mathematics of choosing. Tensors in, tensors out; no files, no language models."""
