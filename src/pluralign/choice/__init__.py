"""The mathematics of choice and of the four papers (layer 1): tensors in, tensors out, no files, no language models.

- Rankings, pairs and ties: `plackett_luce`. Latent annotator types: `latent_class`.
- MORE (arXiv 2312.07401): `min_norm`.
- DPRM (arXiv 2402.09764): `dirichlet`, `label_costs`, `transport`.
- EM-DPO and min-max regret (arXiv 2405.15065 and 2510.15716): `em_dpo`, `regret`, `latent_class.identification`.
- Preference matching (arXiv 2405.16455): `preference_matching`.
"""
