"""Numbers of a choice model that are learned beside the network: tie parameters, thresholds, annotators' scales.

Their scale has nothing to do with that of a network's weights, so that steps of its optimiser would be far too small.
They follow Newton steps along the derivatives of the likelihood, one for each step of the optimiser however it is
divided into micro-batches and processes.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from pluralign.choice.davidson import LARGEST_BLOCK, LOG_NU
from pluralign.choice.likelihoods import AnyTies
from pluralign.choice.ordered import UNKNOWN, gap_curvature, starting_gaps, thresholds_of
from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import rank_keys
from pluralign.evaluation.rewards.tie_outcomes import outcome_pairs
from pluralign.scoring.items import Items

logger = logging.get_logger(__name__)

TiesOption = Literal["auto", AnyTies]

MANY_TIES = 0.05
"""From this share of ties among the compared pairs on, `auto` is `davidson`."""

LONGEST_RANKING = 12
"""Davidson-Luce counts the blocks that could be chosen; `auto` leaves it out for longer rankings."""

STEP = 0.02
"""Share of a Newton step that each step of the optimiser takes."""

LEAST_CURVATURE = 0.01

MOST_MOVED = 0.5
"""The largest change in one step."""

MOST_STRENGTHS = 10
"""Of `strength: ordered`."""


class ChoiceParameter:
    """A vector that is learned, with the derivatives since the last step of the optimiser.

    Args:
        value: where it starts, `(k,)`.
        low, high: its range.
    """

    def __init__(self, value: Tensor, low: float, high: float) -> None:
        self.range = low, high
        self.value = self._leaf(value)
        self._slope: Tensor | None = None

    def _leaf(self, value: Tensor) -> Tensor:
        return value.detach().double().clamp(*self.range).requires_grad_()

    def note(self, slope: Tensor, weight: Tensor, inputs: dict[str, Any]) -> None:
        """Add the derivative of a micro-batch's weighted log-likelihood `(k,)` and the weight of its judgments."""
        noted = torch.cat((slope.to(weight), self._counted(weight, inputs)))
        self._slope = noted if self._slope is None else self._slope + noted

    def _counted(self, weight: Tensor, inputs: dict[str, Any]) -> Tensor:
        return weight.sum().reshape(1)

    def step(self, accelerator: Any) -> None:
        """Move by what was noted in all processes."""
        assert self._slope is not None
        noted = accelerator.reduce(self._slope, "sum").double().cpu()
        self._slope = None
        moved = self._moved(noted[: len(self.value)], noted[len(self.value) :]).clamp(-MOST_MOVED, MOST_MOVED)
        # A new tensor: the graph of this step still holds the old one.
        self.value = self._leaf(self.value.detach() + moved)

    def _moved(self, slope: Tensor, counted: Tensor) -> Tensor:
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds."""
        return {"value": self.value.detach().clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        self.value = self._leaf(state["value"])


class SharedParameter(ChoiceParameter):
    """Numbers that all judgments share: they take a share of each Newton step.

    Args:
        value, low, high: as in `ChoiceParameter`.
        curvature: `(k, k)` minus the second derivative of the mean log-likelihood, about the right size.
    """

    def __init__(self, value: Tensor, curvature: Tensor, low: float, high: float) -> None:
        super().__init__(value, low, high)
        eigenvalues, vectors = torch.linalg.eigh(curvature.double())
        self._inverse = (vectors / eigenvalues.clamp(min=LEAST_CURVATURE)) @ vectors.T

    def _moved(self, slope: Tensor, counted: Tensor) -> Tensor:
        return STEP * self._inverse @ (slope / counted.clamp(min=torch.finfo(torch.float64).tiny))


class LearnedTies(SharedParameter):
    """Davidson's log nu.

    The derivative by log nu_k is the number of blocks of k ties minus the expected number, and its curvature about
    p (1 - p) with p their share.

    Args:
        share: of ties among the training pairs; at equal utilities it means nu = 2 share / (1 - share).
        blocks: the longest block.
    """

    def __init__(self, share: float, blocks: int) -> None:
        kept = min(max(share, 1e-3), 1 - 1e-3)
        start = torch.full((blocks - 1,), float(np.log(2 * kept / (1 - kept))))
        super().__init__(start, kept * (1 - kept) * torch.eye(blocks - 1), *LOG_NU)

    @property
    def nu(self) -> list[float]:
        """The tie parameters of blocks of 2, 3 ... responses."""
        return [float(value) for value in self.value.detach().exp()]


class LearnedThresholds(SharedParameter):
    """The thresholds of ordered strengths (`pluralign.choice.ordered`), as logs of their gaps.

    Args:
        counts: `(m + 1,)` training judgments that are ties and that have strength 1 ... m.
    """

    def __init__(self, counts: np.ndarray) -> None:
        self.ties = bool(counts[0] > 0)
        gaps = starting_gaps(counts)
        super().__init__(gaps, gap_curvature(gaps, counts, self.ties), -6.0, 4.0)

    @property
    def cuts(self) -> Tensor:
        """t `(m,)`, with its graph."""
        return thresholds_of(self.value, self.ties)


class LearnedScales(ChoiceParameter):
    """Logs of the annotators' scales: annotator h judges by s_h u, with log s_h ~ Normal(0, tau^2).

    The posterior mode is followed: in each epoch an annotator takes about `PACE` Newton steps, each judgment its share
    of them. The curvature of a judgment is the mean square of derivatives, since the two are equal in expectation, and
    tau^2 follows its EM update, the mean of (log s_h)^2 + posterior variance.

    Args:
        judgments: `(annotators,)` the weight of each annotator's training judgments, above 0.
    """

    PACE = 2.0
    MEMORY = 0.95
    LEAST_VARIANCE = 1e-3

    def __init__(self, judgments: np.ndarray) -> None:
        super().__init__(torch.zeros(len(judgments)), -3.0, 3.0)
        self.judgments = torch.from_numpy(np.asarray(judgments, dtype=np.float64))
        self.variance = torch.tensor(0.25, dtype=torch.float64)
        self._curvature = torch.zeros(2, dtype=torch.float64)

    def of(self, annotator: Tensor) -> Tensor:
        """s of each judgment `(judgments,)`, with its graph; 1 for a number past the last annotator's."""
        return torch.cat((self.value, self.value.new_zeros(1))).exp()[annotator.to(self.value.device)]

    @property
    def tau(self) -> float:
        """The standard deviation of log s."""
        return float(self.variance.sqrt())

    def _counted(self, weight: Tensor, inputs: dict[str, Any]) -> Tensor:
        size = len(self.value)
        return torch.zeros(size + 1).to(weight).index_add(0, inputs["annotator"], weight)[:size]

    def _moved(self, slope: Tensor, counted: Tensor) -> Tensor:
        present, log_s = counted > 0, self.value.detach()
        noted = torch.stack(((slope[present] ** 2).sum(), counted[present].sum()))
        self._curvature = self.MEMORY * self._curvature + (1 - self.MEMORY) * noted
        each = self._curvature[0] / self._curvature[1].clamp(min=torch.finfo(torch.float64).tiny)
        precision = self.judgments * each + 1 / self.variance
        aim = slope - counted / self.judgments * log_s / self.variance
        spread = (log_s**2 + 1 / precision).mean()
        share = float(counted.sum() / self.judgments.sum())
        self.variance = (self.variance + min(share, 1.0) * (spread - self.variance)).clamp(min=self.LEAST_VARIANCE)
        return torch.where(present, self.PACE * aim / precision, torch.zeros_like(log_s))

    def state(self) -> dict[str, Tensor]:
        """Also tau^2 and the curvature."""
        return super().state() | {"variance": self.variance.clone(), "curvature": self._curvature.clone()}

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        super().load(state)
        self.variance, self._curvature = state["variance"], state["curvature"]


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


