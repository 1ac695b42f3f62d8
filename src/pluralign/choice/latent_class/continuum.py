"""Types or degrees: the continuum of tastes with the mean and the covariance of fitted annotator types.

K types with coefficients theta_k and shares eta_k have the mean theta_0 = sum_k eta_k theta_k and the covariance
sum_k eta_k (theta_k - theta_0)(theta_k - theta_0)' = L L', of rank K - 1 at most. The normal distribution

    theta_h = theta_0 + s L z_h,   z_h ~ Normal(0, I)

has the same moments at s = 1, and the same number of directions, but no clusters. If annotators come in types, their
held-out judgments are more likely under the types; if they differ by degrees, under the continuum. A normal
distribution that is free in every coefficient is a weaker opponent where features are many: it overfits (`bench/`).

References: the finite mixture against the normal distribution of tastes, Allenby & Rossi 1999; Andrews, Ainslie &
Currim 2002. The matched moments are ours.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from pluralign.choice.annotator_blocks import blocks_of
from pluralign.choice.annotator_posteriors import Prior, importance, laplace
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel

DRAWS = 128
"""Draws of each annotator's position in the continuum, by importance sampling."""


def matched_normal(model: LatentClassPlackettLuce) -> tuple[np.ndarray, np.ndarray]:
    """theta_0 `(p,)` and L `(p, K - 1)` of the types that do not rank at random.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> shown = np.stack([rng.permutation(4)[:3] for _ in range(300)])
        >>> person = np.repeat(np.arange(30), 10)
        >>> worth = np.where(person[:, None] < 15, shown, -shown) * 2.0 + rng.gumbel(size=shown.shape)
        >>> model = LatentClassPlackettLuce(2).fit(Panel(shown, (-worth).argsort(1).argsort(1) + 1, person))
        >>> mean, loadings = matched_normal(model)
        >>> between = np.cov(model.coefficients_.T, aweights=model.mixture_weights_, bias=True)
        >>> bool(np.allclose(loadings @ loadings.T, between))
        True
    """
    last = len(model.mixture_weights_) - bool(model.noise)
    theta, shares = np.asarray(model.coefficients_)[:last], np.asarray(model.mixture_weights_)[:last]
    shares = shares / shares.sum()
    mean = shares @ theta
    _, values, directions = np.linalg.svd(np.sqrt(shares)[:, None] * (theta - mean), full_matrices=False)
    kept = values[: last - 1] > 1e-9 * max(values.max(initial=0.0), 1.0)
    return mean, (directions[: last - 1] * values[: last - 1, None])[kept].T


def continuum_log_likelihood(
    model: LatentClassPlackettLuce,
    panel: Panel,
    scales: tuple[float, ...] = (1.0,),
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> np.ndarray:
    """log-likelihood of each annotator's judgments under the continuum that matches a model: `(scales, annotators)`.

    In nats, integrated over the annotator's position in the continuum. A type that ranks at random stays a type.

    Args:
        model: fitted types; `ties` must be `efron` or `breslow`.
        panel: judgments, of the same responses.
        scales: values of s.
        draws: of importance sampling; 0 leaves Laplace's approximation.
        seed: of the draws.
    """
    mean, loadings = matched_normal(model)
    features = np.column_stack((loadings, mean))
    if panel.features is not None:
        features = np.asarray(panel.features) @ features
    projected = replace(panel, features=features, covariates=None)
    rank = loadings.shape[1]
    found = np.zeros((len(scales), panel.annotators))
    at_random = np.zeros(panel.annotators)
    for block in blocks_of(projected, np.arange(rank), ties=model.ties, top=model.top):
        who, start = block.annotator.numpy(), None
        zero, shared = torch.zeros(len(who), rank, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        at_random[who] = block.log_likelihood(zero, 0 * shared)[0].numpy()
        if not rank:
            found[:, who] = block.log_likelihood(zero, shared)[0].numpy()
            continue
        for row, scale in enumerate(scales):
            one = torch.ones(rank, dtype=torch.float64)
            prior = Prior(0 * one, one.new_zeros(rank, 0), scale**2 * one, shared)
            posterior = laplace(block, prior, start)
            start, value = posterior.mode, posterior.log_likelihood
            if draws:
                _, log_weights = importance(block, prior, posterior, draws, seed)
                value = torch.logsumexp(log_weights, 0) - np.log(draws)
            found[row, who] = value.numpy()
    if not model.noise:
        return found
    noise = float(np.asarray(model.mixture_weights_)[-1])
    return np.asarray(np.logaddexp(np.log1p(-noise) + found, np.log(max(noise, 1e-300)) + at_random))
