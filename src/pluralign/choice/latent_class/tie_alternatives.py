"""Davidson's ties in latent classes: a tie is a third alternative of a pair.

In Davidson's model (1970) the three outcomes of a pair have the utilities u_a, u_b and log nu + (u_a + u_b) / 2. With
u = features @ coefficients the third is linear too: its features are the mean of the two, and one more column, 1 for
ties, has the coefficient log nu. So every model of choices from sets (`LatentClassPlackettLuce`,
`RandomCoefficientsLogit`) fits Davidson's model on a panel that shows the tie as a response and asks for the best one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.plackett_luce import NOT_RANKED, NOT_SHOWN


def with_tie_alternatives(panel: Panel) -> Panel:
    """Pairs as choices among the first response, the second, and their tie.

    The responses of the panel keep their ids; ties of pairs follow. The last of the features is 1 for ties: fit with
    `shared=[its column]` for one nu, and without for a nu of each type. nu is exp of its coefficient.

    Args:
        panel: judgments of two shown responses each, one of them ranked at least.

    Raises:
        ValueError: a judgment shows another number of responses, or ranks none.

    Examples:
        >>> panel = with_tie_alternatives(Panel([[0, 1], [1, 0]], [[1, 2], [1, 1]], [0, 0], features=[[2.0], [0.0]]))
        >>> panel.responses.tolist(), panel.ranks.tolist(), panel.features.tolist()
        ([[0, 1, 2], [1, 0, 2]], [[1, 0, 0], [0, 0, 1]], [[2.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    """
    ranks, ids = panel.rank_values, panel.response_ids
    shown = ranks > NOT_SHOWN
    if not ((shown.sum(1) == 2) & (ranks > NOT_RANKED).any(1)).all():
        row = int(np.flatnonzero((shown.sum(1) != 2) | ~(ranks > NOT_RANKED).any(1))[0])
        raise ValueError(f"ties as alternatives need judgments of two responses: judgment {row} is another")
    ids, ranks = ids[shown].reshape(-1, 2), ranks[shown].reshape(-1, 2)
    pairs, number = np.unique(np.sort(ids, 1), axis=0, return_inverse=True)
    total = panel.response_count
    own = np.eye(total) if panel.features is None else np.asarray(panel.features)
    tie_rows = (own[pairs[:, 0]] + own[pairs[:, 1]]) / 2
    features = np.vstack([own, tie_rows])
    features = np.hstack([features, (np.arange(len(features)) >= total)[:, None].astype(np.float64)])
    place = np.where(ranks > NOT_RANKED, ranks, np.iinfo(np.int64).max)
    outcome = np.where(place[:, 0] < place[:, 1], 0, np.where(place[:, 0] > place[:, 1], 1, 2))
    available = panel.available
    if available is not None:
        given = np.asarray(available)
        available = np.hstack([given, given[:, pairs[:, 0]] & given[:, pairs[:, 1]]])
    return replace(
        panel,
        responses=np.hstack([ids, total + number.reshape(-1, 1)]),
        ranks=(outcome[:, None] == np.arange(3)).astype(np.int64),
        features=features,
        available=available,
        response_total=None,
    )
