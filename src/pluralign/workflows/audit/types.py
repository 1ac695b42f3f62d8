"""The types of an audit: their shares, utilities with standard errors, preferred responses and traits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import ndtri

from pluralign.choice.latent_class.estimator import MOST_COVARIANCES, LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel
from pluralign.judgments.messages import plain_text
from pluralign.reports.audit_record import AnnotatorType, Difference, Member, Trait, Worth
from pluralign.scoring.annotator_types import Findings
from pluralign.scoring.panels import People
from pluralign.scoring.traits import text_traits

NORMAL = float(ndtri(0.975))
_CERTAIN = 0.9  # an annotator whose type has this probability counts as certain
_SHOWN_RESPONSES, _SHOWN_DIFFERENCES, _SHOWN_MEMBERS = 40, 10, 12


def utilities_of(fitted: Findings) -> np.ndarray:
    """Utility of each response for each type, `(K, responses)`, relative to the bar or else to its prompt's mean."""
    return np.asarray(fitted.tastes.coefficients_) @ _contrasts(fitted.people).T


def worth_errors(fitted: Findings) -> np.ndarray | None:
    """Standard errors of `utilities_of`, `(K, responses)`; None if the model has too many parameters."""
    model, panel = fitted.model, fitted.panel
    if model.n_parameters_ > MOST_COVARIANCES:
        return None
    covariance = model.covariance(panel)
    contrasts = _contrasts(fitted.people)
    slot = model.problem(panel).slot.cpu().numpy()[:, : contrasts.shape[1]]
    errors = np.zeros((len(slot), len(contrasts)))
    for kind, own in enumerate(slot):
        free = own >= 0
        block = covariance[np.ix_(own[free], own[free])]
        spread = np.einsum("rp,pq,rq->r", contrasts[:, free], block, contrasts[:, free])
        errors[kind] = np.sqrt(spread.clip(0))
    return errors


def described_types(fitted: Findings, errors: np.ndarray | None) -> list[AnnotatorType]:
    """Each type with its share, members, utilities, distinctive responses and traits; `errors` of `worth_errors`."""
    model, people = fitted.model, fitted.people
    real = ~people.bars
    utilities = utilities_of(fitted)
    responsibilities, weights = np.asarray(model.responsibilities_), np.asarray(model.mixture_weights_)
    share_errors = _share_errors(model, fitted.panel)
    mean = weights @ utilities
    # The responses about which types differ most, or the most extreme ones of a single type.
    spread = np.sqrt(weights @ (utilities - mean) ** 2) if len(weights) > 1 else np.abs(mean)
    shown = np.flatnonzero(real)[np.argsort(-spread[real], kind="stable")][:_SHOWN_RESPONSES].tolist()
    shown.sort(key=lambda response: -mean[response])
    traits = _traits(model, people)
    log_nu, nu_errors = fitted.log_nu or (None, None)
    types = []
    for kind, share in enumerate(weights):
        others = np.delete(np.arange(len(weights)), kind)
        differences = np.zeros(len(real))
        if len(others):
            differences = utilities[kind] - np.average(utilities[others], axis=0, weights=weights[others])
        order = np.flatnonzero(real)[np.argsort(-differences[real], kind="stable")]
        low, high = _interval(share, None if share_errors is None else share_errors[kind])
        likeliest = np.argsort(-responsibilities[:, kind], kind="stable")[:_SHOWN_MEMBERS]
        names = [(people.names[place], float(responsibilities[place, kind])) for place in likeliest]
        types.append(
            AnnotatorType(
                type=kind + 1,
                name=f"type {kind + 1}{' (ranks at random)' if model.noise and kind == len(weights) - 1 else ''}",
                share=float(share),
                low=None if low is None else max(0.0, low),
                high=None if high is None else min(1.0, high),
                annotators=int((model.labels_ == kind).sum()),
                certain=int((responsibilities[:, kind] >= _CERTAIN).sum()),
                members=[Member(name, probability) for name, probability in names if name is not None],
                worths=[
                    Worth(
                        *_texts(people, response),
                        float(utilities[kind, response]),
                        *_interval(utilities[kind, response], None if errors is None else errors[kind, response]),
                    )
                    for response in shown
                ],
                lifts=_differences(people, order[:_SHOWN_DIFFERENCES], differences) if len(others) else [],
                drops=_differences(people, order[::-1][:_SHOWN_DIFFERENCES], differences) if len(others) else [],
                traits=traits[kind],
                **({} if log_nu is None else _tie_nu(log_nu[kind], None if nu_errors is None else nu_errors[kind])),
            )
        )
    return types


