"""Rounds of EM-DPO: the result of an E-step, and the files from which a killed run goes on."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from transformers.utils import logging

from pluralign.choice.em_dpo import mixture_weights, responsibilities
from pluralign.choice.latent_class.identification import Identification
from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, disk_errors, write_json
from pluralign.core.records import read_record, write_record

logger = logging.get_logger(__name__)

_RECORD = "round.json"
_ARRAYS = "round.safetensors"
_ADAPTERS = "adapters.safetensors"
_STEPS = "steps"
_M_STEPS = "m_steps.json"

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
    evidence: np.ndarray,
    temperature: float,
    floor: float,
    weight_floor: float,
    record: dict[str, Any],
) -> Round:
    """The state after an E-step. An annotator without a scored judgment keeps their responsibilities.

    Args:
        before: the round before.
        log_likelihood: as in `Round`.
        scored: as in `Round`.
        evidence: log-odds of the types beyond eta and the scored judgments `(annotators, K)`.
        temperature: flattens the responsibilities if above 1.
        floor: the least responsibility.
        weight_floor: the least share of a type.
        record: further values to report; `scored_judgments` is needed.

    Examples:
        >>> start = first_round(np.array([[0.5, 0.5], [0.9, 0.1]]), 0.0)
        >>> after = next_round(
        ...     start, np.log([[0.5, 0.25], [1.0, 1.0]]), np.array([True, False]), evidence=np.zeros((2, 2)),
        ...     temperature=1.0, floor=0.0, weight_floor=0.0, record={"scored_judgments": 1},
        ... )
        >>> after.gamma.round(3).tolist(), round(after.record["log_likelihood"], 3)
        ([[0.824, 0.176], [0.9, 0.1]], -0.856)
    """
    each = annotator_scores(before, log_likelihood, scored)
    updated, _ = responsibilities(
        torch.from_numpy(log_likelihood + evidence),
        torch.from_numpy(before.log_weights),
        temperature=temperature,
        floor=floor,
    )
    gamma = np.where(scored[:, None], updated.numpy(), before.gamma)
    weights = _shares(gamma, weight_floor)
    record = record | {
        "log_likelihood": float(each.sum()),
        "log_likelihood_per_judgment": float(each.sum()) / max(1, record["scored_judgments"]),
        "mixture_weights": weights.tolist(),
        "moved": float((gamma.argmax(1) != before.gamma.argmax(1)).mean()),
    }
    return Round(gamma, np.log(weights), log_likelihood, scored, record)


def annotator_scores(before: Round, log_likelihood: np.ndarray, scored: np.ndarray) -> np.ndarray:
    """log sum_k eta_k P_k(scored judgments of h), in nats, with the shares of the round before: `(annotators,)`."""
    return np.where(scored, np.logaddexp.reduce(log_likelihood + before.log_weights, 1), 0.0)


@dataclass(frozen=True)
class Kept:
    """Which state trains the last M-step, and why.

    Args:
        round: its number; 0 is the start.
        reason: a sentence.
        gain: the held-out log-likelihood of the best round minus that of the start's types, tuned equally long, in nats
            per judgment; `None` if they were not compared.
        error: standard error of the gain over annotators.
        dropped: the types that lost their last annotator, numbered from 1.
    """

    round: int
    reason: str
    gain: float | None = None
    error: float | None = None
    dropped: tuple[int, ...] = ()


def gain_over(rounds: list[Round], number: int, other: tuple[Round, Round], judgments: int) -> tuple[float, float]:
    """The gain in held-out log-likelihood of a round, per judgment, and its standard error over annotators, in nats.

    Args:
        rounds: from the start on.
        number: the round whose policies were scored.
        other: what it is compared with: the round before and the round itself.
        judgments: how many were scored.
    """
    own = annotator_scores(rounds[number - 1], rounds[number].log_likelihood, rounds[number].scored)
    theirs = annotator_scores(other[0], other[1].log_likelihood, other[1].scored)
    difference = (own - theirs)[rounds[number].scored]
    error = np.sqrt(len(difference)) * difference.std(ddof=1) if len(difference) > 1 else np.inf
    return float(difference.sum()) / judgments, float(error) / judgments


def compared_with_start(rounds: list[Round], best: int, control: Round, judgments: int) -> Kept:
    """Keep the best round if it gains more than its error over `control`, the start's types tuned as long."""
    gain, error = gain_over(rounds, best, (rounds[0], control), judgments)
    better = "" if gain > error else "no "
    said = f"round {best} predicts held-out judgments {better}better than the start's types, tuned as long"
    said += f" (gain {gain:+.4f} +- {error:.4f} nats a judgment)"
    return Kept(best if gain > error else 0, said, gain, error)


def best_round(rounds: list[Round]) -> int:
    """The round whose policies predict the judgments that they were not tuned on best; 0 if none was taken."""
    scores = [finished.record["log_likelihood"] for finished in rounds[1:]]
    return int(np.argmax(scores)) + 1 if scores else 0


