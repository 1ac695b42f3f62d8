"""Preference matching (arXiv 2405.16455): `pm-rlhf` online, `pm-dpo` offline."""
