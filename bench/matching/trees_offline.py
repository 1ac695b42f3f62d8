"""Does offline preference matching reach its optimum? The trees of `matching_exact`, tuned from judgments.

Every ranking of two (or three) of a tree's responses occurs once, weighted with its probability under Plackett-Luce
with the tree's rewards: the judgments of an infinite crowd. One step is all of them. The policy is compared with the
closed form over the judged responses and, where only some were judged, over all of them too.

A Llama this small cannot hold the 255 distributions of the tree of eight tokens. There the policy is a table of
log-probabilities, one row for each start of a response, and the same loss is minimised by L-BFGS.
"""

from __future__ import annotations

import argparse
import itertools
import random
import tempfile
from typing import Any

import torch
from torch import Tensor
from transformers import set_seed

from pluralign.choice.plackett_luce import log_likelihood
from pluralign.choice.preference_matching import Penalty, matched_log_probs
from pluralign.judgments import Judgments
from pluralign.training.preference_matching.dpo import PMDPOConfig, PMDPOTrainer

from ..common.options import parsed
from ..common.results import Clock, keep, kept
from ..common.training import QUIET
from .trees import Tree, copy_of, named_penalty

ORDER = torch.tensor([1, 2])
"""The ranks of a pair whose first response is preferred."""

MANY = 100
"""From so many responses on, not every pair is judged."""

KL, PM, FLAT, TEMPERED = Penalty("kl"), Penalty("pm"), Penalty(alpha=0.05), Penalty("tempered")
CASES: tuple[tuple[str, Penalty, float, int, int | None], ...] = (
    *(("one token", KL, 1.0, shown, None) for shown in (2, 3)),
    *(("one token", PM, 1.0, shown, None) for shown in (2, 3)),
    *(("one token", Penalty("conditional", 0.05), 1.0, shown, None) for shown in (2, 3)),
    ("one token", PM, 0.5, 2, None),
    *(("two tokens", penalty, 1.0, 2, None) for penalty in (KL, PM)),
    *(("two tokens", Penalty("conditional", 0.2), 1.0, shown, None) for shown in (2, 3)),
    ("two tokens", Penalty("conditional", 0.2, "sequence"), 1.0, 2, None),
    ("two tokens", Penalty("conditional", 0.2, "sequence-minimum"), 1.0, 2, None),
    *(("one token", penalty, 1.0, 2, None) for penalty in (FLAT, TEMPERED)),
    *(("two tokens", penalty, 1.0, 2, None) for penalty in (Penalty(alpha=0.15), TEMPERED)),
    *(
        ("eight tokens", penalty, 1.0, 2, None)
        for penalty in (KL, Penalty(alpha=0.15), Penalty("conditional", 0.15), TEMPERED)
    ),
    *(("one token", penalty, 1.0, 2, 5) for penalty in (KL, PM, Penalty("conditional", 0.05), FLAT)),
)
"""Tree, penalty, beta, responses in a ranking, and the number of judged responses (`None`: all)."""


def rankings(tree: Tree, judged: list[int], shown: int) -> Judgments:
    """Every ranking of that many judged responses, weighted with its probability; of many responses, some pairs."""
    orders = list(itertools.permutations(judged, shown)) if len(judged) < MANY else some_pairs(len(judged))
    ranks = torch.arange(1, shown + 1).expand(len(orders), -1)
    weights = log_likelihood(tree.rewards.double()[torch.tensor(orders)], ranks).exp().tolist()
    return Judgments.from_rows(
        {
            "prompt": " ".join(f"w{token}" for token in tree.prompt),
            "responses": ["".join(f" w{token}" for token in tree.responses[place]) for place in order],
            "ranks": [*range(1, shown + 1)],
            "weight": weight,
        }
        for order, weight in zip(orders, weights, strict=True)
    )


def some_pairs(responses: int) -> list[tuple[int, int]]:
    """Both orders of each response with the next one and with a drawn one."""
    draw = random.Random(0)
    pairs = {(place, (place + 1) % responses) for place in range(responses)}
    pairs |= {(place, draw.randrange(responses)) for place in range(responses)}
    return [order for a, b in sorted(pairs) if a != b for order in ((a, b), (b, a))]


def distance(log_probs: Tensor, optimum: Tensor) -> tuple[float, float]:
    """Total variation of two distributions, given by log-probabilities, and the largest error of log-odds."""
    error = log_probs - optimum
    return float((log_probs.exp() - optimum.exp()).abs().sum() / 2), float(error.max() - error.min())


