"""DPRM: reward models that predict a crowd's label distribution (arXiv 2402.09764)."""