def chosen_ties(ties: TiesOption, items: Items, pairs: bool, soft: bool) -> tuple[AnyTies, LearnedTies | None]:
    """How equal ranks are treated, and Davidson's parameters if it is by them.

    Args:
        ties: of the config.
        items: the training judgments.
        pairs: whether a ranking counts as its pairs.
        soft: whether pairs have shares of opposite votes, which leave no room for a third outcome.

    Raises:
        PluralignError: `davidson` does not go with the data or the config.
    """
    if ties != "auto" and ties != "davidson":
        return ties, None
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
        raise PluralignError(
            "ties: davidson has three outcomes, and vote_state or label_smoothing give shares of two: leave one out"
        )
    if block > LARGEST_BLOCK:
        raise PluralignError(
            f"ties: {block} responses of a judgment are tied, and davidson has probabilities for blocks of up to "
            f"{LARGEST_BLOCK}: use ties: efron"
        )
    return ties, LearnedTies(share, max(block, 2))


def strength_levels(values: np.ndarray, pairs: np.ndarray) -> tuple[list[float], np.ndarray]:
    """The strengths that occur, and each judgment's number among them.

    Args:
        values: strength of each judgment, NaN where there is none, `(judgments,)`.
        pairs: which judgments are strict pairs `(judgments,)`; the strength of others has no meaning.

    Returns:
        The strengths above 0 in order, `(m,)`, and `(judgments,)` 1 ... m, or `UNKNOWN`.

    Raises:
        PluralignError: no strict pair has a strength above 0, or there are too many different ones.
    """
    known = pairs & (values > 0)
    levels, number = np.unique(values[known], return_inverse=True)
    if not len(levels):
        raise PluralignError(
            "strength: no judgment that prefers one of two responses has a strength above 0: import the column "
            "strength, or leave strength: ordered out"
        )
    if len(levels) > MOST_STRENGTHS:
        raise PluralignError(
            f"strength: found {len(levels)} different strengths, expected at most {MOST_STRENGTHS}: round them"
        )
    place = np.full(len(values), UNKNOWN, dtype=np.int64)
    place[known] = number + 1
    return levels.tolist(), place
