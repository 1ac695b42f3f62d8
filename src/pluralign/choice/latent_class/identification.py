"""What judgments can tell about types of annotators: the verdict, its reason, and what to collect.

Single pairs show of the tastes' distribution F only F(B) - F(-B): a half-half mixture of beta and -beta looks like
a coin everywhere. Choices among three or more, or several judgments by one person, are what tells types apart (Fox,
Kim, Ryan & Bajari 2012; arXiv 2510.15716).

Numerically, with I the observed information and C that of the complete data, the eigenvalues of C^-1 I are the
shares of information that are left because types are not seen (Dempster, Laird & Rubin 1977): 1 where nothing is
lost, 0 where a direction cannot be told at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.stats import chi2

from pluralign.choice.latent_class.em import e_step, moved_to
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.information import observed_information
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.power import components
from pluralign.choice.plackett_luce import NOT_SHOWN

Verdict = Literal["identified", "weak", "not identified"]

FLAT = 1e-9
"""A direction of the features whose variance within choices is under this part of the largest does not vary."""

SURE = 0.99
"""Confidence at which two types must differ to count as told apart."""

ENOUGH = 0.8
"""Share of people whose type must be found in simulations for a single type to be believed."""


@dataclass(frozen=True)
class Design:
    """What was collected, as far as it bears on types.

    Args:
        annotators: with at least one judgment that says something.
        informative: of them, those with two choices or more, or a choice among three or more.
        longest: the most responses in a choice.
        judgments: mean per annotator.
        overlap: share of judgments with a pair of responses that somebody else judged too.
        features: p, or the worths that are free: responses less connected parts.
        rank: of the features' differences within choices.
        parts: connected parts of the comparison graph, beyond one for each prompt; 1 with features.
    """

    annotators: int
    informative: int
    longest: int
    judgments: float
    overlap: float
    features: int
    rank: int
    parts: int


@dataclass(frozen=True)
class Evidence:
    """What a fit says, from its observed information.

    Args:
        smallest: the smallest eigenvalue of the information, coefficients in their own units.
        condition: largest over smallest eigenvalue of the information scaled to a unit diagonal; infinity where it
            is not positive definite.
        left: the smallest share of information left, C^-1 I.
        separation: the least confidence at which two types differ (Wald test), 1 with a single type.
        entropy: `(annotators,)` of the posterior, in nats.
    """

    smallest: float
    condition: float
    left: float
    separation: float
    entropy: np.ndarray


@dataclass(frozen=True)
class Identification:
    """The verdict, in words.

    Args:
        verdict: `identified`, `weak` or `not identified`.
        reason: why, in a sentence.
        mend: what to collect; empty where nothing is wanting.
    """

    verdict: Verdict
    reason: str
    mend: str


def design(panel: Panel, prompt: np.ndarray | None = None) -> Design:
    """What was collected.

    Args:
        panel: the judgments.
        prompt: `(responses,)` the prompt of each response, where judgments never cross prompts: a part for each is
            then no fault.

    Examples:
        >>> found = design(Panel([[0, 1], [0, 1], [1, 2]], [[1, 2], [2, 1], [1, 1]], [0, 1, 1]))
        >>> found.annotators, found.informative, found.longest, round(found.overlap, 2), found.parts
        (2, 1, 2, 0.67, 1)
    """
    ranks, annotator = panel.rank_values, panel.annotator_ids
    shown = (ranks > NOT_SHOWN).sum(1)
    ranked = (ranks > 0).sum(1)
    # A ranking of n with q places is q choices among n, n - 1, ...; the last of n alone is none.
    places = np.where(shown > 1, np.minimum(ranked, shown - 1), 0)
    says = places > 0
    by_person = np.bincount(annotator, weights=places, minlength=panel.annotators)
    wide = np.bincount(annotator, weights=says & (shown > 2), minlength=panel.annotators)
    active = by_person > 0
    rank, size = _rank(panel)
    return Design(
        annotators=int(active.sum()),
        informative=int((active & ((by_person > 1) | (wide > 0))).sum()),
        longest=int(shown[says].max()) if says.any() else 0,
        judgments=float(says.sum() / max(1, active.sum())),
        overlap=_overlap(panel, says),
        features=size,
        rank=rank,
        parts=1 if panel.features is not None else _parts(panel, prompt),
    )


def _parts(panel: Panel, prompt: np.ndarray | None) -> int:
    label = components(panel)
    shown = label >= 0
    prompts = 1 if prompt is None else len(np.unique(np.asarray(prompt)[shown]))
    return int(label.max(initial=-1)) + 1 - (prompts - 1)


def _overlap(panel: Panel, says: np.ndarray) -> float:
    """Share of judgments with a pair that another annotator judged."""
    absent = np.iinfo(np.int64).max
    ids = np.sort(np.where(panel.rank_values > NOT_SHOWN, panel.response_ids, absent), 1)
    first, second = np.triu_indices(ids.shape[1], 1)
    shared = np.zeros(len(ids), dtype=bool)
    # Long lists would hold very many pairs: neighbours in a list ordered by id are enough to find a common set.
    if ids.shape[1] > 32:
        first, second = np.arange(ids.shape[1] - 1), np.arange(1, ids.shape[1])
    low, high = ids[:, first], ids[:, second]
    both = (high < absent) & says[:, None]
    row = np.nonzero(both)[0]
    _, pair = np.unique(low[both] * panel.response_count + high[both], return_inverse=True)
    who = panel.annotator_ids[row]
    lowest, highest = (
        np.full(pair.max(initial=-1) + 1, np.iinfo(np.int64).max),
        np.full(pair.max(initial=-1) + 1, -1),
    )
    np.minimum.at(lowest, pair, who)
    np.maximum.at(highest, pair, who)
    shared[row[(highest > lowest)[pair]]] = True
    return float(shared[says].mean()) if says.any() else 0.0


def _rank(panel: Panel) -> tuple[int, int]:
    """Rank of the features' differences within choices, and p."""
    if panel.features is None:
        label = components(panel)
        free = int((label >= 0).sum() - (label.max(initial=-1) + 1))
        return free, free
    features = np.asarray(panel.features)
    shown = panel.rank_values > NOT_SHOWN
    responses = np.where(shown, panel.response_ids, 0)
    chosen = np.take_along_axis(responses, shown.argmax(1)[:, None], 1)
    gram = np.zeros((features.shape[1], features.shape[1]))
    for start in range(0, len(shown), 2**14):
        rows = slice(start, start + 2**14)
        differ = features[np.where(shown[rows], responses[rows], chosen[rows])] - features[chosen[rows]]
        gram += np.einsum("jsp,jsq->pq", differ, differ)
    scale = np.sqrt(np.diag(gram).clip(1e-300))
    scaled = gram / np.outer(scale, scale) * (np.diag(gram) > 0) * (np.diag(gram) > 0)[:, None]
    values = np.linalg.eigvalsh(scaled) if len(scaled) else np.zeros(0)
    return int((values > FLAT * max(values.max(initial=0.0), 1e-300)).sum()), features.shape[1]


