"""Metrics of preference matching over many lists of answers: means with intervals, slices, and what plots need."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.binned import ratio
from pluralign.evaluation.intervals import check_resampling, percentile_intervals, resampled_sums
from pluralign.evaluation.pairs import Floats, Ints, judgment_blocks, real_numbers, whole_numbers
from pluralign.evaluation.policies.divergences import (
    bernoulli_gap,
    bernoulli_js,
    bernoulli_kl,
    checked_lists,
    list_divergences,
    minority_mass,
)

SATURATED = 0.05
"""A pair's probability below this, or above one less this, is next to certain."""

SLICED = ("pm_divergence", "minority_mass")
"""The metrics that are told for every slice."""

BINS = 20
"""Of the histograms of pair probabilities."""

MarginMap = Callable[[Floats], Floats]


@dataclass(frozen=True)
class AnswerLists:
    """Lists of answers, each list to one prompt, with what is said of every answer; lists laid end to end.

    Attributes:
        rewards: in log-odds, float64 `(total,)`.
        log_probs: log pi(y|x) of the policy in nats, float64 `(total,)`.
        reference_log_probs: those of the reference, float64 `(total,)`.
        answer: which answer it is, int64 `(total,)`; equal numbers in a list are one answer given twice.
        offsets: list l holds the places `offsets[l]` to `offsets[l + 1]`, int64 `(lists + 1,)`.
        prompt: the prompt of each list, which is what the bootstrap draws, int64 `(lists,)`.
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
        """Checked and in their types; arguments as the attributes.

        Raises:
            PluralignError: a shape does not fit, or a number is not finite.
        """
        reward, log_prob = checked_lists(rewards, log_probs)
        reference = checked_lists(rewards, reference_log_probs)[1]
        names = whole_numbers("answer", answer)
        place, cluster = whole_numbers("offsets", offsets), whole_numbers("prompt", prompt)
        reliability = real_numbers("weight", weight)
        if not len(place) or place[0] or (np.diff(place) < 0).any() or place[-1] != len(reward) or reward.ndim != 1:
            raise PluralignError(f"offsets: expected to rise from 0 to {reward.size}, the number of answers")
        for name, array, expected in (
            ("answer", names, len(reward)),
            ("prompt", cluster, len(place) - 1),
            ("weight", reliability, len(place) - 1),
        ):
            if len(array) != expected:
                raise PluralignError(f"{name}: shape ({len(array)},), expected ({expected},)")
        if not (np.isfinite(reliability) & (reliability >= 0)).all():
            raise PluralignError("weight: expected finite numbers of 0 or more, found others")
        return cls(reward, log_prob, reference, names, place, cluster, reliability)

    def distinct(self) -> AnswerLists:
        """The same lists with every answer once.

        Examples:
            >>> two = np.zeros(2)
            >>> AnswerLists.of(two, two, two, [7, 7], [0, 2], [0], [1.0]).distinct().offsets.tolist()
            [0, 1]
        """
        owner = np.repeat(np.arange(len(self.weight)), np.diff(self.offsets))
        first = np.unique(np.stack([owner, self.answer]), axis=1, return_index=True)[1]
        first.sort()
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner[first], minlength=len(self.weight)))])
        return AnswerLists(
            self.rewards[first],
            self.log_probs[first],
            self.reference_log_probs[first],
            self.answer[first],
            offsets,
            self.prompt,
            self.weight,
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
    """How far a policy is from its reward model on lists of answers.

    Means over lists, by weight. Of the pairs of a list, as they were given:

    - `pm_divergence`: ((r_i - r_j) - (log pi_i - log pi_j))^2, see `divergences.pm_divergence`;
    - `pair_kl`, `pair_js`, `pair_gap`: of sigmoid(r_i - r_j) and sigmoid(log pi_i - log pi_j);
    - `repeated`: the share of pairs whose two answers are the same one.

    With every answer of a list once:

    - `saturation`: the share of pairs with sigmoid(log pi_i - log pi_j) under .05 or over .95;
      `saturation/reference` and `saturation/reward` are those of log pi_ref and of the rewards;
    - `list_kl`, `list_js`, `list_tv`: of softmax(r) and softmax(log pi), where any list has more than two answers;
    - `minority_mass`: sum of what is kept / sum of what is held, see `divergences.minority_mass`.

    `pm_divergence/reference` and `minority_mass/reference` are those of the reference on the same lists.

    Args:
        lists: the answers.
        margin_map: turns differences of rewards into log-odds, an odd function; None takes them as they are. It
            says nothing of single rewards, so that lists of more than two answers are then judged by pairs alone.
        slices: by name, such as `source=chat`, the weight of each list in the slice, `(lists,)`.
        suffix: of every name, before `_low`, `_high` and a slice's.
        replicates: bootstrap draws of prompts; 0 leaves the intervals out.
        level: coverage the intervals aim at.
        seed: of the bootstrap.

    Returns:
        the metrics, `KEY_low` and `KEY_high` of each where there are two prompts, and `pm_divergence/NAME` and
        `minority_mass/NAME` for each slice; what is not defined is left out.

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
    parts = {key + suffix: part for key, part in _parts(lists, margin_map).items()}
    tops, bottoms = np.stack([top for top, _ in parts.values()], 1), np.stack([low for _, low in parts.values()], 1)
    weight = lists.weight[:, None]
    metrics = _divided(parts, (weight * tops).sum(0), (weight * bottoms).sum(0))
    place = np.unique(lists.prompt, return_inverse=True)[1]
    prompts = int(place.max(initial=-1)) + 1
    if replicates and prompts > 1:
        check_resampling(replicates, level)
        both = np.zeros((prompts, 2 * len(parts)))
        np.add.at(both, place, np.concatenate([weight * tops, weight * bottoms], axis=1))
        drawn = resampled_sums(both, replicates, seed)
        shares = ratio(drawn[:, : len(parts)], drawn[:, len(parts) :])
        metrics |= percentile_intervals({key: shares[:, k] for k, key in enumerate(parts) if key in metrics}, level)
    for name, own in (slices or {}).items():
        if own.shape != lists.weight.shape:
            raise PluralignError(f"slices, {name}: shape {own.shape}, expected {lists.weight.shape}")
        found = _divided(parts, own @ tops, own @ bottoms)
        metrics |= {f"{key}{suffix}/{name}": found[key + suffix] for key in SLICED if key + suffix in found}
    return metrics


