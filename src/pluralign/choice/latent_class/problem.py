"""From a panel of judgments to what expectation maximisation works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pluralign.choice.latent_class.conditional_logit import ConditionalLogit
from pluralign.choice.latent_class.em import Problem
from pluralign.choice.latent_class.exploded import exploded
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.sparse import sparse_pair


def problem_of(
    panel: Panel,
    *,
    types: int,
    slots: Callable[[int], tuple[np.ndarray, np.ndarray]],
    ties: str = "efron",
    top: int | None = None,
    ridge: float = 1e-6,
    device: str = "cpu",
) -> Problem:
    """The different choices of a panel, who made them how often, and which coefficients are free.

    Args:
        panel: the judgments.
        types: K.
        slots: number of coefficients p to the arrays of `slots_of`.
        ties: `efron` or `breslow`.
        top: only the first so many places count.
        ridge: precision of the prior.
        device: where to compute.

    Raises:
        ValueError: something does not fit.
    """

    def real(values: ArrayLike) -> Tensor:
        return torch.tensor(np.asarray(values, dtype=np.float64), device=device)

    def whole(values: ArrayLike) -> Tensor:
        return torch.tensor(np.asarray(values, dtype=np.int64), device=device)

    choices = exploded(whole(panel.responses), whole(panel.ranks), ties=ties, top=top)
    available = None
    if panel.available is not None:
        known = np.asarray(panel.available)
        if len(known) != types:
            raise ValueError(f"available: found {len(known)} rows, expected one for each of the {types} types")
        available = torch.tensor(known, device=device)
    features = None if panel.features is None else real(panel.features)
    logit = ConditionalLogit(choices, features, panel.response_count, available)
    slot, fixed = slots(logit.parameters)
    annotator = whole(panel.annotator)[choices.judgment]
    reliability = real(np.ones(panel.judgments) if panel.reliability is None else panel.reliability)
    times = reliability[choices.judgment]
    made = times > 0  # an entry of zero would turn a choice of probability zero into NaN
    entries = annotator[made], choices.choice[made], times[made]
    counts, back = sparse_pair(*entries, (panel.annotators, len(choices)))
    return Problem(
        logit=logit,
        counts=counts,
        back=back,
        population=real(np.ones(panel.annotators) if panel.population is None else panel.population),
        covariates=None if panel.covariates is None else real(panel.covariates),
        slot=torch.as_tensor(slot, device=device),
        fixed=real(fixed),
        ridge=ridge,
    )


def slots_of(
    types: int, size: int, fixed: ArrayLike | None = None, shared: Sequence[int] = (), *, noise: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The free parameter behind each coefficient, and the fixed ones: both `(K, p)`.

    Args:
        types: K.
        size: p.
        fixed: `(K, p)` coefficients that are given, NaN where they are free.
        shared: columns whose coefficient is one parameter for all types.
        noise: the last type's coefficients are all 0.

    Raises:
        ValueError: shapes do not fit, or a shared column is not one of the p.

    Examples:
        >>> slots_of(2, 3, shared=[1])[0].tolist()
        [[0, 1, 2], [3, 1, 4]]
    """
    given = np.full((types, size), np.nan) if fixed is None else np.array(fixed, dtype=np.float64)
    if given.shape != (types, size):
        raise ValueError(f"fixed: expected the shape {(types, size)}, found {given.shape}")
    if any(not 0 <= column < size for column in shared):
        raise ValueError(f"shared: found {list(shared)}, expected columns from 0 to {size - 1}")
    if noise:
        given[-1] = 0.0
    owner = np.arange(types * size).reshape(types, size)
    for column in shared:
        owner[:, column] = owner[0, column]
    free = np.isnan(given)
    slot = np.full((types, size), -1)
    slot[free] = np.unique(owner[free], return_inverse=True)[1]
    return slot, np.where(free, 0.0, given)
