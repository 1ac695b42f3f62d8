"""Can these judgments distinguish annotator types? The verdict, the reason, and what to collect.

Single pairs identify only F(B) - F(-B) of the distribution F of tastes: a half-half mixture of beta and -beta looks
like a coin everywhere. Choices among three or more responses, or several judgments per annotator, identify types
(Fox, Kim, Ryan & Bajari 2012; arXiv 2405.15065 and 2510.15716: binary comparisons are insufficient, rankings of three
or more, even incomplete, suffice). The checks of a particular table and fit are ours.

Numerically, with I the observed information and C that of the complete data, the eigenvalues of C^-1 I are the shares
of information left because types are not observed (Dempster, Laird & Rubin 1977): 1 if nothing is lost, 0 if a
direction cannot be identified at all.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel, components
from pluralign.choice.latent_class.selection import Gain, Heterogeneity
from pluralign.choice.plackett_luce import NOT_SHOWN

Verdict = Literal["one type", "identified", "weak", "not identified"]

FLAT = 1e-9
"""A direction of the features does not vary if its variance within choices is below this share of the largest."""

CONFIDENCE = 0.99
"""Two types count as different if they differ at this confidence."""

ENOUGH_POWER = 0.8
"""A fit with one type is trusted if simulations recover the types of at least this share of annotators."""


@dataclass(frozen=True)
class Design:
    """What was collected, as far as it matters for types. Judgments without a choice do not count.

    Args:
        annotators: with at least one judgment.
        informative: those of them with two choices or more, or a choice among three or more.
        longest: the largest number of responses in a choice.
        judgments: mean per annotator.
        overlap: share of judgments with a pair of responses that another annotator also judged.
        features: p, or the number of free worths: responses minus connected parts.
        rank: of the feature differences within choices.
        parts: connected parts of the comparison graph, not counting one for each further prompt; 1 with features.
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
    """What the observed information of a fit shows.

    Args:
        smallest: smallest eigenvalue of the information, with coefficients in their own units.
        condition: largest over smallest eigenvalue of the information scaled to a unit diagonal; infinity if it is
            not positive definite.
        left: the smallest share of information left, an eigenvalue of C^-1 I.
        separation: the smallest confidence at which two types differ (Wald test); 1 with a single type.
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
        verdict: `one type`, `identified`, `weak` or `not identified`.
        reason: why, in a sentence.
        advice: what to collect; empty if nothing is missing.
        heterogeneity: `one taste`, `types`, `continuum` or `undecided`.
    """

    verdict: Verdict
    reason: str
    advice: str
    heterogeneity: Heterogeneity = "undecided"

    @property
    def sentence(self) -> str:
        """The verdict as the first sentence of a page or a terminal's output."""
        start = {"one type": "No types", "identified": "Types", "weak": "Perhaps types", "not identified": "Unknown"}
        if self.heterogeneity == "undecided":
            start |= {"identified": "Types, or degrees"}
        opening = "People differ by degrees, not in camps" if self.heterogeneity == "continuum" else start[self.verdict]
        return f"{opening}: {self.reason}." + (" Train one policy." if self.heterogeneity == "one taste" else "")


def design(panel: Panel, prompt: np.ndarray | None = None) -> Design:
    """Describe what was collected.

    Args:
        panel: the judgments.
        prompt: `(responses,)` the prompt of each response, if judgments never cross prompts: one part per prompt is
            then expected.

    Examples:
        >>> collected = design(Panel([[0, 1], [0, 1], [1, 2]], [[1, 2], [2, 1], [1, 1]], [0, 1, 1]))
        >>> collected.annotators, collected.informative, collected.longest, round(collected.overlap, 2)
        (2, 1, 2, 0.67)
    """
    ranks, annotator = panel.rank_values, panel.annotator_ids
    shown = (ranks > NOT_SHOWN).sum(1)
    ranked = (ranks > 0).sum(1)
    # A ranking of n with q places is q choices among n, n - 1, ...; the last response alone is no choice.
    places = np.where(shown > 1, np.minimum(ranked, shown - 1), 0)
    used = places > 0
    choices = np.bincount(annotator, weights=places, minlength=panel.annotators)
    wide = np.bincount(annotator, weights=used & (shown > 2), minlength=panel.annotators)
    active = choices > 0
    rank, size = _rank(panel)
    return Design(
        annotators=int(active.sum()),
        informative=int((active & ((choices > 1) | (wide > 0))).sum()),
        longest=int(shown[used].max(initial=0)),
        judgments=float(used.sum() / max(1, active.sum())),
        overlap=_overlap(panel, used),
        features=size,
        rank=rank,
        parts=1 if panel.features is not None else _parts(panel, prompt),
    )


def _parts(panel: Panel, prompt: np.ndarray | None) -> int:
    """Connected parts, not counting one for each further prompt."""
    label = components(panel)
    shown = label >= 0
    prompts = 1 if prompt is None else len(np.unique(np.asarray(prompt)[shown]))
    return int(label.max(initial=-1)) + 1 - (prompts - 1)


