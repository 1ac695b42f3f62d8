"""Metrics of preference matching over lists of responses: means with intervals, slices, and data for plots."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from pluralign.core.errors import PluralignError
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import Floats, Ints, judgment_blocks, real_numbers, whole_numbers
from pluralign.evaluation.policies.divergences import (
    bernoulli_gap,
    bernoulli_js,
    bernoulli_kl,
    list_divergences,
    minority_mass,
)

SATURATED = 0.05
"""A pair is saturated if its probability is below this, or above one minus this."""

SLICED = ("pm_divergence", "minority_mass")
"""The metrics that every slice has."""

BINS = 20
"""Bins of the histograms of pair probabilities."""

MarginMap = Callable[[Floats], Floats]

# Metrics of pairs as given; of pairs of distinct responses; of lists of distinct responses.
PAIRED = ("pm_divergence", "pm_divergence/reference", "pair_kl", "pair_js", "pair_gap", "repeated")
SATURATION = ("saturation", "saturation/reference", "saturation/reward")
LISTED = ("list_kl", "list_js", "list_tv")
MASS = ("minority_mass", "minority_mass/reference")


@dataclass(frozen=True)
class AnswerLists:
    """Lists of responses, each list to one prompt, with the scores of every response; lists are concatenated.

    Attributes:
        rewards: in log-odds, float64 `(total,)`.
        log_probs: log pi(y|x) of the policy in nats, float64 `(total,)`.
        reference_log_probs: those of the reference model, float64 `(total,)`.
        answer: id of the response, int64 `(total,)`; equal ids in a list are one response given twice.
        offsets: list l occupies `offsets[l]` to `offsets[l + 1]`, int64 `(lists + 1,)`.
        prompt: the prompt of each list, which the bootstrap draws, int64 `(lists,)`.
        weight: of each list, at least 0, float64 `(lists,)`.
    """

    rewards: Floats
    log_probs: Floats
    reference_log_probs: Floats
    answer: Ints
    offsets: Ints
    prompt: Ints
    weight: Floats

    @classmethod
    def of(
        cls,
        rewards: ArrayLike,
        log_probs: ArrayLike,
        reference_log_probs: ArrayLike,
        answer: ArrayLike,
        offsets: ArrayLike,
        prompt: ArrayLike,
        weight: ArrayLike,
    ) -> AnswerLists:
        """Check the arguments, which are those of the attributes, and convert them to their types.

        Raises:
            PluralignError: a shape does not fit, or a number is not finite.
        """
        reward = real_numbers("rewards", rewards)
        log_prob = real_numbers("log_probs", log_probs, len(reward))
        reference = real_numbers("reference_log_probs", reference_log_probs, len(reward))
        for name, scores in (("rewards", reward), ("log_probs", log_prob), ("reference_log_probs", reference)):
            if not np.isfinite(scores).all():
                raise PluralignError(f"{name}: expected finite numbers, found others")
        place = whole_numbers("offsets", offsets)
        if not len(place) or place[0] or (np.diff(place) < 0).any() or place[-1] != len(reward):
            raise PluralignError(f"offsets: expected to rise from 0 to {len(reward)}, the number of responses")
        names = whole_numbers("answer", answer, len(reward))
        cluster = whole_numbers("prompt", prompt, len(place) - 1)
        reliability = real_numbers("weight", weight, len(place) - 1)
        if not (np.isfinite(reliability) & (reliability >= 0)).all():
            raise PluralignError("weight: expected finite numbers of 0 or more, found others")
        return cls(reward, log_prob, reference, names, place, cluster, reliability)

    def distinct(self) -> AnswerLists:
        """The same lists with every response once."""
        owner = np.repeat(np.arange(len(self.weight)), np.diff(self.offsets))
        first = np.unique(np.stack([owner, self.answer]), axis=1, return_index=True)[1]
        first.sort()
        return replace(
            self,
            rewards=self.rewards[first],
            log_probs=self.log_probs[first],
            reference_log_probs=self.reference_log_probs[first],
            answer=self.answer[first],
            offsets=np.concatenate([[0], np.cumsum(np.bincount(owner[first], minlength=len(self.weight)))]),
        )


def matching_over(
    lists: AnswerLists,
    margin_map: MarginMap | None = None,
    *,
    slices: Mapping[str, Floats] | None = None,
    suffix: str = "",
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, float]:
    """How far a policy is from its reward model on lists of responses.

    Weighted means over lists. For the pairs of a list as given:

    - `pm_divergence`: the preference matching divergence ((r_i - r_j) - (log pi_i - log pi_j))^2, in nats squared.
      Rewards are not clipped: with clipped rewards even a perfect match would leave a remainder. It is 0 only for
      pi = softmax(r); pi = softmax(r / beta) leaves (1 - 1 / beta)^2 mean (r_i - r_j)^2.
    - `pair_kl`, `pair_js`, `pair_gap`: of sigmoid(r_i - r_j) and sigmoid(log pi_i - log pi_j).
    - `repeated`: the share of pairs of two equal responses.

    With every response of a list once:

    - `saturation`: the share of pairs with sigmoid(log pi_i - log pi_j) under .05 or over .95;
      `saturation/reference` and `saturation/reward` are those of log pi_ref and of the rewards.
    - `list_kl`, `list_js`, `list_tv`: of softmax(r) and softmax(log pi), if a list has more than two responses.
    - `minority_mass`: sum of what is kept / sum of what is held, see `divergences.minority_mass`.

    `pm_divergence/reference` and `minority_mass/reference` are those of the reference model on the same lists.

    Source: arXiv 2405.16455 (`pm_divergence`, for two responses to a prompt; all pairs of more are ours).

    Args:
        lists: the responses.
        margin_map: maps differences of rewards to log-odds, an odd function; None leaves them as they are. It is
            undefined for single rewards, so lists of more than two responses are then compared only by pairs.
        slices: the weight of each list in each slice, `(lists,)`, by name, such as `source=chat`.
        suffix: appended to every name, before `_low`, `_high` and the slice.
        replicates, level, seed: as in `pluralign.evaluation.intervals.Resampling`, over prompts.

    Returns:
        the metrics, `KEY_low` and `KEY_high` of each if there are two prompts, and `pm_divergence/NAME` and
        `minority_mass/NAME` for each slice; what is undefined is left out.

    Raises:
        PluralignError: a slice's shape does not fit.

    Examples:
        >>> rewards = np.log([0.5, 0.3, 0.2])
        >>> lists = AnswerLists.of(rewards, rewards - 40, np.log([0.9, 0.09, 0.01]), [0, 1, 2], [0, 3], [0], [1.0])
        >>> {key: round(value, 3) for key, value in matching_over(lists).items() if "saturation" not in key}
        {'pm_divergence': 0.0, 'pm_divergence/reference': 6.421, 'pair_kl': 0.0, 'pair_js': 0.0, 'pair_gap': 0.0,
         'repeated': 0.0, 'list_kl': 0.0, 'list_js': 0.0, 'list_tv': 0.0, 'minority_mass': 1.0,
         'minority_mass/reference': 0.2}
    """
    parts = _parts(lists, margin_map)

    def weighted(weight: Floats, keys: Iterable[str]) -> dict[str, tuple[Floats, Floats]]:
        return {key + suffix: (weight * parts[key][0], weight * parts[key][1]) for key in keys}

    metrics = Resampling(lists.prompt, replicates, level, seed).mean_intervals(weighted(lists.weight, parts))
    for name, own in (slices or {}).items():
        if own.shape != lists.weight.shape:
            raise PluralignError(f"slices, {name}: shape {own.shape}, expected {lists.weight.shape}")
        sliced = Resampling(lists.prompt, replicates=0).mean_intervals(weighted(own, SLICED))
        metrics |= {f"{key}/{name}": value for key, value in sliced.items()}
    return metrics


def pair_plots(lists: AnswerLists, margin_map: MarginMap | None = None, most: int = 300) -> dict[str, Any]:
    """Histograms of pair probabilities and points of margins, of pairs of distinct responses.

    The probability is that of the response with the larger reward: for the reward model itself it is at least .5, and a
    policy or reference model that gives less than .5 orders the pair the other way. Pairs of equal rewards count half
    in either order. Lists count by their weight, each shared among its pairs.

    `margin_map` is that of `matching_over`; `most` is the largest number of points, evenly spaced among the pairs.

    Returns:
        `pairs` (their number); `bin_edges` of 20 equal bins, and for `reward`, `policy` and `reference` the share of
        the pairs in each bin; `points`, a list of `reward`, `policy` and `reference` margins.

    Examples:
        >>> lists = AnswerLists.of([0.0, 2.0], [-3.0, -1.0], [-1.0, -1.0], [0, 1], [0, 2], [0], [1.0])
        >>> plots = pair_plots(lists)
        >>> plots["pairs"], plots["reward"].index(1.0), plots["reference"].index(1.0), plots["points"]
        (1, 17, 10, [{'reward': 2.0, 'policy': 2.0, 'reference': -0.0}])
    """
    names = ("reward", "policy", "reference")
    blocks, shares = [np.zeros((3, 0))], [np.zeros(0)]
    once = lists.distinct()
    for block, places in judgment_blocks(once.offsets):
        margins = np.stack(list(_margins(once, places, margin_map)))  # (3, lists, pairs)
        blocks.append((np.where(margins[0] < 0, -1.0, 1.0) * margins).reshape(3, -1))
        shares.append(np.repeat(once.weight[block] / margins.shape[2], margins.shape[2]))
    margins, share = np.concatenate(blocks, axis=1), np.concatenate(shares)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    plots: dict[str, Any] = {"pairs": len(share), "bin_edges": edges.round(6).tolist()}
    tied = margins[0] == 0
    both = np.concatenate([margins, -margins[:, tied]], axis=1)
    weight = np.concatenate([np.where(tied, share / 2, share), share[tied] / 2])
    for name, own in zip(names, expit(both), strict=True):
        counts = np.histogram(own, edges, weights=weight)[0]
        plots[name] = (counts / (counts.sum() or 1.0)).tolist()
    chosen = np.unique(np.linspace(0, len(share) - 1, min(most, len(share))).round().astype(int))
    plots["points"] = [dict(zip(names, point, strict=True)) for point in margins[:, chosen].T.tolist()]
    return plots


def _parts(lists: AnswerLists, margin_map: MarginMap | None) -> dict[str, tuple[Floats, Floats]]:
    """Numerator and denominator of each metric in each list, `(lists,)`; a metric is the ratio of their sums."""
    count = len(lists.weight)
    parts = {key: (np.zeros(count), np.zeros(count)) for key in (*PAIRED, *SATURATION, *LISTED, *MASS)}

    def put(keys: tuple[str, ...], block: Ints, values: tuple[Floats, ...], below: Floats | float = 1.0) -> None:
        for key, value in zip(keys, values, strict=True):
            parts[key][0][block] = value
            parts[key][1][block] = below

    for block, places in judgment_blocks(lists.offsets):
        reward, policy, reference = _margins(lists, places, margin_map)
        first, second = np.triu_indices(places.shape[1], k=1)
        same = lists.answer[places[:, first]] == lists.answer[places[:, second]]
        squares = ((reward - policy) ** 2, (reward - reference) ** 2)
        forms = tuple(form(reward, policy) for form in (bernoulli_kl, bernoulli_js, bernoulli_gap))
        put(PAIRED, block, tuple(values.mean(1) for values in (*squares, *forms, same)))
    once = lists.distinct()
    for block, places in judgment_blocks(once.offsets):
        margins = _margins(once, places, margin_map)
        put(SATURATION, block, tuple(_saturated(margins[k]).mean(1) for k in (1, 2, 0)))
        rewards = once.rewards[places]
        if margin_map is not None:
            if places.shape[1] > 2:
                continue
            rewards = np.concatenate([margins[0], np.zeros_like(margins[0])], axis=1)
        put(LISTED, block, list_divergences(rewards, once.log_probs[places]))
        kept, held = minority_mass(rewards, once.log_probs[places])
        put(MASS, block, (kept, minority_mass(rewards, once.reference_log_probs[places])[0]), held)
    if np.diff(once.offsets).max(initial=0) <= 2 or margin_map is not None:
        parts = {key: part for key, part in parts.items() if key not in LISTED}
    return parts


def _margins(lists: AnswerLists, places: Ints, margin_map: MarginMap | None) -> tuple[Floats, Floats, Floats]:
    """First minus second response of each pair: rewards, policy and reference model, each `(lists, pairs)`.

    `places` holds the positions of some lists of one length, `(lists, responses)`.
    """
    first, second = np.triu_indices(places.shape[1], k=1)
    reward, policy, reference = (
        scores[places[:, first]] - scores[places[:, second]]
        for scores in (lists.rewards, lists.log_probs, lists.reference_log_probs)
    )
    if margin_map is not None:
        reward = np.asarray(margin_map(reward.ravel())).reshape(reward.shape)
    return reward, policy, reference


def _saturated(margins: Floats) -> Floats:
    """Which margins have a probability close to 0 or 1."""
    return np.minimum(expit(margins), expit(-margins)) < SATURATED
