"""A crowd's votes on pairs of responses, as soft targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pluralign.core.errors import PluralignError, one_line
from pluralign.judgments.votes import VoteState, item_key, text_key
from pluralign.scoring.items import Items


@dataclass(frozen=True)
class PairVotes:
    """Votes on pairs of responses, counted over all judgments with their weights; a tie is half a vote each way.

    Args:
        pairs: `(pairs,)` sorted keys, `lower response * responses + higher response`.
        shares: `(pairs,)` share of the votes for the lower-numbered response.
        responses: number of responses.
    """

    pairs: np.ndarray
    shares: np.ndarray
    responses: int

    @classmethod
    def of(cls, items: Items) -> PairVotes:
        """Count the votes of every judgment on every pair that it compares."""
        keys, votes, weight = _compared(items)
        pairs, place = np.unique(keys, return_inverse=True)
        total = np.bincount(place, weight)
        shares = np.bincount(place, weight * votes) / np.where(total > 0, total, 1)
        return cls(pairs, np.where(total > 0, shares, 0.5), len(items.responses))

    @classmethod
    def of_state(cls, items: Items, state: VoteState) -> PairVotes:
        """The posterior means of a stored vote state on every pair that the judgments compare.

        Raises:
            PluralignError: the state counts labels, or a pair is not in it. Beside soft targets, a plain judgment would
                count as a unanimous crowd of unlimited size.

        Examples:
            Three of four annotators prefer Yes, and the prior counts as two votes at one half:

            >>> from pluralign.judgments import Judgments
            >>> from pluralign.judgments.votes import votes_of
            >>> from pluralign.scoring.items import items_of
            >>> row = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}
            >>> judgments = Judgments.from_rows([row, row, row, {**row, "ranks": [2, 1]}])
            >>> PairVotes.of_state(items_of(judgments), votes_of(judgments)).shares.round(3).tolist()
            [0.667]
        """
        if state.kind != "pairs":
            raise PluralignError("the vote state counts labels: soft targets of pairs need a state of kind pairs")
        count, mean = len(items.responses), state.mean
        pairs = np.unique(_compared(items)[0])
        shares = np.zeros(len(pairs))
        missing = []
        for number, (low, high) in enumerate(zip(pairs // count, pairs % count, strict=True)):
            texts = (items.prompts[items.item[low]], items.responses[low], items.responses[high])
            place = state.place.get(item_key(*texts))
            if place is None:
                missing.append(" | ".join(one_line(text, 40) for text in texts))
            else:
                shares[number] = mean[place, 0 if text_key(texts[1]) < text_key(texts[2]) else 1]
        if missing:
            raise PluralignError(
                f"{len(missing)} of {len(pairs)} pairs are not in the vote state (the first is {missing[0]}): merge "
                "their votes with `pluralign votes update`, or leave vote_state out"
            )
        return cls(pairs, shares, count)

    def opposite(self, responses: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """Share of the votes against each pair's order in judgments with `(judgments, shown)` responses and ranks.

        Returns:
            `(judgments, pairs)` in the order of `torch.triu_indices`; 0 for pairs that are not compared.

        Examples:
            >>> votes = PairVotes(pairs=np.array([1]), shares=np.array([2 / 3]), responses=2)
            >>> votes.opposite(np.array([[0, 1], [0, 1]]), np.array([[1, 2], [2, 1]])).round(2).tolist()
            [[0.33], [0.67]]
        """
        keys, votes, compared = _pairs(responses, ranks, self.responses)
        share = self.shares[np.searchsorted(self.pairs, np.where(compared, keys, self.pairs[0]))]
        return np.where(compared, np.where(votes > 0.5, 1 - share, share), 0.0)


def _compared(items: Items) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Key, vote for the lower-numbered response, and weight of every pair that a judgment compares."""
    keys, votes, weights = [], [], []
    for judgment in range(items.judgments):
        shown = items.shown(judgment)
        key, vote, compared = _pairs(items.response[shown][None], items.ranks[shown][None], len(items.responses))
        keys.append(key[compared])
        votes.append(vote[compared])
        weights.append(np.full(int(compared.sum()), items.weight[judgment]))
    return np.concatenate(keys), np.concatenate(votes), np.concatenate(weights)


def _pairs(responses: np.ndarray, ranks: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Key of every pair of columns, the vote for its lower-numbered response, and whether it is compared."""
    pairs = np.triu_indices(responses.shape[1], 1)
    (a, b), (rank_a, rank_b) = ([values[:, column] for column in pairs] for values in (responses, ranks))
    compared = (rank_a >= 0) & (rank_b >= 0) & ((rank_a > 0) | (rank_b > 0))
    behind = np.iinfo(np.int64).max  # unranked responses come after the ranked ones
    rank_a, rank_b = np.where(rank_a > 0, rank_a, behind), np.where(rank_b > 0, rank_b, behind)
    vote = np.where(rank_a < rank_b, 1.0, np.where(rank_a > rank_b, 0.0, 0.5))
    keys = np.minimum(a, b) * count + np.maximum(a, b)
    return keys, np.where(a < b, vote, 1 - vote), compared
