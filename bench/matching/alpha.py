"""Which alpha should `flattened` have? Exact references, and a simulated town that no other table uses.

Exact: people want kinds of response by softmax(r), and the kind is the first word, r ~ N(0, 1) for each of the tree's
six words. The optimum gives kind k the weight exp(r_k) times the flattened reference's probability of the word, since
what follows sums to 1. `distance` is its total variation from softmax(r), the mean over 100 trees; `tree` and `zipf`
are the perplexity of the optimum's words under the reference, as a multiple of the reference's (`matching_lengths`).

Town: matching by type at each alpha, and the kinds of what it says, as in `pm_population`.

The rule, set before the town was run: of the alphas whose perplexity is within 1.5 times the reference's everywhere,
the one whose sayings are nearest to the people in the town; where the intervals of the nearest ones overlap, the one
of them that is nearest on the exact trees.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

from pluralign.choice.preference_matching import Penalty, flattened

from ..common.options import parsed
from ..common.results import keep, kept
from .lengths import measured as lengths_of
from .lengths import tree, zipf
from .town import BASE, BY_TYPE, measured, town_settings

TREES = 100


def distance(alpha: float) -> float:
    """Mean total variation of the kinds at the optimum from what people want, over random trees."""
    draw, apart = torch.Generator().manual_seed(0), 0.0
    for seed in range(TREES):
        first = flattened(tree(seed)[0], alpha, [0])[1:]  # without the end token
        rewards = torch.randn(len(first), generator=draw, dtype=torch.float64)
        apart += float((torch.softmax(rewards + first, -1) - torch.softmax(rewards, -1)).abs().sum() / 2)
    return apart / TREES


def exact(alpha: float) -> dict[str, float]:
    """The exact columns of an alpha."""
    penalty, none = Penalty(alpha=alpha), Penalty("kl")
    trees = [tree(seed) for seed in range(20)]
    mean = [sum(lengths_of(one, kind)["perplexity"] for one in trees) for kind in (penalty, none)]
    words = [lengths_of(zipf(), kind)["perplexity"] for kind in (penalty, none)]
    return {"alpha": alpha, "distance": distance(alpha), "tree": mean[0] / mean[1], "zipf": words[0] / words[1]}


def main() -> None:
    options = parsed(
        __doc__,
        alphas=[1.0, 0.3, 0.1, 0.05, 0.03, 0.01],
        towns=([100], "Seeds of the tuning towns."),
        in_town=([0.3, 0.1, 0.05], "Alphas that are also run in the towns: those that the exact part leaves."),
    )
    settings = town_settings(quick=False)
    transformers.logging.set_verbosity_error()
    rows: dict[str, Any] = kept("matching_alpha", settings)
    rows |= {f"exact, {alpha:g}": exact(alpha) for alpha in options.alphas}
    keep("matching_alpha", settings, rows)
    for seed in options.towns:
        for alpha in (None, *options.in_town):
            key = f"town {seed}, {'reference' if alpha is None else format(alpha, 'g')}"
            if key in rows:
                continue
            if alpha is None:
                row = measured(BASE, seed, settings)
            else:
                row = measured(f"by type, alpha {alpha:g}", seed, settings, BY_TYPE | {"alpha": alpha})
            rows[key] = row
            print(key, row, flush=True)
            keep("matching_alpha", settings, rows)