def evidence(model: LatentClassPlackettLuce, panel: Panel) -> Evidence:
    """What the information at a fit says.

    Raises:
        ValueError: the model has too many parameters for a matrix of them.
    """
    covariance = model.covariance(panel)
    problem = model.fitted_problem(panel)
    fit = e_step(problem, moved_to(problem, model.fitted))
    found = observed_information(problem, fit)
    information, complete = found.matrix.cpu().numpy(), found.complete.cpu().numpy()
    values = np.linalg.eigvalsh(information)
    scale = np.sqrt(np.diag(complete).clip(1e-300))
    inverse_root = torch.linalg.pinv(torch.as_tensor(complete / np.outer(scale, scale)), hermitian=True)
    left = np.linalg.eigvals(inverse_root.numpy() @ (information / np.outer(scale, scale))).real
    own = np.sqrt(np.abs(np.diag(information)).clip(1e-300))
    scaled = np.linalg.eigvalsh(information / np.outer(own, own))
    return Evidence(
        smallest=float(values[0]),
        condition=float(scaled[-1] / scaled[0]) if scaled[0] > 0 else float("inf"),
        left=float(left.min()),
        separation=_separation(model, problem.slot.cpu().numpy(), covariance, scaled[0] > -FLAT),
        entropy=posterior_entropy(model),
    )


def posterior_entropy(model: LatentClassPlackettLuce) -> np.ndarray:
    """Entropy of the posterior over types of each annotator that was fitted, in nats: `(annotators,)`."""
    gamma = np.asarray(model.responsibilities_)
    return -(gamma * np.log(gamma.clip(1e-300))).sum(1)