def _tie_nu(log_nu: float, error: float | None) -> dict[str, float | None]:
    """nu with its interval."""
    ends = _interval(log_nu, error)
    low, high = (None if end is None else float(np.exp(end)) for end in ends)
    return {"tie_nu": float(np.exp(log_nu)), "tie_nu_low": low, "tie_nu_high": high}


def _contrasts(people: People) -> np.ndarray:
    """Features of each response minus those that it is measured against, `(responses, p)`."""
    panel, bars = people.panel, people.bars
    features = np.eye(panel.response_count) if panel.features is None else np.asarray(panel.features)
    if bars.any():
        return features - features[bars][people.prompt]
    counts = np.bincount(people.prompt)
    means = np.stack([np.bincount(people.prompt, weights=column) for column in features.T], 1) / counts[:, None]
    return features - means[people.prompt]


def _share_errors(model: LatentClassPlackettLuce, panel: Panel) -> np.ndarray | None:
    """Standard errors of the mixture weights `(K,)`, by the delta method from the logits of membership."""
    if model.n_parameters_ > MOST_COVARIANCES:
        return None
    types = len(model.mixture_weights_)
    if types == 1:
        return np.zeros(1)
    covariates = np.ones((panel.annotators, 1)) if panel.covariates is None else np.asarray(panel.covariates)
    eta = np.broadcast_to(np.exp(model.fitted.log_weights[0].cpu().numpy()), (panel.annotators, types))
    population = panel.weights
    spread = np.einsum("h,hk,kl->hkl", population / population.sum(), eta, np.eye(types))
    spread -= np.einsum("h,hk,hl->hkl", population / population.sum(), eta, eta)
    slope = np.einsum("hkl,hq->klq", spread[:, :, 1:], covariates).reshape(types, -1)
    covariance = model.covariance(panel)[-slope.shape[1] :, -slope.shape[1] :]
    return np.asarray(np.sqrt(np.einsum("kp,pq,kq->k", slope, covariance, slope).clip(0)))


def _traits(model: LatentClassPlackettLuce, people: People) -> list[list[Trait]]:
    """The weight of each trait of responses for each type: the gain in log-odds per standard deviation of the trait."""
    names, values = text_traits([plain_text(response) for response in people.items.responses])
    responsibilities = np.asarray(model.responsibilities_)
    if not names:
        return [[]] * responsibilities.shape[1]
    bars = people.bars
    rows = np.zeros((len(bars), len(names) + bool(bars.any())))
    rows[~bars, : len(names)] = values
    rows[bars, len(names) :] = 1.0  # the bar has a height of its own
    traits = []
    # A conditional logit in which every annotator counts with their responsibility for the type, with robust errors.
    for own in responsibilities.T:
        panel = replace(people.panel, features=rows, population=own)
        fitted = LatentClassPlackettLuce(1, ridge=1e-2).fit(panel)
        errors = np.sqrt(np.diag(fitted.covariance(panel, robust=True)).clip(0))
        weights = fitted.coefficients_[0, : len(names)]
        of_type = zip(names, weights, errors[: len(names)], strict=True)
        traits.append([Trait(name, float(weight), *_interval(weight, error)) for name, weight, error in of_type])
    return traits


def _differences(people: People, chosen: np.ndarray, differences: np.ndarray) -> list[Difference]:
    return [Difference(*_texts(people, response), float(differences[response])) for response in chosen.tolist()]


def _texts(people: People, response: int) -> tuple[str, str]:
    prompt = people.items.prompts[people.items.item[response]]
    return plain_text(prompt), plain_text(people.items.responses[response])


def _interval(value: float, error: float | None) -> tuple[float, float] | tuple[None, None]:
    return (None, None) if error is None else (float(value - NORMAL * error), float(value + NORMAL * error))