def pair_plots(lists: AnswerLists, margin_map: MarginMap | None = None, most: int = 300) -> dict[str, Any]:
    """Histograms of pair probabilities and points of margins, of pairs of distinct answers.

    The probability is that of the answer with the larger reward: the reward model's own lies at .5 or above, and
    what the policy or the reference puts below .5 it orders the other way round. Pairs of equal rewards count half
    in either order. Lists count by their weight, each shared among its pairs.

    Args:
        lists: the answers.
        margin_map: as in `matching_over`.
        most: points at most, evenly spaced among the pairs.

    Returns:
        `pairs` (how many there are); `bin_edges` of 20 equal bins, and for `reward`, `policy` and `reference` the
        share of the pairs in each bin; `points`, a list of `reward`, `policy` and `reference` margins.

    Examples:
        >>> lists = AnswerLists.of([0.0, 2.0], [-3.0, -1.0], [-1.0, -1.0], [0, 1], [0, 2], [0], [1.0])
        >>> found = pair_plots(lists)
        >>> found["pairs"], found["reward"].index(1.0), found["reference"].index(1.0), found["points"]
        (1, 17, 10, [{'reward': 2.0, 'policy': 2.0, 'reference': -0.0}])
    """
    found, shares = [np.zeros((3, 0))], [np.zeros(0)]
    once = lists.distinct()
    for block, places in judgment_blocks(once.offsets):
        margins = np.stack(list(_margins(once, places, margin_map)))  # (3, lists, pairs)
        found.append((np.where(margins[0] < 0, -1.0, 1.0) * margins).reshape(3, -1))
        shares.append(np.repeat(once.weight[block] / margins.shape[2], margins.shape[2]))
    margins, share = np.concatenate(found, axis=1), np.concatenate(shares)
    edges = np.linspace(0.0, 1.0, BINS + 1)
    plots: dict[str, Any] = {"pairs": len(share), "bin_edges": edges.round(6).tolist()}
    tied = margins[0] == 0
    both = np.concatenate([margins, -margins[:, tied]], axis=1)
    counted = np.concatenate([np.where(tied, share / 2, share), share[tied] / 2])
    for name, own in zip(("reward", "policy", "reference"), expit(both), strict=True):
        counts = np.histogram(own, edges, weights=counted)[0]
        plots[name] = (counts / (counts.sum() or 1.0)).tolist()
    chosen = np.unique(np.linspace(0, len(share) - 1, min(most, len(share))).round().astype(int))
    plots["points"] = [
        dict(zip(("reward", "policy", "reference"), point, strict=True)) for point in margins[:, chosen].T.tolist()
    ]
    return plots