def _separation(model: LatentClassPlackettLuce, slot: np.ndarray, covariance: np.ndarray, definite: bool) -> float:
    """The least confidence, over pairs of types, that their coefficients differ."""
    if not definite:
        return 0.0
    coefficients = np.asarray(model.coefficients_)
    least = 1.0
    for one in range(len(coefficients)):
        for other in range(one + 1, len(coefficients)):
            free = np.flatnonzero((slot[one] != slot[other]) & ((slot[one] >= 0) | (slot[other] >= 0)))
            contrast = np.zeros((len(free), len(covariance)))
            for row, column in enumerate(free):
                for kind, sign in ((one, 1.0), (other, -1.0)):
                    if slot[kind, column] >= 0:
                        contrast[row, slot[kind, column]] += sign
            difference = coefficients[one, free] - coefficients[other, free]
            spread = contrast @ covariance @ contrast.T
            statistic = float(difference @ np.linalg.pinv(spread, hermitian=True) @ difference)
            least = min(least, float(chi2.cdf(statistic, max(1, len(free)))))
    return least


def identification(found: Design, numbers: Evidence | None = None, power: float | None = None) -> Identification:
    """The verdict on whether types of annotators can be told from such data.

    Args:
        found: what was collected.
        numbers: what a fit with two types or more says; `None` leaves the verdict to the design.
        power: where one type was found, the share of people whose type would be found if there were two moderately
            different ones (`pluralign.choice.latent_class.power`).

    Examples:
        >>> pairs = Panel([[0, 1], [0, 1]], [[1, 2], [2, 1]], [0, 1])
        >>> identification(design(pairs)).verdict
        'not identified'
    """
    if found.annotators < 2:
        return Identification(
            "not identified",
            f"there are judgments by {found.annotators} annotator; types are what several people differ in",
            "collect judgments by several annotators, with their ids",
        )
    if found.rank == 0:
        return Identification(
            "not identified",
            "the responses that people chose between do not differ in any feature",
            "use other features (--features), or one worth for each response",
        )
    if found.informative == 0:
        return Identification(
            "not identified",
            "every annotator gave a single pair: a mixture of two opposite tastes then looks like a coin, and no "
            "number of annotators can tell",
            "collect rankings of three, or at least 2 judgments per annotator (4 to know who is of which type)",
        )
    if numbers is not None and numbers.separation < SURE:
        few = found.longest < 3 and found.judgments < 4
        return Identification(
            "weak",
            f"the types that were fitted differ from one another only at {numbers.separation:.0%} confidence, "
            f"from {found.judgments:.1f} judgments per annotator by {found.annotators} annotators",
            "collect rankings of three, or at least 4 judgments per annotator"
            if few
            else f"collect {max(4, round(2 * found.judgments))} judgments per annotator, or more annotators",
        )
    if power is not None and power < ENOUGH:
        return Identification(
            "weak",
            "one type describes these people best, but two types that differ moderately would be told apart for "
            f"only {power:.0%} of the people by such data",
            f"collect at least {max(4, round(2 * found.judgments))} judgments per annotator, or rankings of three",
        )
    if found.parts > 1:
        return Identification(
            "weak",
            f"the responses fall into {found.parts} parts that nobody compared with one another; worths hold only "
            "within a part, and what people prefer in one says nothing about the others",
            "use features (--features), or collect judgments that compare responses of different parts",
        )
    if found.rank < found.features:
        return Identification(
            "weak",
            f"the features vary in {found.rank} of their {found.features} directions within choices; the prior "
            "alone decides about the others",
            "leave out features that are sums of others, or that never differ between responses to one prompt",
        )
    informative = found.informative / found.annotators
    width = f"up to {found.longest} responses at once" if found.longest > 2 else "choices between two"
    return Identification(
        "identified",
        f"{informative:.0%} of {found.annotators} annotators gave more than a single pair ({width}, "
        f"{found.judgments:.1f} judgments each on average)"
        + ("" if numbers is None else f", and the types differ at {_percent(numbers.separation)} confidence"),
        "",
    )


def _percent(share: float) -> str:
    return "over 99.9%" if share > 0.999 else f"{share:.1%}"