def _overlap(panel: Panel, used: np.ndarray) -> float:
    """Share of the used judgments with a pair that another annotator also judged."""
    if not used.any():
        return 0.0
    absent = np.iinfo(np.int64).max
    ids = np.sort(np.where(panel.rank_values > NOT_SHOWN, panel.response_ids, absent), 1)
    first, second = np.triu_indices(ids.shape[1], 1)
    if ids.shape[1] > 32:  # too many pairs: neighbours in a list sorted by id are enough to find a common set
        first, second = np.arange(ids.shape[1] - 1), np.arange(1, ids.shape[1])
    low, high = ids[:, first], ids[:, second]
    both = (high < absent) & used[:, None]
    row = np.nonzero(both)[0]
    _, pair = np.unique(low[both] * panel.response_count + high[both], return_inverse=True)
    annotator = panel.annotator_ids[row]
    pairs = pair.max(initial=-1) + 1
    lowest, highest = np.full(pairs, np.iinfo(np.int64).max), np.full(pairs, -1)
    np.minimum.at(lowest, pair, annotator)
    np.maximum.at(highest, pair, annotator)
    shared = np.zeros(len(ids), dtype=bool)
    shared[row[(highest > lowest)[pair]]] = True
    return float(shared[used].mean())


def _rank(panel: Panel) -> tuple[int, int]:
    """Rank of the feature differences within choices, and p."""
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
    """Evaluate the observed information of a fit.

    Raises:
        ValueError: the model has more than `MOST_COVARIANCES` parameters.
    """
    found = model.information(panel)
    scaled = found.spectrum[0].cpu().numpy()
    slot = model.fitted_problem(panel).slot.cpu().numpy()
    return Evidence(
        smallest=float(torch.linalg.eigvalsh(found.matrix)[0]),
        condition=float(scaled[-1] / scaled[0]) if scaled[0] > 0 else float("inf"),
        left=_least_ratio(found.matrix, found.complete),
        separation=_separation(model, slot, found.inverse.cpu().numpy(), scaled[0] > -FLAT),
        entropy=posterior_entropy(model),
    )


def _least_ratio(matrix: Tensor, complete: Tensor) -> float:
    """The least v' matrix v / v' complete v, over the directions that the complete data determine."""
    root = complete.diagonal().clamp(min=1e-300).sqrt()
    units = torch.outer(root, root)
    factor, failed = torch.linalg.cholesky_ex(complete / units)
    if bool(failed):  # the complete data do not determine all directions
        inverse = torch.linalg.pinv(complete / units, hermitian=True)
        return float(torch.linalg.eigvals(inverse @ (matrix / units)).real.min())
    half = torch.linalg.solve_triangular(factor, matrix / units, upper=False)
    return float(torch.linalg.eigvalsh(torch.linalg.solve_triangular(factor, half.T, upper=False))[0])


def posterior_entropy(model: LatentClassPlackettLuce) -> np.ndarray:
    """Entropy of each fitted annotator's posterior over types, in nats: `(annotators,)`."""
    gamma = np.asarray(model.responsibilities_)
    return -(gamma * np.log(gamma.clip(1e-300))).sum(1)


def _separation(model: LatentClassPlackettLuce, slot: np.ndarray, covariance: np.ndarray, definite: bool) -> float:
    """The smallest confidence, over pairs of types, that their coefficients differ."""
    if not definite:
        return 0.0
    coefficients = np.asarray(model.coefficients_)
    least = 1.0
    for first, second in itertools.combinations(range(len(coefficients)), 2):
        free = np.flatnonzero((slot[first] != slot[second]) & ((slot[first] >= 0) | (slot[second] >= 0)))
        contrast = np.zeros((len(free), len(covariance)))
        for row, column in enumerate(free):
            for kind, sign in ((first, 1.0), (second, -1.0)):
                if slot[kind, column] >= 0:
                    contrast[row, slot[kind, column]] += sign
        difference = coefficients[first, free] - coefficients[second, free]
        spread = contrast @ covariance @ contrast.T
        statistic = float(difference @ np.linalg.pinv(spread, hermitian=True) @ difference)
        least = min(least, float(chi2.cdf(statistic, max(1, len(free)))))
    return least


def identification(
    data: Design,
    numbers: Evidence | None = None,
    power: float | None = None,
    *,
    types: int | None = None,
    gain: Gain | None = None,
    heterogeneity: Heterogeneity = "undecided",
    continuum: Gain | None = None,
) -> Identification:
    """The verdict on whether annotator types can be identified from such data.

    Args:
        data: what was collected, from `design`.
        numbers: evidence of a fit with two types or more; `None` leaves the verdict to the design.
        power: if one type was chosen, the share of annotators whose type would be recovered if there were two
            moderately different ones (`pluralign.choice.latent_class.power`).
        types: the number of types that was fitted, or, with one type, the next larger one that was tried.
        gain: its gain over one type on held-out annotators. The Wald tests of `numbers` are invalid when there are too
            many types, so types are only reported after a held-out gain.
        heterogeneity: whether annotators come in types or differ by degrees (`Selection.heterogeneity`).
        continuum: the gain of the continuum of tastes over the chosen number of types, on held-out annotators.

    Examples:
        >>> pairs = Panel([[0, 1], [0, 1]], [[1, 2], [2, 1]], [0, 1])
        >>> identification(design(pairs)).verdict
        'not identified'
    """
    verdict = _verdict(data, numbers, power, types, gain, heterogeneity, continuum)
    return replace(verdict, heterogeneity="undecided" if verdict.verdict == "not identified" else heterogeneity)


