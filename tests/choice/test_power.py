"""Panels simulated for the power curve keep the shape of what was collected."""

import numpy as np

from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.power import simulated


def test_ties_and_what_was_left_unranked_are_those_of_the_judgments():
    """Three levels of agreement say less than a strict ranking: a simulation must not say more than the data."""
    rng = np.random.default_rng(0)
    ranks = np.array([[1, 1, 2, 0, -1], [3, 1, 2, 4, 5], [0, 0, 7, -1, -1]])
    responses = np.stack([rng.permutation(8)[:5] for _ in ranks])
    panel = Panel(responses, ranks, [0, 1, 2], response_total=8)
    worths = np.arange(8.0)[None] * 50  # the better response is nearly certain to win
    drawn, _ = simulated(worths, np.ones(1), panel, annotators=20, judgments=5, length=None, rng=rng)
    collected = {tuple(sorted(row)) for row in ranks.tolist()}
    assert {tuple(sorted(row)) for row in drawn.rank_values.tolist()} == collected
    for ids, row in zip(drawn.response_ids, drawn.rank_values, strict=True):
        shown = row > -1
        best_first = ids[shown][np.argsort(np.where(row > 0, row, 99)[shown], kind="stable")]
        levels = np.sort(np.where(row > 0, row, 99)[shown])
        assert (np.diff(worths[0][best_first])[np.diff(levels) > 0] < 0).all()
