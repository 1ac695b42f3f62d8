"""DPRM's transport loss with its gradient, against a loop of POT's `emd2`.

4096 items of 6 and of 101 labels: the cost `reward-gap` with its step (`ot`), and positions on the scale (`w1`). Ours
is what a training step computes: softmax of the logits, the loss of every item and the gradient of the logits, in
float32 and in float64. `emd2` gets the distributions as arrays and returns the cost of each pair. On a line POT has a
closed form for a whole batch too: it is timed with softmax and gradient, in float64. All take turns in one process;
medians are reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import ot
import torch

from pluralign.choice.label_costs import LabelCost, label_cost
from pluralign.choice.transport import DEFAULT_COST, distribution_loss

from ..common.options import parsed
from ..common.results import store
from .stepping import in_turn

ITEMS = 4096
CASES = (("ot", 6), ("ot", 101), ("w1", 6), ("w1", 101))
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def drawn(labels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Logits of an informed model, shares of ten votes with a prior, and rewards in no order."""
    draw = np.random.default_rng([seed, labels])
    shares = draw.dirichlet(np.full(labels, 0.5), size=ITEMS)
    votes = draw.multinomial(10, shares) + 1.0
    logits = np.log(shares + 0.01) + draw.normal(size=shares.shape)
    return torch.from_numpy(logits), torch.from_numpy(votes / votes.sum(1, keepdims=True)), draw.normal(size=labels)


def methods_of(loss: Any, cost: LabelCost, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, Callable]:
    """Functions that return the costs of all items; those that have a gradient compute it too."""
    predicted = logits.softmax(-1).numpy()
    aims, matrix = targets.numpy(), cost.matrix

    def ours(dtype: torch.dtype) -> Callable[[], np.ndarray]:
        own, aim = logits.to(dtype).requires_grad_(), targets.to(dtype)

        def run() -> np.ndarray:
            own.grad = None
            losses = distribution_loss(own, aim, loss=loss, cost=cost)
            losses.sum().backward()
            return losses.detach().double().numpy()

        return run

    def emd2() -> np.ndarray:
        return np.array([ot.emd2(one, two, matrix) for one, two in zip(predicted, aims, strict=True)])

    places = torch.from_numpy(np.array(cost.places))[:, None].expand(-1, ITEMS).contiguous()
    leaf = logits.clone().requires_grad_()

    def on_line() -> np.ndarray:
        leaf.grad = None
        losses = ot.wasserstein_1d(places, places, leaf.softmax(-1).T, targets.T)
        losses.sum().backward()
        return losses.detach().numpy()

    runs: dict[str, Callable] = {name: ours(dtype) for name, dtype in DTYPES.items()} | {"emd2": emd2}
    return runs if cost.delta else runs | {"wasserstein_1d": on_line}


def seconds_of(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def measured(loss: Any, labels: int, repeats: int, seed: int) -> dict[str, Any]:
    logits, targets, rewards = drawn(labels, seed)
    cost = label_cost(rewards, DEFAULT_COST[loss])
    runs = methods_of(loss, cost, logits, targets)
    values = {name: run() for name, run in runs.items()}  # also warms up
    times = in_turn({name: partial(seconds_of, run) for name, run in runs.items()}, repeats, warm=0)
    apart = {name: float(np.abs(value - values["emd2"]).max()) for name, value in values.items()}
    if apart["float64"] > 1e-6:
        raise SystemExit(f"{loss}, {labels} labels: our costs and those of POT differ by {apart['float64']:.1e}")
    ratios = {
        name: median(a / b for a, b in zip(times["emd2"], own, strict=True))
        for name, own in times.items()
        if name != "emd2"
    }
    seconds = {name: median(own) for name, own in times.items()}
    return {"loss": loss, "labels": labels, "seconds": seconds, "ratios": ratios, "apart": apart}


def main() -> None:
    options = parsed(__doc__, repeats=9, seed=0, threads=(1, "Threads of torch; POT has one."))
    torch.set_num_threads(options.threads)
    rows = []
    for loss, labels in CASES:
        rows.append(measured(loss, labels, options.repeats, options.seed))
        print(rows[-1], flush=True)
    store("transport_speed", {"options": vars(options), "items": ITEMS, "pot": ot.__version__, "rows": rows})
