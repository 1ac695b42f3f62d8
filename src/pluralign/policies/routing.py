"""Routing: which adapter of a mixture fits an annotator, from a few judgments and without training.

The implicit utility of a response for type k is u_k(x, y) = beta (log pi_k(y|x) - log pi_ref(y|x)), where the
mixture's penalty may charge only some tokens of log pi_ref. A judgment has the probability P_k of the likelihood used
in tuning: Plackett-Luce, or the product of the probabilities of its pairs. The posterior of annotator h is

    gamma_hk proportional to eta_k * product over h's judgments j of P_k(j)^(weight of j)

the E-step of EM-DPO (arXiv 2405.15065) for annotators that were not in training.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pluralign.choice.em_dpo import responsibilities
from pluralign.core.errors import PluralignError
from pluralign.policies.mixture import MixturePolicy
from pluralign.scoring.items import Items
from pluralign.scoring.mixtures import RESPONSIBILITIES, is_mixture, read_mixture

Floats = NDArray[np.float64]
Prior = Literal["run", "uniform"]


def is_typed_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds policies of types and the annotators' responsibilities: a run of `em-dpo`.

    A mixture of `aggregate` has no responsibilities, and a pooled copy of a run is one policy.
    """
    held = is_mixture(folder) and (Path(folder) / RESPONSIBILITIES).is_file()
    return held and read_mixture(folder).combination == "mixture"


def type_utilities(policy: MixturePolicy, items: Items) -> Floats:
    """u_k of every unique response under each adapter: `(adapters, responses)`; the base alone is the reference."""
    tokens = policy.tokenize(items)
    return policy.mixture.beta * (policy.adapter_values(tokens) - policy.reference_charges(tokens))


def posterior(
    log_likelihoods: ArrayLike, annotator: ArrayLike, annotators: int, prior: ArrayLike, weight: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """The posterior of each annotator over types, and the log-probability of their judgments.

        gamma_hk = eta_k prod_j P_k(j)^w_j / sum_l eta_l prod_j P_l(j)^w_j

    Args:
        log_likelihoods: log P_k of each judgment, in nats, `(judgments, types)`.
        annotator: annotator of each judgment, int from 0, `(judgments,)`.
        annotators: number of annotators; those without a judgment get the prior.
        prior: eta, summing to 1, `(types,)`.
        weight: reliability of each judgment, `(judgments,)`; `None` is 1 for all.

    Returns:
        gamma `(annotators, types)`, and log sum_k eta_k prod_j P_k(j)^w_j `(annotators,)`, in nats: 0 for an
        annotator without a judgment.

    Raises:
        PluralignError: shapes do not match, or an annotator number is out of range.

    Examples:
        Two judgments by the first annotator, none by the second:

        >>> gamma, total = posterior(np.log([[0.2, 0.4], [0.5, 0.5]]), [0, 0], 2, [0.75, 0.25])
        >>> gamma.round(3).tolist(), np.exp(total).round(3).tolist()
        ([[0.6, 0.4], [0.75, 0.25]], [0.125, 1.0])
    """
    log_p, ids, eta = np.asarray(log_likelihoods, dtype=np.float64), np.asarray(annotator), np.asarray(prior)
    reliability = np.ones(len(log_p)) if weight is None else np.asarray(weight, dtype=np.float64)
    if log_p.ndim != 2 or eta.shape != log_p.shape[1:] or not len(ids) == len(reliability) == len(log_p):
        raise PluralignError(
            "expected log-likelihoods (judgments, types) with annotator and weight (judgments,) and prior "
            f"(types,), found {log_p.shape} with {ids.shape}, {reliability.shape} and {eta.shape}"
        )
    if len(ids) and not 0 <= ids.min() <= ids.max() < annotators:
        raise PluralignError(f"annotator: found {ids.min()} to {ids.max()}, expected 0 to {annotators - 1}")
    sums = np.stack([np.bincount(ids, reliability * column, annotators) for column in log_p.T], 1)
    with np.errstate(divide="ignore"):  # a type may have no share
        log_prior = np.log(eta.astype(np.float64))
    gamma, total = responsibilities(torch.from_numpy(sums), torch.from_numpy(log_prior))
    # If the prior misses 1 by rounding, annotators without judgments would not get exactly 0.
    return gamma.numpy(), total.numpy() - np.log(eta.sum())


def responsibility_entropy(gamma: ArrayLike) -> Floats:
    """Entropy of posteriors `(annotators, types)`, in nats: `(annotators,)`, from 0 (certain) to ln K (uniform).

    Examples:
        >>> responsibility_entropy([[1.0, 0.0], [0.5, 0.5]]).round(4).tolist()
        [0.0, 0.6931]
    """
    shares = np.asarray(gamma, dtype=np.float64)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.abs((shares * logs).sum(-1))
