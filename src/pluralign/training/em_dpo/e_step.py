"""The E-step: utilities are computed when first needed, and types that an annotator cannot have are dropped."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from pluralign.choice.em_dpo import likely, with_held_odds
from pluralign.scoring.items import Items

FIRST = 2
"""Judgments of each annotator in the first stage; each further stage doubles the number scored before."""


class EStep:
    """Log-likelihoods of the annotators' judgments under each type, added up stage by stage.

    Args:
        annotator: `(judgments,)` from 0.
        prior: log eta_k `(K,)` or `(annotators, K)`; it only decides which types are dropped. What a start knows is
            no part of it: a start that is wrong would have its own types confirmed.
        drop_below: the posterior below which a type is dropped.

    Examples:
        >>> step = EStep(np.zeros(4, dtype=int), np.log([[0.5, 0.5]]), 0.01)
        >>> step.run(np.arange(4), np.arange(4), lambda kind, rows: np.full(len(rows), (-0.1, -3.0)[kind]))
        >>> step.scored.tolist(), (step.log_likelihood[0, 1] - step.log_likelihood[0, 0]).round(2)
        ([4, 2], np.float64(-5.8))
    """

    def __init__(self, annotator: np.ndarray, prior: np.ndarray, drop_below: float) -> None:
        annotators = int(annotator.max()) + 1
        self.annotator = annotator
        self.prior = np.broadcast_to(prior, (annotators, prior.shape[-1]))
        self.drop_below = drop_below
        self.live = np.ones(self.prior.shape, dtype=bool)
        self.touched = np.zeros(annotators, dtype=bool)
        self.scored = np.zeros(self.prior.shape[1], dtype=np.int64)
        self._sums = np.zeros(self.prior.shape)
        self._odds = np.zeros(self.prior.shape)

    def run(
        self, rows: np.ndarray, place: np.ndarray, log_likelihoods: Callable[[int, np.ndarray], np.ndarray]
    ) -> None:
        """Score judgments under every type that their annotators may have.

        Args:
            rows, place: as in `stages`.
            log_likelihoods: of judgments under a type, given the type and the judgments.
        """
        for stage in self.stages(rows, place):
            for kind in range(self.prior.shape[1]):
                mine = self.asked(stage, kind)
                if len(mine):
                    self.add(mine, kind, log_likelihoods(kind, mine))
            self.settle()

    def stages(self, rows: np.ndarray, place: np.ndarray) -> Iterator[np.ndarray]:
        """The judgments to score, a few of each annotator's at a time.

        Args:
            rows: `(scored,)` judgments.
            place: `(scored,)` from 0, the place of each among its annotator's judgments.
        """
        low, high = 0, FIRST
        while low <= place.max(initial=-1):
            chosen = rows[(place >= low) & (place < high)]
            self.touched[self.annotator[chosen]] = True
            yield chosen
            low, high = high, 2 * high

    def asked(self, rows: np.ndarray, kind: int) -> np.ndarray:
        """The judgments among some whose annotator may have a type."""
        return rows[self.live[self.annotator[rows], kind]]

    def add(self, rows: np.ndarray, kind: int, log_likelihood: np.ndarray) -> None:
        """Add the log-likelihoods of judgments under a type."""
        np.add.at(self._sums[:, kind], self.annotator[rows], log_likelihood)
        self.scored[kind] += len(rows)

    def settle(self) -> None:
        """Drop the types that the judgments so far exclude."""
        self.live, self._odds = likely(self._joint, self.live, self.drop_below)

    @property
    def _joint(self) -> np.ndarray:
        return with_held_odds(self.prior + self._sums, self.live, self._odds)

    @property
    def log_likelihood(self) -> np.ndarray:
        """`(annotators, K)`, in nats; a dropped type keeps its odds. 0 for annotators without a scored judgment."""
        return np.where(self.touched[:, None], self._joint - self.prior, 0.0)


class TypeUtilities:
    """u_k(x, y) = beta (log pi_k(y|x) - charged(x, y)), each computed once, when it is first needed.

    Args:
        types: K.
        beta: inverse temperature.
        reference: the part of log pi_ref(y|x) that is charged, in DPO all of it, `(responses,)`.
        compute: from a type and sorted responses, log pi_k(y|x) `(responses,)`, valid for those responses.
    """

    def __init__(
        self, types: int, beta: float, reference: np.ndarray, compute: Callable[[int, np.ndarray], np.ndarray]
    ) -> None:
        self.beta = beta
        self.reference = reference
        self.compute = compute
        self._known = np.zeros((types, len(reference)), dtype=bool)
        self._log_probs = np.zeros((types, len(reference)))

    @property
    def count(self) -> int:
        """How many values were computed."""
        return int(self._known.sum())

    def of(self, kind: int, items: Items, judgments: np.ndarray) -> np.ndarray:
        """u_k `(responses,)`, valid for the responses that the judgments show."""
        wanted = np.unique(np.concatenate([items.response[items.shown(judgment)] for judgment in judgments]))
        missing = wanted[~self._known[kind, wanted]]
        if len(missing):
            self._log_probs[kind, missing] = self.compute(kind, missing)[missing]
            self._known[kind, missing] = True
        return np.asarray(self.beta * (self._log_probs[kind] - self.reference))