def _parts(lists: AnswerLists, margin_map: MarginMap | None) -> dict[str, tuple[Floats, Floats]]:
    """Numerator and denominator of each metric in each list, `(lists,)`; a metric is the ratio of their sums."""
    count = len(lists.weight)
    pairs = ("pm_divergence", "pm_divergence/reference", "pair_kl", "pair_js", "pair_gap", "repeated")
    certain = ("saturation", "saturation/reference", "saturation/reward")
    whole = ("list_kl", "list_js", "list_tv")
    mass = ("minority_mass", "minority_mass/reference")
    parts = {key: (np.zeros(count), np.zeros(count)) for key in (*pairs, *certain, *whole, *mass)}

    def put(keys: tuple[str, ...], block: Ints, values: tuple[Floats, ...], below: Floats | float = 1.0) -> None:
        for key, value in zip(keys, values, strict=True):
            parts[key][0][block] = value
            parts[key][1][block] = below

    for block, places in judgment_blocks(lists.offsets):
        reward, policy, reference = _margins(lists, places, margin_map)
        first, second = np.triu_indices(places.shape[1], k=1)
        same = lists.answer[places[:, first]] == lists.answer[places[:, second]]
        apart = ((reward - policy) ** 2, (reward - reference) ** 2)
        forms = tuple(form(reward, policy) for form in (bernoulli_kl, bernoulli_js, bernoulli_gap))
        put(pairs, block, tuple(one.mean(1) for one in (*apart, *forms, same)))
    once = lists.distinct()
    for block, places in judgment_blocks(once.offsets):
        margins = _margins(once, places, margin_map)
        put(certain, block, tuple(_certain(margins[k]).mean(1) for k in (1, 2, 0)))
        rewards = once.rewards[places]
        if margin_map is not None:
            if places.shape[1] > 2:
                continue
            rewards = np.concatenate([margins[0], np.zeros_like(margins[0])], axis=1)
        put(whole, block, list_divergences(rewards, once.log_probs[places]))
        kept, held = minority_mass(rewards, once.log_probs[places])
        put(mass, block, (kept, minority_mass(rewards, once.reference_log_probs[places])[0]), held)
    if np.diff(once.offsets).max(initial=0) <= 2 or margin_map is not None:
        parts = {key: part for key, part in parts.items() if key not in whole}
    return parts


def _margins(lists: AnswerLists, places: Ints, margin_map: MarginMap | None) -> tuple[Floats, Floats, Floats]:
    """First less second answer of each pair: rewards, policy, reference, each `(lists, pairs)`.

    Args:
        lists: the answers.
        places: of some lists of one length, `(lists, answers)`.
        margin_map: for those of the rewards.
    """
    first, second = np.triu_indices(places.shape[1], k=1)
    one, two = places[:, first], places[:, second]
    reward = lists.rewards[one] - lists.rewards[two]
    if margin_map is not None:
        reward = np.asarray(margin_map(reward.ravel())).reshape(reward.shape)
    policy = lists.log_probs[one] - lists.log_probs[two]
    return reward, policy, lists.reference_log_probs[one] - lists.reference_log_probs[two]


def _certain(margins: Floats) -> Floats:
    return np.minimum(expit(margins), expit(-margins)) < SATURATED


def _divided(parts: Mapping[str, Any], top: Floats, bottom: Floats) -> dict[str, float]:
    shares = ratio(top, bottom)
    return {key: float(shares[k]) for k, key in enumerate(parts) if not np.isnan(shares[k])}
