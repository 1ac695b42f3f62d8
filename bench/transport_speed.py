"""The transport loss with its gradient, against a loop of POT's `emd2`.

4096 items of 6 and of 101 labels, `reward-gap` with its step (`ot`) and places on the scale (`w1`). Ours is what a
training step computes: softmax of the logits, the loss of every item, the gradient of the logits, in float32 and in
float64. `emd2` is given the distributions as arrays and answers with the cost of each pair. On the bare line POT
has a closed form for a whole batch, too: it is timed with softmax and gradient, in float64. All take turns in one
process; medians are told.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import ot
import torch
from common import store

from pluralign.choice.transport import DEFAULT_COST, LabelCost, distribution_loss, label_cost

ITEMS = 4096
CASES = (("ot", 6), ("ot", 101), ("w1", 6), ("w1", 101))
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def drawn(labels: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Logits of a model that knows something, shares of ten votes on a prior, rewards in no order."""
    draw = np.random.default_rng([seed, labels])
    shares = draw.dirichlet(np.full(labels, 0.5), size=ITEMS)
    votes = draw.multinomial(10, shares) + 1.0
    logits = np.log(shares + 0.01) + draw.normal(size=shares.shape)
    return torch.from_numpy(logits), torch.from_numpy(votes / votes.sum(1, keepdims=True)), draw.normal(size=labels)


def contestants(loss: Any, cost: LabelCost, logits: torch.Tensor, targets: torch.Tensor) -> dict[str, Callable]:
    """Each gives the costs of all items; those with a gradient compute it."""
    predicted = logits.softmax(-1).numpy()
    aims, matrix = targets.numpy(), cost.matrix

    def ours(dtype: torch.dtype) -> Callable[[], np.ndarray]:
        own, aim = logits.to(dtype).requires_grad_(), targets.to(dtype)

        def run() -> np.ndarray:
            own.grad = None
            found = distribution_loss(own, aim, loss=loss, cost=cost)
            found.sum().backward()
            return found.detach().double().numpy()

        return run

    def emd2() -> np.ndarray:
        return np.array([ot.emd2(one, two, matrix) for one, two in zip(predicted, aims, strict=True)])

    places = torch.from_numpy(np.array(cost.places))[:, None].expand(-1, ITEMS).contiguous()
    leaf = logits.clone().requires_grad_()

    def on_line() -> np.ndarray:
        leaf.grad = None
        found = ot.wasserstein_1d(places, places, leaf.softmax(-1).T, targets.T)
        found.sum().backward()
        return found.detach().numpy()

    found: dict[str, Callable] = {name: ours(dtype) for name, dtype in DTYPES.items()}
    found["emd2"] = emd2
    if not cost.delta:
        found["wasserstein_1d"] = on_line
    return found


def measured(loss: Any, labels: int, repeats: int, seed: int) -> dict[str, Any]:
    logits, targets, rewards = drawn(labels, seed)
    cost = label_cost(rewards, DEFAULT_COST[loss])
    runs = contestants(loss, cost, logits, targets)
    values = {name: run() for name, run in runs.items()}  # warm
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats):
        for name in list(runs)[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - start)
    apart = {name: float(np.abs(value - values["emd2"]).max()) for name, value in values.items()}
    if apart["float64"] > 1e-6:
        raise SystemExit(f"{loss}, {labels} labels: ours and POT differ by {apart['float64']:.1e}")
    return {
        "loss": loss,
        "labels": labels,
        "seconds": {name: median(found) for name, found in times.items()},
        "ratios": {
            name: median(a / b for a, b in zip(times["emd2"], times[name], strict=True))
            for name in runs
            if name != "emd2"
        },
        "apart": apart,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="of torch; POT has one")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for loss, labels in CASES:
        row = measured(loss, labels, options.repeats, options.seed)
        print(row, flush=True)
        rows.append(row)
    store("transport_speed", {"options": vars(options), "items": ITEMS, "pot": ot.__version__, "rows": rows})


if __name__ == "__main__":
    main()
