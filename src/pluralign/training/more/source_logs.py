"""Logs of training on several sources: weights, losses, accuracies, calibration errors, gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from pluralign.choice.plackett_luce import pair_margins
from pluralign.evaluation.calibration.reliability import equal_width_edges

MOST_PAIRS_LOGGED = 6
"""Cosines are logged for each pair up to this number of sources; for more, their mean and minimum alone."""


class SourceLogs:
    """Sums over the steps since the last log, for each source.

    Args:
        kind: `source` or `type`, as in the keys `loss/source=NAME`.
        names: the sources.
    """

    def __init__(self, kind: str, names: list[str]) -> None:
        self.kind = kind
        self.names = names
        self._forget()

    def _forget(self) -> None:
        sources = len(self.names)
        self._judged: Tensor | None = None  # (sources, 4 + bins)
        self._lambdas = np.zeros(sources)
        self._solved = 0
        self._norms = np.zeros((2, sources))  # sums, and how many
        self._cosines = np.zeros((2, sources, sources))

    def note_judgments(self, utilities: Tensor, inputs: dict[str, Any], losses: Tensor) -> None:
        """Add a batch: weight and loss of its judgments; weight, agreement and calibration gaps of its strict pairs."""
        membership = inputs["membership"] * inputs["weight"].unsqueeze(-1)  # (judgments, sources)
        margins, strict = pair_margins(utilities, inputs["ranks"])
        pairs = strict.sum(-1, keepdim=True)
        share = strict / pairs.clamp(min=1)  # (judgments, pairs): a judgment counts once
        agree = (margins > 0).float() + (margins == 0) / 2
        confidence = torch.sigmoid(margins.abs())
        edges = torch.from_numpy(equal_width_edges()[1:-1]).to(confidence)
        gap = torch.zeros(len(margins), len(edges) + 1, device=margins.device)
        gap.scatter_add_(1, torch.bucketize(confidence, edges, right=True), share * (agree - confidence))
        each = torch.cat(
            (torch.ones_like(pairs), losses.unsqueeze(-1), (pairs > 0).float(), (agree * share).sum(-1, True), gap),
            1,
        )
        sums = membership.T @ each.float()
        self._judged = sums if self._judged is None else self._judged + sums

    def note_weights(self, lambdas: Tensor, counts: Tensor, gramian: np.ndarray | None = None) -> None:
        """Add one set of weights, with the inner products of the gradients that gave it."""
        self._lambdas += lambdas.double().cpu().numpy()
        self._solved += 1
        if gramian is None:
            return
        norms = np.sqrt(np.clip(gramian.diagonal(), 0, None))
        present = (counts > 0).cpu().numpy()
        self._norms += np.stack((norms * present, present))
        live = present & (norms > 0)
        both = np.outer(live, live)
        cosine = np.divide(gramian, np.outer(norms, norms), out=np.zeros_like(gramian), where=both)
        self._cosines += np.stack((cosine, both))

    def taken(self, accelerator: Any) -> dict[str, float]:
        """The logs since the last call, over all processes; resets the sums."""
        logs: dict[str, float] = {}
        if self._judged is not None:
            judged = accelerator.reduce(self._judged, "sum").double().cpu().numpy()
            for name, (weight, loss, pairs, agree, *gap) in zip(self.names, judged, strict=True):
                if weight > 0:
                    logs[self._key("loss", name)] = float(loss / weight)
                if pairs > 0:
                    logs[self._key("accuracy", name)] = float(agree / pairs)
                    logs[self._key("ece", name)] = float(np.abs(gap).sum() / pairs)
        if self._solved:
            for name, weight in zip(self.names, self._lambdas / self._solved, strict=True):
                logs[self._key("weight", name)] = float(weight)
        for name, norm, count in zip(self.names, *self._norms, strict=True):
            if count:
                logs[self._key("gradient_norm", name)] = float(norm / count)
        logs |= self._cosine_logs()
        self._forget()
        return logs

    def _cosine_logs(self) -> dict[str, float]:
        total, count = self._cosines
        pairs = [(i, j) for i, j in zip(*np.triu_indices(len(self.names), 1), strict=True) if count[i, j]]
        means = {(i, j): float(total[i, j] / count[i, j]) for i, j in pairs}
        if not means:
            return {}
        values = list(means.values())
        logs = {"cosine_mean": float(np.mean(values)), "cosine_least": float(np.min(values))}
        if len(self.names) <= MOST_PAIRS_LOGGED:
            logs |= {f"cosine/{self.names[i]},{self.names[j]}": value for (i, j), value in means.items()}
        return logs

    def _key(self, name: str, source: str) -> str:
        return f"{name}/{self.kind}={source}"


HISTORY = ("weight", "loss", "accuracy", "ece", "gradient_norm")
"""The columns of a source's history."""


def source_history(log: Sequence[Mapping[str, Any]], kind: str, names: Sequence[str]) -> pa.Table:
    """A trainer's log as a table: `step`, `source`, and `HISTORY`, null where a value was not logged.

    Examples:
        >>> log = [{"step": 1, "loss": 0.7, "weight/source=a": 1.0, "loss/source=a": 0.7}]
        >>> source_history(log, "source", ["a"]).select(["step", "source", "weight", "ece"]).to_pylist()
        [{'step': 1, 'source': 'a', 'weight': 1.0, 'ece': None}]
    """
    keys = {f"{key}/{kind}={name}" for key in HISTORY for name in names}
    rows = [(entry, name) for entry in log if "step" in entry and keys & entry.keys() for name in names]
    columns: dict[str, Any] = {
        "step": pa.array([entry["step"] for entry, _ in rows], pa.int64()),
        "source": pa.array([name for _, name in rows], pa.string()),
    }
    for key in HISTORY:
        columns[key] = pa.array([entry.get(f"{key}/{kind}={name}") for entry, name in rows], pa.float64())
    return pa.table(columns)


def mean_weights(log: Sequence[Mapping[str, Any]], kind: str, names: Sequence[str]) -> dict[str, float]:
    """Mean weight of each source over the logs, as `weight/source=NAME`."""
    keys = [f"weight/{kind}={name}" for name in names]
    values = {key: [entry[key] for entry in log if key in entry] for key in keys}
    return {key: float(np.mean(logged)) for key, logged in values.items() if logged}
