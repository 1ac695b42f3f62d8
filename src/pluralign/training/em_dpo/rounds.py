"""Rounds of EM-DPO: the result of an E-step, and the files from which a killed run goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from transformers.utils import logging

from pluralign.choice.em_dpo import mixture_weights, responsibilities
from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, disk_errors, write_json

logger = logging.get_logger(__name__)

_RECORD = "round.json"
_ARRAYS = "round.safetensors"

FEW = 0.25
"""Below this part of an even share of the annotators a type gets a warning."""


@dataclass(frozen=True)
class Round:
    """The state after a round; round 0 is the start.

    Args:
        gamma: responsibilities `(annotators, K)`.
        log_weights: log eta `(K,)`.
        log_likelihood: of the judgments that the round scored `(annotators, K)`, in nats.
        scored: `(annotators,)` bool, whether the round scored any of the annotator's judgments.
        record: the values that are reported, by name.
    """

    gamma: np.ndarray
    log_weights: np.ndarray
    log_likelihood: np.ndarray
    scored: np.ndarray
    record: dict[str, Any]


def first_round(gamma: np.ndarray, weight_floor: float) -> Round:
    """Round 0: the start's responsibilities `(annotators, K)`."""
    weights = _shares(gamma, weight_floor)
    record = {"round": 0, "mixture_weights": weights.tolist()}
    return Round(gamma, np.log(weights), np.zeros_like(gamma), np.zeros(len(gamma), dtype=bool), record)


def next_round(
    before: Round,
    log_likelihood: np.ndarray,
    scored: np.ndarray,
    *,
    both_halves: bool,
    temperature: float,
    floor: float,
    weight_floor: float,
    record: dict[str, Any],
) -> Round:
    """The state after an E-step.

    With `both_halves` the evidence is that of this round's half and of the other half, which the round before
    scored; neither was scored by a policy that was tuned on it. An annotator without any evidence keeps their
    responsibilities.

    Args:
        before: the round before.
        log_likelihood: as in `Round`.
        scored: as in `Round`.
        both_halves: whether the round before scored other judgments than this one.
        temperature: flattens the responsibilities if above 1.
        floor: the least responsibility.
        weight_floor: the least share of a type.
        record: further values to report; `scored_judgments` is needed.

    Examples:
        >>> start = first_round(np.array([[0.5, 0.5], [0.9, 0.1]]), 0.0)
        >>> after = next_round(
        ...     start, np.log([[0.5, 0.25], [1.0, 1.0]]), np.array([True, False]), both_halves=True,
        ...     temperature=1.0, floor=0.0, weight_floor=0.0, record={"scored_judgments": 1},
        ... )
        >>> after.gamma.round(3).tolist(), round(after.record["log_likelihood"], 3)
        ([[0.824, 0.176], [0.9, 0.1]], -0.856)
    """
    log_weights = torch.from_numpy(before.log_weights)
    total = responsibilities(torch.from_numpy(log_likelihood), log_weights)[1].numpy()[scored].sum()
    evidence, known = log_likelihood, scored
    if both_halves:
        evidence, known = evidence + before.log_likelihood, known | before.scored
    updated, _ = responsibilities(torch.from_numpy(evidence), log_weights, temperature=temperature, floor=floor)
    gamma = np.where(known[:, None], updated.numpy(), before.gamma)
    weights = _shares(gamma, weight_floor)
    record = record | {
        "log_likelihood": float(total),
        "log_likelihood_per_judgment": float(total) / max(1, record["scored_judgments"]),
        "mixture_weights": weights.tolist(),
        "moved": float((gamma.argmax(1) != before.gamma.argmax(1)).mean()),
    }
    return Round(gamma, np.log(weights), log_likelihood, scored, record)


def _shares(gamma: np.ndarray, floor: float) -> np.ndarray:
    return np.asarray(mixture_weights(torch.from_numpy(gamma), floor=floor).numpy())


class Rounds:
    """The folder of a run's rounds: each holds the checkpoints of its M-step, and at the end the round's state.

    Args:
        folder: created at the first write.
        writes: whether this process writes (one of several does).
    """

    def __init__(self, folder: Path, writes: bool) -> None:
        self.folder = folder
        self.writes = writes

    def of(self, number: int | str) -> Path:
        """The folder of a round."""
        return self.folder / str(number)

    def clear(self) -> None:
        """Remove all rounds."""
        if self.writes and self.folder.is_dir():
            with disk_errors(self.folder):
                shutil.rmtree(self.folder)

    def write(self, number: int, finished: Round) -> None:
        """Store a finished round and remove the checkpoints of its M-step."""
        if not self.writes:
            return
        folder = self.of(number)
        arrays = {name: np.ascontiguousarray(value) for name, value in vars(finished).items() if name != "record"}
        with atomic_write(folder / _ARRAYS) as out:
            out.write(safetensors.numpy.save(arrays))
        write_json(folder / _RECORD, finished.record)
        with disk_errors(folder):
            for checkpoint in folder.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)

    def read(self) -> list[Round]:
        """The finished rounds from the start on; none if not even the start was written.

        Raises:
            PluralignError: one is damaged.
        """
        rounds: list[Round] = []
        while (self.of(len(rounds)) / _RECORD).exists():
            folder = self.of(len(rounds))
            try:
                record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
                rounds.append(Round(**safetensors.numpy.load_file(folder / _ARRAYS), record=record))
            except (OSError, ValueError, TypeError, safetensors.SafetensorError) as fault:
                raise PluralignError(f"{folder}: is damaged ({fault}); remove {self.folder} to start over") from fault
        return rounds


def log_round(record: dict[str, Any]) -> None:
    """Log a round, and warn of types that explain nothing or die out."""
    weights = record["mixture_weights"]
    shares = ", ".join(f"{share:.0%}" for share in weights)
    logger.warning(
        f"round {record['round']}: log-likelihood per judgment {record['log_likelihood_per_judgment']:.4f}, "
        f"types {shares}, {record['moved']:.0%} of the annotators changed type"
    )
    reached, reference = record["log_likelihood"], record["reference_log_likelihood"]
    if record["scored_judgments"] and reached <= reference * (1 - 1e-6):  # both are below 0
        logger.warning(
            f"round {record['round']}: the types' policies predict judgments no better than the reference does, so "
            "the annotators' types are unknown: raise the learning rate or num_train_epochs, or get more data"
        )
    if min(weights) < FEW / len(weights):
        logger.warning(
            f"round {record['round']}: a type is dying out ({shares}); fewer types, more judgments per annotator, "
            "rankings of three, or another start may help"
        )
