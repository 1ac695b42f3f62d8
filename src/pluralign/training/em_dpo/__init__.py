"""EM-DPO: latent annotator types and a policy for each (arXiv 2405.15065, 2510.15716)."""
