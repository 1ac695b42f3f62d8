"""What an audit says about the types it found, as `audit.json` and the tables beside it hold it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import ndtri

from pluralign.choice.latent_class.estimator import MOST_COVARIANCES, LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.starts import annotator_embedding
from pluralign.scoring.features import plain_text
from pluralign.scoring.panels import People
from pluralign.scoring.traits import text_traits

NORMAL = float(ndtri(0.975))
SHOWN_RESPONSES, SHOWN_DIFFERENCES, SHOWN_MEMBERS, SHOWN_PEOPLE = 40, 10, 12, 2000
CERTAIN = 0.9
"""An annotator whose type has this probability counts as certain."""


def utilities_of(model: LatentClassPlackettLuce, people: People) -> np.ndarray:
    """Utility of every response for every type, `(K, responses)`, against the bar, or else its prompt's mean."""
    return np.asarray(model.coefficients_) @ _contrasts(people).T


def _contrasts(people: People) -> np.ndarray:
    """Features of each response less those of what it is measured against, `(responses, p)`."""
    panel, bars = people.panel, people.bars
    features = np.eye(panel.response_count) if panel.features is None else np.asarray(panel.features)
    if bars.any():
        return features - features[bars][people.prompt]
    counts = np.bincount(people.prompt)
    means = np.stack([np.bincount(people.prompt, weights=column) for column in features.T], 1) / counts[:, None]
    return features - means[people.prompt]


def worth_errors(model: LatentClassPlackettLuce, people: People) -> np.ndarray | None:
    """Standard errors of `utilities_of`, `(K, responses)`; `None` where there are too many parameters for them."""
    panel = people.panel
    if model.n_parameters_ > MOST_COVARIANCES:
        return None
    covariance = model.covariance(panel)
    slot = model.problem(panel).slot.cpu().numpy()
    contrasts = _contrasts(people)
    found = np.zeros((len(slot), len(contrasts)))
    for kind, own in enumerate(slot):
        free = own >= 0
        block = covariance[np.ix_(own[free], own[free])]
        spread = np.einsum("rp,pq,rq->r", contrasts[:, free], block, contrasts[:, free])
        found[kind] = np.sqrt(spread.clip(0))
    return found


def share_errors(model: LatentClassPlackettLuce, panel: Panel) -> np.ndarray | None:
    """Standard errors of the mixture weights `(K,)`, by the delta method from their logits."""
    if model.n_parameters_ > MOST_COVARIANCES:
        return None
    types = len(model.mixture_weights_)
    covariance = model.covariance(panel)[-(types - 1) :, -(types - 1) :] if types > 1 else np.zeros((0, 0))
    eta = np.asarray(model.mixture_weights_)
    slope = (np.diag(eta) - np.outer(eta, eta))[:, 1:]
    return np.sqrt(np.einsum("kp,pq,kq->k", slope, covariance, slope).clip(0))


def type_blocks(model: LatentClassPlackettLuce, people: People, errors: np.ndarray | None) -> list[dict[str, Any]]:
    """One block for each type: share, members, worths, what it lifts and drops, traits."""
    panel, real = people.panel, ~people.bars
    utilities = utilities_of(model, people)
    gamma, eta = np.asarray(model.responsibilities_), np.asarray(model.mixture_weights_)
    share_error = share_errors(model, panel)
    chosen = _most_divisive(utilities, eta, real)
    names, traits = trait_blocks(model, people)
    blocks: list[dict[str, Any]] = []
    for kind in range(len(eta)):
        others = np.delete(np.arange(len(eta)), kind)
        against = utilities[kind] - (np.average(utilities[others], axis=0, weights=eta[others]) if len(others) else 0)
        order = np.flatnonzero(real)[np.argsort(-against[real], kind="stable")]
        half = NORMAL * (0.0 if share_error is None else share_error[kind])
        members = np.argsort(-gamma[:, kind], kind="stable")[:SHOWN_MEMBERS]
        blocks.append(
            {
                "type": kind + 1,
                "name": f"type {kind + 1}",
                "share": float(eta[kind]),
                "low": None if share_error is None else float(max(0.0, eta[kind] - half)),
                "high": None if share_error is None else float(min(1.0, eta[kind] + half)),
                "annotators": int((model.labels_ == kind).sum()),
                "certain": int((gamma[:, kind] >= CERTAIN).sum()),
                "members": [
                    {"annotator": people.names[one], "probability": float(gamma[one, kind])}
                    for one in members
                    if people.names[one] is not None
                ],
                "worths": [
                    _text(people, one)
                    | {"worth": float(utilities[kind, one])}
                    | _interval(utilities[kind, one], None if errors is None else errors[kind, one])
                    for one in chosen
                ],
                "lifts": _differences(people, order[:SHOWN_DIFFERENCES], against) if len(others) else [],
                "drops": _differences(people, order[::-1][:SHOWN_DIFFERENCES], against) if len(others) else [],
                "traits": [
                    {"trait": name, "value": float(value), **_interval(value, error)}
                    for name, value, error in zip(names, traits[0][kind], traits[1][kind], strict=True)
                ],
            }
        )
    return blocks


