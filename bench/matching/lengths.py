"""How long are the responses that each mode of preference matching asks for? Exact, without a model or training.

Without a reward (r = 0) the optimum of a mode is proportional to the product of its weights exp(c_t): one weight for
every token of every step. Summed over tokens they give a step's weight of going on and of ending, and so the exact
distribution of the length. Two references:

- `zipf`: a thousand words with probabilities proportional to 1 / rank, and an end token with the same probability at
  every step; responses are cut at 64 tokens and have 17.5 in the mean.
- `tree`: random probabilities of six words and an end token at every step of responses of 1 to 8 tokens, twenty draws.

`perplexity` is that of the optimum's words under the reference: what flattening costs in fluency.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pluralign.choice.preference_matching import Penalty, flattened

from ..common.options import parsed
from ..common.results import store
from .trees import named_penalty

CAP, WORDS, MEAN = 64, 1000, 17.5
PENALTIES = (
    Penalty("kl"),
    *(Penalty("flattened", alpha) for alpha in (0.3, 0.1, 0.03, 0.01, 0.001)),
    *(Penalty("tempered", reference_weight=weight) for weight in (0.75, 0.5, 0.25)),
    *(Penalty("conditional", alpha) for alpha in (0.3, 0.1, 0.03, 0.01)),
    Penalty("pm"),
)


def weights(reference: Tensor, penalty: Penalty) -> Tensor:
    """exp(c_t) of every token of every step, the end token first: `(steps, tokens)`, from log-probabilities."""
    probs = reference.exp()
    return {
        "kl": probs,
        "pm": torch.ones_like(probs),
        "conditional": torch.where(probs > penalty.alpha, torch.ones_like(probs), probs),
        "tempered": probs**penalty.reference_weight,
        "flattened": flattened(reference, penalty.alpha, [0]).exp(),
    }[penalty.mode]


def endings(step: Tensor) -> Tensor:
    """Probability of ending at every step, and of being cut after the last: `(steps + 1,)`.

    `step` are weights of ending and of going on, `(steps, 2)`.
    """
    going = step[:, 1].cumprod(0)
    mass = torch.cat([step[:1, 0], going[:-1] * step[1:, 0], going[-1:]])
    return mass / mass.sum()


def mean_length(ends: Tensor) -> float:
    """In tokens, the end token included; a response that was cut has a token of every step."""
    number = torch.arange(1, len(ends), dtype=ends.dtype)
    return float(ends[:-1] @ number + ends[-1] * number[-1])


def measured(reference: Tensor, penalty: Penalty) -> dict[str, float]:
    """Length and fluency of the optimum without a reward; `reference` is `(steps, tokens)`, the end token first."""
    own = weights(reference, penalty)
    ends = endings(torch.stack([own[:, 0], own[:, 1:].sum(-1)], -1))
    words = own[:, 1:] / own[:, 1:].sum(-1, keepdim=True)
    among_words = reference[:, 1:] - torch.log1p(-reference[:, :1].exp())
    goes_on = 1 - ends[:-1].cumsum(0)
    surprise = -(goes_on * (words * among_words).sum(-1)).sum() / goes_on.sum()
    return {
        "step": float(own.sum(-1).mean()),
        "length": mean_length(ends),
        "cut": float(ends[-1]),
        "perplexity": float(surprise.exp()),
    }


def zipf() -> Tensor:
    """`(CAP, 1 + WORDS)` log-probabilities; the end token's probability gives the mean length, by bisection."""
    low, high = 1e-4, 0.5
    for _ in range(60):
        end = (low + high) / 2
        step = torch.tensor([[end, 1 - end]], dtype=torch.float64).repeat(CAP, 1)
        low, high = (end, high) if mean_length(endings(step)) > MEAN else (low, end)
    words = 1 / torch.arange(1, WORDS + 1, dtype=torch.float64)
    probs = torch.cat([torch.tensor([end], dtype=torch.float64), (1 - end) * words / words.sum()])
    return probs.log().repeat(CAP, 1)


def tree(seed: int) -> Tensor:
    """`(8, 7)` log-probabilities of six words and the end token."""
    draw = torch.Generator().manual_seed(seed)
    return (1.5 * torch.randn(8, 7, generator=draw, dtype=torch.float64)).log_softmax(-1)


def main() -> None:
    parsed(__doc__)
    references = {"zipf": [zipf()], "tree": [tree(seed) for seed in range(20)]}
    rows: list[dict[str, Any]] = []
    for name, draws in references.items():
        for penalty in PENALTIES:
            found = [measured(reference, penalty) for reference in draws]
            means = {key: sum(one[key] for one in found) / len(found) for key in found[0]}
            rows.append({"reference": name, **named_penalty(penalty), **means})
            print(rows[-1], flush=True)
    store("matching_lengths", {"rows": rows})