def _verdict(
    data: Design,
    numbers: Evidence | None,
    power: float | None,
    types: int | None,
    gain: Gain | None,
    heterogeneity: Heterogeneity,
    continuum: Gain | None,
) -> Identification:
    """The verdict without the heterogeneity; arguments as in `identification`."""
    judgments = f"{data.judgments:.1f} judgments"
    if data.annotators < 2:
        return Identification(
            "not identified",
            f"there are judgments by {data.annotators} annotator, and types are differences between annotators",
            "collect judgments by several annotators, with their ids",
        )
    if data.rank == 0:
        return Identification(
            "not identified",
            "the responses in each choice do not differ in any feature",
            "use other features (--features), or one worth for each response",
        )
    if data.informative == 0:
        return Identification(
            "not identified",
            "every annotator gave a single pair: a mixture of two opposite tastes then looks like a coin, "
            "no matter how many annotators there are",
            "collect rankings of three, or at least 2 judgments per annotator (4 to know each annotator's type)",
        )
    more = max(4, round(2 * data.judgments))
    held_out = "" if gain is None else f"(gain {gain})"
    found = gain is not None and gain.exceeds()
    if heterogeneity == "continuum":
        rival = f"{types} types do" if found else "one taste does, or any number of types"
        return Identification(
            "weak" if found else "one type",
            f"a continuum of tastes predicts held-out judgments better than {rival} (gain {continuum})",
            "do not read types as camps: they divide a continuum into parts; give each annotator a mixture of types",
        )
    if gain is not None and not found:
        reason = f"one taste predicts held-out judgments as well as {types} types do {held_out}"
        if heterogeneity == "undecided" and continuum is not None and continuum.exceeds():
            reason += f", though people may differ by degrees (gain of a continuum {continuum})"
        if power is None or power >= ENOUGH_POWER:
            return Identification("one type", reason, "")
        doubt = (
            f"if there were two moderately different types, such data would show the type of only {power:.0%} of the"
        )
        return Identification(
            "one type",
            f"{reason}; but {doubt} annotators",
            f"to look closer, collect at least {more} judgments per annotator, or rankings of three",
        )
    better = f"{types} types predict held-out judgments better than one taste does {held_out}"
    lead = f"{better}, but " if gain is not None else ""
    # A Wald test is invalid where there are too many types: a held-out gain needs no second opinion from it.
    if gain is None and numbers is not None and numbers.separation < CONFIDENCE:
        few = data.longest < 3 and data.judgments < 4
        return Identification(
            "weak",
            f"two of the fitted types differ at only {numbers.separation:.0%} confidence, "
            f"with {judgments} per annotator by {data.annotators} annotators",
            "collect rankings of three, or at least 4 judgments per annotator"
            if few
            else f"collect {more} judgments per annotator, or more annotators",
        )
    if power is not None and power < ENOUGH_POWER:
        return Identification(
            "weak",
            "one type describes these annotators best, but if there were two moderately different types, such data "
            f"would identify the type of only {power:.0%} of the annotators",
            f"collect at least {more} judgments per annotator, or rankings of three",
        )
    if data.parts > 1:
        return Identification(
            "weak",
            f"{lead}the responses form {data.parts} parts that no judgment compares with one another; worths are "
            "comparable only within a part, and preferences in one part say nothing about the others",
            "use features (--features), or collect judgments that compare responses from different parts",
        )
    if data.rank < data.features:
        return Identification(
            "weak",
            f"{lead}the features vary in only {data.rank} of their {data.features} directions within choices; the "
            "prior alone determines the others",
            "remove features that are sums of others, or that never differ between responses to one prompt",
        )
    if gain is not None:
        if heterogeneity == "undecided" and continuum is not None:
            better += f", but not better than a continuum of tastes does (gain {-continuum})"
        return Identification("identified", better, "")
    confidence = "over 99.9%" if numbers is None or numbers.separation > 0.999 else f"{numbers.separation:.1%}"
    width = f"up to {data.longest} responses at once" if data.longest > 2 else "choices between two"
    return Identification(
        "identified",
        f"{data.informative / data.annotators:.0%} of {data.annotators} annotators gave more than a single pair "
        f"({width}, {judgments} each on average)"
        + ("" if numbers is None else f", and the types differ at {confidence} confidence"),
        "",
    )