def without_dead_types(state: Round, least: float = 1.0) -> tuple[Round, list[int]]:
    """Drop the types that hold less than `least` annotators in all; the most frequent type always stays.

    Returns:
        The state of the types that are left, and the places of the dropped ones, from 0.

    Examples:
        >>> state, dropped = without_dead_types(first_round(np.array([[0.9, 0.1], [0.8, 0.2], [1.0, 0.0]]), 0.001))
        >>> state.gamma.tolist(), dropped
        ([[1.0], [1.0], [1.0]], [1])
    """
    mass = state.gamma.sum(0)
    alive = mass >= min(least, mass.max())
    if alive.all():
        return state, []
    gamma = state.gamma[:, alive]
    total = gamma.sum(1, keepdims=True)
    shares = gamma.sum(0) / gamma.sum()
    gamma = np.where(total > 0, gamma / np.where(total > 0, total, 1.0), shares)
    weights = gamma.mean(0)
    record = state.record | {"mixture_weights": weights.tolist()}
    state = Round(gamma, np.log(weights), state.log_likelihood[:, alive], state.scored, record)
    return state, np.flatnonzero(~alive).tolist()


def after_loss(verdict: Identification, dropped: list[int], left: int) -> tuple[Identification, str]:
    """The verdict once some types (places from 0) were dropped and so many are left, and the sentence that says so."""
    names = ", ".join(str(kind + 1) for kind in dropped)
    lost = "types {} of {} lost their last annotators and were" if len(dropped) > 1 else None
    lost = lost or "type {} of {} lost its last annotator and was"
    said = f"{lost.format(names, left + len(dropped))} dropped; {left} left"
    changed = replace(verdict, reason=f"{verdict.reason}; {said}")
    return (replace(changed, verdict="one type", heterogeneity="undecided") if left == 1 else changed), said


def _shares(gamma: np.ndarray, floor: float) -> np.ndarray:
    return np.asarray(mixture_weights(torch.from_numpy(gamma), floor=floor).numpy())


@dataclass(frozen=True)
class MStep:
    """The optimiser steps and the mean loss of an M-step, for the metrics of a run that was interrupted after it."""

    steps: int
    loss: float


class Rounds:
    """The folder of a run's rounds: each holds the checkpoints of its M-steps, the adapters of its sets while later
    rounds go on from them, and at the end the round's state.

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

    def write(self, number: int | str, finished: Round) -> None:
        """Store a finished round and remove the checkpoints of its M-steps."""
        if not self.writes:
            return
        folder = self.of(number)
        arrays = {name: np.ascontiguousarray(value) for name, value in vars(finished).items() if name != "record"}
        with atomic_write(folder / _ARRAYS) as out:
            out.write(safetensors.numpy.save(arrays))
        write_json(folder / _RECORD, finished.record)
        with disk_errors(folder):
            for checkpoint in [*folder.glob("checkpoint-*"), *folder.glob("half-*/checkpoint-*")]:
                shutil.rmtree(checkpoint)

    def read(self) -> list[Round]:
        """The finished rounds from the start on; none if not even the start was written.

        Raises:
            PluralignError: one is damaged.
        """
        rounds: list[Round] = []
        while (finished := self.read_one(len(rounds))) is not None:
            rounds.append(finished)
        return rounds

    def read_one(self, number: int | str) -> Round | None:
        """A finished round, or `None`.

        Raises:
            PluralignError: it is damaged.
        """
        folder = self.of(number)
        if not (folder / _RECORD).exists():
            return None
        try:
            record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
            return Round(**safetensors.numpy.load_file(folder / _ARRAYS), record=record)
        except (OSError, ValueError, TypeError, safetensors.SafetensorError) as fault:
            raise PluralignError(f"{folder}: is damaged ({fault}); remove {self.folder} to start over") from fault

    def write_m_steps(self, m_steps: dict[str, MStep]) -> None:
        """Store the finished M-steps by their numbers."""
        if self.writes:
            write_record(self.of(0) / _M_STEPS, m_steps)

    def read_m_steps(self) -> dict[str, MStep]:
        """The finished M-steps by their numbers."""
        file = self.of(0) / _M_STEPS
        return read_record(file, dict[str, MStep]) if file.exists() else {}

    def adapters_file(self, number: int | str, half: int) -> Path:
        """The file of the adapters that were tuned on a half of the judgments in a round."""
        return self.of(number) / f"half-{half}" / _ADAPTERS

    def write_adapters(self, number: int | str, half: int, tensors: dict[str, torch.Tensor], steps: int) -> None:
        """Store the adapters of a half, and the optimiser steps that the round took on it."""
        if self.writes:
            with atomic_write(self.adapters_file(number, half)) as out:
                out.write(safetensors.torch.save(tensors | {_STEPS: torch.tensor(steps)}))

    def read_adapters(self, number: int | str, half: int) -> tuple[dict[str, torch.Tensor], int]:
        """The adapters of a half, and the optimiser steps that the round took on it.

        Raises:
            PluralignError: they are damaged or missing.
        """
        file = self.adapters_file(number, half)
        try:
            tensors = safetensors.torch.load_file(file)
            return tensors, int(tensors.pop(_STEPS))
        except (OSError, KeyError, safetensors.SafetensorError) as fault:
            raise PluralignError(f"{file}: is damaged ({fault}); remove {self.folder} to start over") from fault

    def remove_adapters(self, number: int | str) -> None:
        """Remove the adapters of a round that no later one goes on from."""
        if self.writes:
            for half in (0, 1):
                self.adapters_file(number, half).unlink(missing_ok=True)


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
