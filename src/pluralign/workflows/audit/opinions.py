"""What types and known groups say about each response: shares of their judgments, and pairs they choose differently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from pluralign.choice.plackett_luce import NOT_RANKED, NOT_SHOWN
from pluralign.evaluation.annotators.voted_pairs import VotedPairs
from pluralign.judgments.messages import plain_text
from pluralign.judgments.scales import LabelScale
from pluralign.reports.opinions import CHOICES, FEW, Example, Examples, View, Viewed, Views
from pluralign.scoring.panels import People, bar_of

JUDGED_OFTEN = 10
"""Mean judgments per response from which shares are shown; below, example pairs are."""

_BLOCK = 2**18  # judgments that are counted at a time, which bounds memory
_MOST_GROUPS, _DIVIDING, _ALIKE = 12, 6, 3


def judged_often(people: People) -> bool:
    """Whether responses are judged often enough to show shares of judgments."""
    shown = int((people.panel.rank_values > NOT_SHOWN)[:, : 1 if people.bars.any() else None].sum())
    return shown >= JUDGED_OFTEN * len(people.items.responses)


def type_views(people: People, responsibilities: np.ndarray, scale: LabelScale | None) -> Views:
    """What each type says about each response.

    Args:
        people: the panel.
        responsibilities: `(annotators, K)`, with which an annotator's judgments count for each type.
        scale: the label scale of a table of labels.
    """
    names = [f"type {kind + 1}" for kind in range(responsibilities.shape[1])]
    return _views(people, responsibilities, names if len(names) > 1 else ["all annotators"], scale)


def group_views(people: People, groups: Sequence[str | None], scale: LabelScale | None) -> Views | None:
    """What the members of each known group say about each response; the 12 largest groups, None below two.

    Args:
        people: the panel.
        groups: `(annotators,)` group of each annotator.
        scale: the label scale of a table of labels.
    """
    largest = Counter(group for group in groups if group is not None).most_common(_MOST_GROUPS)
    names = [name for name, _ in largest]
    members = np.array([[group == name for name in names] for group in groups], dtype=float)
    return _views(people, members, names, scale) if len(names) > 1 else None


def example_pairs(people: People, votes: VotedPairs, utilities: np.ndarray, weights: np.ndarray) -> Examples:
    """Pairs from the data about which types differ most, and about which they agree most.

    Args:
        people: the panel.
        votes: the pairs that were compared; a label compares a response with the bar of its prompt.
        utilities: `(K, responses of the panel)`.
        weights: `(K,)` shares of the types; the first response of a pair is the choice of the largest type.
    """
    first, second = votes.first, votes.second
    against_bar = people.bars[second]
    probability = expit(utilities[:, first] - utilities[:, second])  # (K, pairs)
    flipped = (probability[weights.argmax()] < 0.5) & ~against_bar
    first, second = np.where(flipped, second, first), np.where(flipped, first, second)
    probability = np.where(flipped, 1 - probability, probability)
    gap = probability.max(0) - probability.min(0)
    alike = np.where(against_bar, np.maximum(probability.min(0), (1 - probability).min(0)), probability.min(0))
    texts = [plain_text(response) for response in people.items.responses]
    prompts = [plain_text(prompt) for prompt in people.items.prompts]

    def examples(score: np.ndarray, number: int, least: float) -> list[Example]:
        """The pairs with the largest scores, spread over prompts, each response once."""
        per_prompt, used = -(-number // len(prompts)), Counter[str]()
        chosen: list[Example] = []
        for pair in np.argsort(-score, kind="stable").tolist():
            if len(chosen) == number or score[pair] <= least:
                break
            a, b = int(first[pair]), int(second[pair])
            own = [f"response {a}", *([] if against_bar[pair] else [f"response {b}"])]
            prompt = int(people.prompt[a])
            if used[f"prompt {prompt}"] < per_prompt and not any(used[name] for name in own):
                used.update([f"prompt {prompt}", *own])
                shown = None if against_bar[pair] else texts[b]
                chosen.append(Example(prompts[prompt], texts[a], shown, probability[:, pair].tolist()))
        return chosen

    several = len(weights) > 1
    names = [f"type {kind + 1}" for kind in range(len(weights))] if several else ["all annotators"]
    dividing = examples(gap, _DIVIDING, 0.0) if several else []
    return Examples(names, dividing, examples(alike, _ALIKE if several else _DIVIDING, 0.5))


def _views(people: People, membership: np.ndarray, names: list[str], scale: LabelScale | None) -> Views:
    panel, responses = people.panel, len(people.items.responses)
    labelled = bool(people.bars.any())
    answers = _answers(scale) if labelled and scale is not None else CHOICES
    reliability = np.ones(panel.judgments) if panel.reliability is None else np.asarray(panel.reliability)
    counts = np.zeros((len(names), responses, len(answers)))  # of weighted answers
    for start in range(0, panel.judgments, _BLOCK):
        block = slice(start, start + _BLOCK)
        response, judgment, given = (_label_answers if labelled else _choice_answers)(people, block)
        if labelled and len(answers) == 2:
            given = given[:, [0, 2]]
        weight = membership[panel.annotator_ids[block][judgment]] * reliability[block][judgment, None]
        for viewer, own in enumerate(weight.T):
            for place, answer in enumerate(given.T):
                counts[viewer, :, place] += np.bincount(response, own * answer, responses)
    totals = counts.sum(2)
    # For the order, each share is pulled towards that of all viewers, as by a few more judgments.
    overall = counts.sum(0) / np.maximum(totals.sum(0), 1e-12)[:, None]
    pulled = (counts + FEW * overall) / (totals + FEW)[:, :, None]
    position = pulled[:, :, 0] + (pulled[:, :, 1] / 2 if len(answers) == 3 else 0.0)
    enough = totals >= FEW
    compared = enough.sum(0) >= min(2, len(names))
    highest, lowest = np.where(enough, position, -np.inf).max(0), np.where(enough, position, np.inf).min(0)
    divides = np.where(compared, highest - lowest, 0.0)
    smallest = np.where(compared[:, None], np.where(enough[:, :, None], pulled[:, :, [0, -1]], np.inf).min(0), 0.0)
    rows = []
    for place in np.argsort(-divides, kind="stable").tolist():
        side = int(smallest[place].argmax())
        views = [
            View((own[place] / total[place]).tolist() if total[place] > 0 else [], float(total[place]))
            for own, total in zip(counts, totals, strict=True)
        ]
        texts = plain_text(people.items.prompts[people.items.item[place]]), plain_text(people.items.responses[place])
        agreed = float(smallest[place, side])
        rows.append(Viewed(*texts, views, float(divides[place]), agreed, answers[0 if side == 0 else -1]))
    return Views(answers, names, rows)


def _answers(scale: LabelScale) -> list[str]:
    """Names of the labels above the middle of a scale, on it (if there are any), and below it."""
    middle = bar_of(scale)
    ordered = sorted(scale.labels, key=lambda label: -scale.reward(label))
    signs = [np.sign(scale.reward(label) - middle) for label in ordered]
    sides = [[label for label, sign in zip(ordered, signs, strict=True) if sign == side] for side in (1, 0, -1)]
    return [" or ".join(side) for place, side in enumerate(sides) if side or place != 1]


def _label_answers(people: People, block: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The response of each label, its judgment, and whether it is above, on or below the middle, `(judgments, 3)`."""
    own, bar = people.panel.rank_values[block].T
    answers = np.stack((own < bar, own == bar, own > bar), 1)
    return people.panel.response_ids[block, 0], np.arange(len(own)), answers


def _choice_answers(people: People, block: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each response of a ranking, its judgment, and the shares of the others that it won and lost against."""
    ranks = people.panel.rank_values[block]
    shown = ranks > NOT_SHOWN
    order = np.where(ranks == NOT_RANKED, np.iinfo(np.int64).max, ranks)
    won, compared = np.zeros(ranks.shape), np.zeros(ranks.shape)
    for other in range(ranks.shape[1]):
        pair = shown & shown[:, [other]] & ((ranks > NOT_RANKED) | (ranks[:, [other]] > NOT_RANKED))
        pair[:, other] = False
        compared += pair
        won += pair * ((order < order[:, [other]]) + 0.5 * (order == order[:, [other]]))
    judgment, place = np.nonzero(compared)
    share = won[judgment, place] / compared[judgment, place]
    return people.panel.response_ids[block][judgment, place], judgment, np.stack((share, 1 - share), 1)