def trait_blocks(model: LatentClassPlackettLuce, people: People) -> tuple[list[str], tuple[np.ndarray, np.ndarray]]:
    """What each type's judgments say of simple traits: names, coefficients and errors `(K, traits)`.

    A conditional logit on the traits, in which every annotator counts with his responsibility for the type; the
    errors are robust. A coefficient is the gain in log-odds by a standard deviation of the trait, others equal.
    """
    names, values = text_traits([plain_text(response) for response in people.items.responses])
    gamma = np.asarray(model.responsibilities_)
    found, errors = np.zeros((2, gamma.shape[1], len(names)))
    if not names:
        return [], (found, errors)
    bars = people.bars
    rows = np.zeros((len(bars), len(names) + bool(bars.any())))
    rows[~bars, : len(names)] = values
    rows[bars, len(names) :] = 1.0  # the bar has a height of its own
    for kind in range(gamma.shape[1]):
        panel = replace(people.panel, features=rows, population=gamma[:, kind])
        fitted = LatentClassPlackettLuce(1, ridge=1e-2).fit(panel)
        found[kind] = fitted.coefficients_[0, : len(names)]
        spread = fitted.covariance(panel, robust=True)
        errors[kind] = np.sqrt(np.diag(spread).clip(0))[: len(names)]
    return names, (found, errors)


def group_blocks(groups: list[str | None], model: LatentClassPlackettLuce) -> list[dict[str, Any]]:
    """Mean responsibilities of each known group's annotators."""
    gamma = np.asarray(model.responsibilities_)
    found = []
    for name in sorted({group for group in groups if group is not None}):
        members = np.array([group == name for group in groups])
        shares = gamma[members].mean(0)
        found.append({"group": name, "annotators": int(members.sum()), "shares": shares.tolist()})
    return found


def map_block(model: LatentClassPlackettLuce, panel: Panel, seed: int) -> dict[str, Any] | None:
    """Annotators in the plane in which they differ most, a sample where they are many."""
    places = annotator_embedding(model.problem(panel), 2, seed)
    if places.shape[1] < 2:
        return None
    chosen = np.sort(np.random.default_rng(seed).permutation(len(places))[:SHOWN_PEOPLE])
    return {
        "x": places[chosen, 0].tolist(),
        "y": places[chosen, 1].tolist(),
        "type": (model.labels_[chosen] + 1).tolist(),
    }


def _most_divisive(utilities: np.ndarray, eta: np.ndarray, real: np.ndarray) -> list[int]:
    """The responses that types differ most about, or that one type puts highest and lowest, best first."""
    mean = eta @ utilities
    spread = np.sqrt(eta @ (utilities - mean) ** 2) if len(eta) > 1 else np.abs(mean)
    chosen = np.flatnonzero(real)[np.argsort(-spread[real], kind="stable")][:SHOWN_RESPONSES]
    return sorted(chosen.tolist(), key=lambda one: -mean[one])


def _differences(people: People, chosen: np.ndarray, against: np.ndarray) -> list[dict[str, Any]]:
    return [_text(people, one) | {"difference": float(against[one])} for one in chosen.tolist()]


def _text(people: People, response: int) -> dict[str, str]:
    prompt = people.items.prompts[people.items.item[response]]
    return {"prompt": plain_text(prompt), "response": plain_text(people.items.responses[response])}


def _interval(value: float, error: float | None) -> dict[str, Any]:
    if error is None:
        return {"low": None, "high": None}
    return {"low": float(value - NORMAL * error), "high": float(value + NORMAL * error)}
