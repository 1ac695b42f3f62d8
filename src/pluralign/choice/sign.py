"""The sign estimator: a reward in the order of the mean utility of a mixed population (arXiv 2510.23965).

People with different utilities choose by P(a > b) = E_h sigmoid(u_h(a) - u_h(b)). A Bradley-Terry fit to their pooled
choices estimates neither the mean utility nor its order: those who feel strongly count less than their utility, since
the sigmoid is flat there. But if the differences of utilities are symmetric around their mean, the majority prefers a
exactly where the mean utility of a is higher. So the sign of the difference is estimated by classification instead of
its size by cross-entropy: the paper replaces the cross-entropy by the binary classification loss, which is smallest for
the majority's order whatever the size of the majorities.

That loss has no gradient. Ours (the paper's smooth form was not read): its expectation over a logistic noise,

    loss = mean over the pairs of 1 - sigmoid(u_w - u_l)

the smoothed maximum-score criterion (Horowitz 1992). Utilities grow during training, and with them it approaches the
share of wrongly ordered pairs. Only their order has a meaning; `calibrate` finds their scale in log-odds.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pluralign.choice.plackett_luce import compared_pairs


def sign_score(utilities: Tensor, ranks: Tensor) -> Tensor:
    """Mean over the pairs of each ranking of sigmoid(u_w - u_l) - 1, from -1 to 0: `(..., judgments)`.

    Pairs as in `pluralign.choice.plackett_luce.pair_log_likelihood`. A tied pair has -1/2 and no gradient.

    Args:
        utilities: `(..., judgments, responses)`.
        ranks: `(judgments, responses)`.

    Examples:
        >>> sign_score(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([[1, 2], [1, 1]]))
        tensor([-0.1192, -0.5000])
    """
    first, second, compared, order = compared_pairs(ranks)
    difference = utilities[..., first] - utilities[..., second]
    each = -torch.sigmoid(order.to(difference.dtype) * difference)
    total = torch.where(compared, each, torch.zeros_like(each)).sum(-1)
    return total / compared.sum(-1).clamp(min=1).to(total.dtype)
