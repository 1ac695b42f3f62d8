"""Ties of reward models: which likelihood, and Davidson's tie parameters, learned beside the model."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from pluralign.choice.davidson import LARGEST_BLOCK
from pluralign.choice.plackett_luce import Ties
from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import rank_keys
from pluralign.evaluation.rewards.tie_outcomes import outcome_pairs
from pluralign.scoring.items import Items

logger = logging.get_logger(__name__)

RewardTies = Literal["auto", "davidson", "efron", "breslow", "average", "marginal"]

MANY_TIES = 0.05
"""From this share of ties among the compared pairs on, `auto` is `davidson`."""

LONGEST_RANKING = 12
"""Davidson-Luce counts the blocks that could be chosen; `auto` leaves it out for longer rankings."""

STEP = 0.02
"""Share of a Newton step that each step of the optimiser takes."""

LEAST_CURVATURE = 0.01


def tie_share(items: Items) -> float:
    """Share of ties among the pairs that judgments compare, weighted as in training."""
    _, outcome, _, weight = outcome_pairs(
        np.zeros(len(items.response)), items.ranks, items.offsets, items.prompt, items.weight
    )
    return float(weight @ (outcome == 1)) / max(float(weight.sum()), np.finfo(float).tiny)


def longest_block(items: Items) -> int:
    """The largest number of responses that one judgment ranks equal."""
    judgment = np.repeat(np.arange(items.judgments), np.diff(items.offsets))
    ranked = items.ranks > 0
    _, counts = np.unique(np.stack((judgment[ranked], rank_keys(items.ranks)[ranked])), axis=1, return_counts=True)
    return int(counts.max(initial=1))


class LearnedTies:
    """Davidson's log nu, followed by small Newton steps while the utilities are trained.

    The derivative of a log-likelihood by log nu_k is the number of blocks of k ties minus the expected number, and its
    curvature about p (1 - p) with p their share. Steps of the optimiser would be far too small for a number whose scale
    has nothing to do with that of a network's weights.

    Args:
        share: of ties among the training pairs; at equal utilities it means nu = 2 share / (1 - share).
        blocks: the longest block.
    """

    def __init__(self, share: float, blocks: int) -> None:
        kept = min(max(share, 1e-3), 1 - 1e-3)
        start = np.log(2 * kept / (1 - kept))
        self.log_nu = torch.full((blocks - 1,), float(start), dtype=torch.float64).requires_grad_()
        self.curvature = max(kept * (1 - kept), LEAST_CURVATURE)

    @property
    def nu(self) -> list[float]:
        """The tie parameters of blocks of 2, 3 ... responses."""
        return [float(value) for value in self.log_nu.detach().exp()]

    def follow(self, slope: Tensor, weight: Tensor) -> None:
        """Move along the derivative of a step's weighted log-likelihood; `weight` is that of its judgments."""
        mean = slope.double().cpu() / weight.double().cpu().clamp(min=torch.finfo(torch.float64).tiny)
        moved = self.log_nu.detach() + (STEP / self.curvature * mean).clamp(-0.5, 0.5)
        # A new tensor: the graph of this step still holds the old one.
        self.log_nu = moved.clamp(-12.0, 6.0).requires_grad_()


def chosen_ties(ties: RewardTies, items: Items, pairs: bool, soft: bool) -> tuple[Ties | None, LearnedTies | None]:
    """The likelihood of ties: the name of one without parameters, or Davidson's parameters.

    Args:
        ties: of the config.
        items: the training judgments.
        pairs: whether a ranking counts as its pairs.
        soft: whether pairs have shares of opposite votes, which leave no room for a third outcome.

    Raises:
        PluralignError: `davidson` does not go with the data or the config.
    """
    share, block = tie_share(items), 2 if pairs else longest_block(items)
    longest = int(np.diff(items.offsets).max(initial=0))
    fits = not soft and block <= LARGEST_BLOCK and (pairs or longest <= LONGEST_RANKING)
    if ties == "auto":
        ties = "davidson" if share >= MANY_TIES and fits else "efron"
        if share >= MANY_TIES:
            way = "they have a probability of their own" if fits else "they count as lost orders"
            logger.warning(f"ties: {share:.0%} of the compared pairs are tied; ties: {ties}: {way}")
    if ties != "davidson":
        return ties, None
    if soft:
        raise PluralignError("ties: davidson has three outcomes, and vote_state gives shares of two: leave one out")
    if block > LARGEST_BLOCK:
        raise PluralignError(
            f"ties: {block} responses of a judgment are tied, and davidson has probabilities for blocks of up to "
            f"{LARGEST_BLOCK}: use ties: efron"
        )
    return None, LearnedTies(share, max(block, 2))
