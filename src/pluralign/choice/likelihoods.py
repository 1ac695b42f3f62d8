"""The likelihood of a ranking, as a whole or as its pairs, with any treatment of ties."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pluralign.choice.davidson import davidson_log_likelihood, davidson_pair_log_likelihood
from pluralign.choice.plackett_luce import Ties, log_likelihood, pair_log_likelihood

AnyTies = Literal[Ties, "davidson"]
"""How equal ranks are treated."""


@dataclass(frozen=True)
class RankingLikelihood:
    """log P of rankings under utilities.

    Args:
        pairs: a ranking counts as the mean over its pairs, otherwise as a whole.
        ties: `davidson` gives ties a probability of their own.
        top: how many places of a whole ranking count.
        nu: with `davidson`, the tie parameters of blocks of 2, 3 ... responses.

    Examples:
        >>> u, ranks = torch.tensor([[1.0, 0.0]]), torch.tensor([[1, 1]])
        >>> RankingLikelihood(pairs=True, ties="davidson", nu=(0.5,))(u, ranks).exp()
        tensor([0.1815])
    """

    pairs: bool
    ties: AnyTies = "efron"
    top: int | None = None
    nu: Sequence[float] = ()

    def __call__(
        self, utilities: Tensor, ranks: Tensor, opposite: Tensor | float = 0.0, log_nu: Tensor | None = None
    ) -> Tensor:
        """`(..., judgments)`, in nats.

        Args:
            utilities: `(..., judgments, responses)`.
            ranks: `(judgments, responses)`.
            opposite: shares of opposite votes on pairs, as in `pluralign.choice.plackett_luce.pair_log_likelihood`.
            log_nu: takes the place of log `nu`, where it is being learned.
        """
        if self.ties == "davidson":
            own = torch.tensor(self.nu, dtype=torch.float64).log() if log_nu is None else log_nu
            own = own.to(utilities)
            if self.pairs:
                return davidson_pair_log_likelihood(utilities, ranks, own)
            return davidson_log_likelihood(utilities, ranks, own, top=self.top)
        if self.pairs:
            return pair_log_likelihood(utilities, ranks, ties=self.ties, opposite=opposite)
        return log_likelihood(utilities, ranks, ties=self.ties, top=self.top)