def by_trainer(
    tree: Tree, penalty: Penalty, beta: float, table: Judgments, judged: list[int], options: argparse.Namespace
) -> Tensor:
    """log pi(y) of every response after a run of `PMDPOTrainer`."""
    set_seed(options.seed)
    policy = copy_of(tree.reference)
    with tempfile.TemporaryDirectory() as folder:
        args = PMDPOConfig(
            folder, beta=beta, max_steps=options.steps, per_device_train_batch_size=len(table),
            learning_rate=options.learning_rate, lr_scheduler_type="cosine", seed=options.seed, use_cpu=True,
            logging_steps=options.steps, length_checks=0,
            max_response_length=tree.depth, layout="flat", **named_penalty(penalty), **QUIET,
        )  # fmt: skip
        trainer = PMDPOTrainer(policy, args=args, train_dataset=table, processing_class=tree.tokenizer)
        ids = {tuple(own) for own in trainer.train_tokens.response_ids}
        assert ids == {tuple(tree.responses[place]) for place in judged}, "the tokens of texts and trees differ"
        trainer.train()
    return tree.log_probs(trainer.model)


def in_a_table(tree: Tree, penalty: Penalty, beta: float) -> Tensor:
    """log pi(y) of every response at the minimum of PM-DPO's loss, for a policy that is a table."""
    starts = dict.fromkeys(tuple(y[:place]) for y in tree.responses for place in range(len(y)))
    row = {start: number for number, start in enumerate(starts)}
    steps = [
        (number, row[tuple(y[:place])], y[place]) for number, y in enumerate(tree.responses) for place in range(len(y))
    ]
    response, start, token = torch.tensor(steps).T
    logits = torch.zeros(len(row), tree.size, dtype=torch.float64, requires_grad=True)
    pairs = torch.tensor(some_pairs(len(tree.responses)))
    share = log_likelihood(tree.rewards.double()[pairs], ORDER.expand(len(pairs), -1)).exp()
    charges = tree.charged(penalty).sum(-1)

    def log_probs() -> Tensor:
        said = logits.log_softmax(-1)[start, token]
        return torch.zeros_like(charges).index_add(0, response, said)

    def loss() -> Tensor:
        optimiser.zero_grad()
        utilities = beta * (log_probs() - charges)
        value = -(share * log_likelihood(utilities[pairs], ORDER.expand(len(pairs), -1))).sum() / share.sum()
        value.backward()
        return value

    optimiser = torch.optim.LBFGS(
        [logits], max_iter=20_000, tolerance_grad=1e-10, tolerance_change=1e-14, history_size=50,
        line_search_fn="strong_wolfe",
    )  # fmt: skip
    optimiser.step(loss)
    with torch.no_grad():
        return log_probs()


def trained(case: tuple[str, Penalty, float, int, int | None], options: argparse.Namespace) -> dict[str, Any]:
    """Tune on all rankings and compare with the closed form."""
    name, penalty, beta, shown, count = case
    tree = Tree(name)
    judged = list(range(len(tree.responses)))[-(count or len(tree.responses)) :]
    optimum = matched_log_probs(tree.rewards.double(), tree.charged(penalty).sum(-1), beta)
    start = tree.log_probs(tree.reference)
    table = rankings(tree, judged, shown)
    clock = Clock()
    final = (
        in_a_table(tree, penalty, beta) if tree.depth > 2 else by_trainer(tree, penalty, beta, table, judged, options)
    )
    both = (start, final, optimum)
    own = [torch.log_softmax(values[judged], -1) for values in both]
    variation, log_odds = distance(own[1], own[2])
    row = {"tree": name, "beta": beta, "shown": shown, "judged": len(judged), "responses": len(tree.responses)}
    return row | named_penalty(penalty) | {
        "rankings": len(table), "seconds": clock(), "start": distance(own[0], own[2])[0], "total_variation": variation,
        "log_odds": log_odds, "everywhere": distance(final, optimum)[0],
        "mass": [float(values[judged].exp().sum()) for values in both],
        "length": [float((values.exp() / values.exp().sum()) @ tree.lengths()) for values in both],
    }  # fmt: skip


def main() -> None:
    options = parsed(__doc__, steps=400, learning_rate=0.01, seed=0)
    settings = vars(options)
    for case in CASES:
        rows = kept("matching_offline", settings)
        if str(case) in rows:
            continue
        row = trained(case, options)
        print(row, flush=True)
        keep("matching_offline", settings, rows | {str(case): row})
