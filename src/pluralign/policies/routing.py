"""Routing: which adapter of a mixture serves an annotator, told from a few judgments and without training.

The implicit utility of a response for type k is u_k(x, y) = beta (log pi_k(y|x) - log pi_ref(y|x)), where the
mixture's penalty may charge only a part of log pi_ref; a judgment has the probability P_k that the mixture was
tuned with, Plackett-Luce or the mean log-sigmoid over its pairs; and the posterior of annotator h is

    gamma_hk proportional to eta_k * product over h's judgments j of P_k(j)^(weight of j)

the E-step of EM-DPO (arXiv 2405.15065) on annotators whom no adapter was tuned on.
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
from pluralign.scoring.mixtures import RESPONSIBILITIES, ranking_log_likelihoods

Floats = NDArray[np.float64]
Prior = Literal["run", "uniform"]


def is_typed_run(folder: str | os.PathLike[str]) -> bool:
    """Whether a mixture's folder also says who is of which type: a run of `em-dpo`, and not an aggregate's."""
    return (Path(folder) / RESPONSIBILITIES).is_file()


def type_utilities(policy: MixturePolicy, items: Items) -> Floats:
    """Implicit rewards of every unique response, as the adapters were tuned: `(adapters, responses)`.

        u_k(x, y) = beta (log pi_k(y|x) - sum over outside t of log pi_ref(y_t | ...))

    `outside` is every token in DPO, and fewer where the mixture's penalty is that of preference matching. Each
    response is read once under each adapter and once under the base without any, which is the reference.
    """
    tokens = policy.tokenize(items)
    return policy.mixture.beta * (policy.adapter_values(tokens) - policy.reference_charges(tokens))


def judgment_log_likelihoods(policy: MixturePolicy, items: Items) -> Floats:
    """log P_k of every judgment under every adapter, in nats: `(judgments, adapters)`.

    Raises:
        PluralignError: the mixture's likelihood does not take such ties.
    """
    return ranking_log_likelihoods(type_utilities(policy, items), items, policy.mixture)


def posterior(
    log_likelihoods: ArrayLike,
    annotator: ArrayLike,
    annotators: int,
    prior: ArrayLike,
    weight: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """The posterior of each annotator over types, and the log-probability of all that he said.

        gamma_hk = eta_k prod_j P_k(j)^w_j / sum_l eta_l prod_j P_l(j)^w_j

    Args:
        log_likelihoods: log P_k of each judgment, in nats, `(judgments, types)`.
        annotator: who gave each judgment, int from 0, `(judgments,)`.
        annotators: how many there are; those without a judgment get the prior.
        prior: eta, summing to 1, `(types,)`.
        weight: reliability of each judgment, `(judgments,)`; `None` is 1 for all.

    Returns:
        gamma `(annotators, types)`, and log sum_k eta_k prod_j P_k(j)^w_j `(annotators,)`, in nats: 0 for an
        annotator without a judgment.

    Raises:
        PluralignError: the shapes do not fit, or an annotator is not among those there are.

    Examples:
        Two judgments of the first annotator; the second said nothing.

        >>> gamma, total = posterior(np.log([[0.2, 0.4], [0.5, 0.5]]), [0, 0], 2, [0.75, 0.25])
        >>> gamma.round(3).tolist(), np.exp(total).round(3).tolist()
        ([[0.6, 0.4], [0.75, 0.25]], [0.125, 1.0])
    """
    each, who, eta = np.asarray(log_likelihoods, dtype=np.float64), np.asarray(annotator), np.asarray(prior)
    reliability = np.ones(len(each)) if weight is None else np.asarray(weight, dtype=np.float64)
    if each.ndim != 2 or eta.shape != each.shape[1:] or not len(who) == len(reliability) == len(each):
        raise PluralignError(
            "expected log-likelihoods (judgments, types) with annotator and weight (judgments,) and prior "
            f"(types,), found {each.shape} with {who.shape}, {reliability.shape} and {eta.shape}"
        )
    if len(who) and not 0 <= who.min() <= who.max() < annotators:
        raise PluralignError(f"annotator: found {who.min()} to {who.max()}, expected 0 to {annotators - 1}")
    said = np.stack([np.bincount(who, reliability * column, annotators) for column in each.T], 1)
    with np.errstate(divide="ignore"):  # a type may have no share
        log_prior = np.log(eta.astype(np.float64))
    gamma, total = responsibilities(torch.from_numpy(said), torch.from_numpy(log_prior))
    # Weights that miss 1 by rounding would show as a likelihood of those who said nothing.
    return gamma.numpy(), total.numpy() - np.log(eta.sum())


def entropy(gamma: ArrayLike) -> Floats:
    """Entropy of posteriors `(annotators, types)`, in nats: `(annotators,)`; 0 is certain, ln K knows nothing.

    Examples:
        >>> entropy([[1.0, 0.0], [0.5, 0.5]]).round(4).tolist()
        [0.0, 0.6931]
    """
    shares = np.asarray(gamma, dtype=np.float64)
    logs = np.log(np.where(shares > 0, shares, 1.0))
    return np.abs((shares * logs).sum(-1))
