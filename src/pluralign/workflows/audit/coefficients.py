"""Coefficients of an audit with side tables, in the units of the tables."""

from __future__ import annotations

import numpy as np

from pluralign.choice.latent_class.estimator import MOST_COVARIANCES
from pluralign.reports.audit_record import Coefficient
from pluralign.scoring.annotator_types import Findings
from pluralign.scoring.side_tables import BAR, CONSTANT


def attribute_coefficients(fitted: Findings) -> list[Coefficient]:
    """The utility of one unit of each attribute for each type; a coefficient that all types share is given once.

    The bar's coefficient is its utility relative to a response whose attributes are all 0.
    """
    columns, model = fitted.attributes, fitted.model
    if columns is None:
        return []
    values = np.asarray(fitted.tastes.coefficients_)
    size = values.shape[1]
    back = np.zeros((size, size))  # from coefficients of scaled attributes to those of the table's units
    count = len(columns.names)
    back[:count, :count] = np.diag(1 / columns.spread)
    if size > count:
        back[count, :count] = columns.mean / columns.spread
        back[count, count] = 1.0
    covariance = _covariance(fitted)
    slot = model.problem(fitted.panel).slot.cpu().numpy()[:, :size]
    fitted_types = np.flatnonzero((slot >= 0).any(1))  # without the one that ranks at random
    shared = (slot[fitted_types] == slot[0]).all(0) & (len(fitted_types) > 1)
    rows = []
    for kind in fitted_types.tolist():
        own = slot[kind]
        errors = _errors(back, covariance, own)
        for place, name in enumerate([*columns.names, BAR][:size]):
            if shared[place] and kind:
                continue
            number = None if shared[place] else kind + 1
            error = None if errors is None else float(errors[place])
            rows.append(Coefficient(name, number, float(back[place] @ values[kind]), error))
    return rows


def membership_coefficients(fitted: Findings) -> list[Coefficient]:
    """The log-odds of each type against the first one, per unit of each covariate of annotators."""
    columns, model = fitted.covariates, fitted.model
    if columns is None:
        return []
    size = len(columns.names) + 1
    back = np.diag(np.concatenate(([1.0], 1 / columns.spread)))
    back[0, 1:] = -columns.mean / columns.spread
    covariance = _covariance(fitted)
    free = 0 if covariance is None else len(covariance) - (len(model.mixture_weights_) - 1) * size
    rows = []
    for kind, values in enumerate(np.asarray(model.membership_)):
        errors = _errors(back, covariance, free + kind * size + np.arange(size))
        for place, name in enumerate([CONSTANT, *columns.names]):
            error = None if errors is None else float(errors[place])
            rows.append(Coefficient(name, kind + 2, float(back[place] @ values), error))
    return rows


def _covariance(fitted: Findings) -> np.ndarray | None:
    if fitted.model.n_parameters_ > MOST_COVARIANCES:
        return None
    return fitted.model.covariance(fitted.panel)


def _errors(back: np.ndarray, covariance: np.ndarray | None, places: np.ndarray) -> np.ndarray | None:
    """Standard errors of `back` times the parameters at `places`; those at -1 are fixed."""
    if covariance is None:
        return None
    own = back[:, places >= 0]
    block = covariance[np.ix_(places[places >= 0], places[places >= 0])]
    return np.asarray(np.sqrt(np.einsum("rp,pq,rq->r", own, block, own).clip(0)))
