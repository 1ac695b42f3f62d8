"""Latent-class Plackett-Luce: annotator types from judgments, how many there are, and whether the data show it.

- `estimator`: fit K types to a `panel.Panel` of judgments. `selection`: choose K by held-out annotators.
- `identification`: whether such data can tell types apart. `power`: what more judgments would give.
- `starts`: starting points, among them the agreement groups that EM-DPO starts from.
- `processes`: annotators who are sharded over several processes.
- Inside: `choice_sets` (rankings as choices), `conditional_logit` and `compared_pairs` (derivatives), `likelihood` (of
  annotators), `tied_blocks`, `tie_alternatives`, `problem`, `em`, `newton`, `information`, `continuum`.

References: Kamakura & Russell 1989; Bhat 1997; identification: arXiv 2405.15065 and 2510.15716.
"""

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.power import Power, power_curve
from pluralign.choice.latent_class.selection import Selection, select_types

__all__ = ["LatentClassPlackettLuce", "Panel", "Power", "Selection", "power_curve", "select_types"]
