"""Ties in annotator types: Davidson's model against `efron`, on held-out annotators of real crowds.

Annotators are divided into five folds; each fold is predicted from the others, by the audit's own choice of the number
of types and its ridges, with worths as features (for `llm_crowd` and ConvArg tf-idf: worths of many responses are slow
with `davidson`; of ConvArg's annotators with 20 judgments or more, 150 are drawn). `davidson` has a tie parameter for
each type, `one nu` one for all. `efron` says nothing about how often ties come, so its types get what it lacks from
their training annotators by maximum likelihood: their shares and a tie parameter for each type, in `efron, scaled` also
a scale of its utilities. All rows thus give probabilities of the same three outcomes.

Log-loss of held-out annotators: of all their judgments together; of single judgments, predicted from the other half of
the same annotator's judgments; and of the strict ones among these given that they are strict: taste alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.special import log_softmax, logsumexp

from pluralign.choice.em_dpo import halves
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.selection import select_types
from pluralign.choice.latent_class.tie_alternatives import with_tie_alternatives
from pluralign.evaluation.intervals import Resampling
from pluralign.judgments import Judgments
from pluralign.scoring.annotator_types import with_features, with_tie_parameter
from pluralign.scoring.panels import people_of

from ..common.data import POLIS_CONVERSATIONS, load, prolific_annotators
from ..common.options import parsed, parts
from ..common.results import keep, kept

ROWS = {
    "efron, one type": {"ties": "efron", "most": 1},
    "efron": {"ties": "efron"},
    "efron, scaled": {"ties": "efron", "scaled": True},
    "davidson, one type": {"ties": "davidson", "most": 1},
    "davidson, one nu": {"ties": "davidson", "shared": True},
    "davidson": {"ties": "davidson"},
}
FOLDS, MOST = 5, 150


def crowd(name: str) -> tuple[Judgments, str]:
    """A source's judgments and the features that the audit takes for it."""
    if name == "convarg":
        return prolific_annotators(load(name)[0], 20), "tfidf"
    return (load("llm-crowd")[0], "tfidf") if name == "llm_crowd" else (load(f"polis-{name}")[0], "worths")


def fitted(train: Panel, ridge: float, most: int, ties: str, shared: bool) -> LatentClassPlackettLuce:
    """Types by the audit's rule."""
    settings = {"shared": [np.asarray(train.features).shape[1] - 1]} if shared else {}
    if most > 1:
        return select_types(train, range(1, most + 1), ridge=ridge, restarts=6, **settings).model
    return select_types(train, [1], ridge=ridge, restarts=6).model


def three_outcomes(
    train: Panel, test: Panel, ridge: float, *, ties: str, most: int, shared: bool = False, scaled: bool = False
) -> Any:
    """Log-probabilities of the outcomes under each type `(judgments, K, 3)`, log shares `(K,)`, and nu `(K,)`."""
    if ties == "davidson":
        train, test = with_tie_parameter(train, ridge), with_tie_parameter(test, ridge)
        model = fitted(train, ridge, most, ties, shared)
    else:
        types = fitted(train, ridge, most, ties, shared)
        own = np.asarray(types.coefficients_)
        utilities = own if train.features is None else own @ np.asarray(train.features).T
        train, test = (
            with_tie_alternatives(replace(panel, features=utilities.T, response_total=None)) for panel in (train, test)
        )
        number = len(own)
        scales = np.where(np.eye(number, dtype=bool), np.nan, 0.0) if scaled else np.eye(number)
        free = np.column_stack((scales, np.full(number, np.nan)))
        start = np.column_stack((np.eye(number), np.zeros(number)))
        model = LatentClassPlackettLuce(number, fixed=free, coefficients_init=start).fit(train)
    coefficients, features = np.asarray(model.coefficients_), np.asarray(test.features)
    values = (coefficients @ features.T)[:, test.response_ids]  # (K, judgments, 3)
    nu = np.exp(coefficients[:, -1] * features[-1, -1])
    return log_softmax(values, -1).transpose(1, 0, 2), np.log(np.asarray(model.mixture_weights_)), nu


def losses(logs: np.ndarray, log_shares: np.ndarray, test: Panel, outcome: np.ndarray) -> dict[str, np.ndarray]:
    """Losses of the judgments of held-out annotators, `(judgments,)` each."""
    who, rows = test.annotator_ids, np.arange(len(outcome))
    own = logs[rows, :, outcome]  # (judgments, K)
    number = np.bincount(who, minlength=test.annotators)
    total = log_shares + np.stack([np.bincount(who, column, test.annotators) for column in own.T], 1)
    half = halves(who, 0)
    predicted = np.zeros((len(rows), 3))
    for side in (0, 1):
        known = np.where(half[:, None] == side, 0.0, own)
        posterior = log_shares + np.stack([np.bincount(who, column, test.annotators) for column in known.T], 1)
        posterior = log_softmax(posterior, 1)
        chosen = half == side
        predicted[chosen] = logsumexp(logs[chosen] + posterior[who[chosen], :, None], 1)
    strict = predicted[rows, outcome] - logsumexp(predicted[:, :2], 1)
    return {
        "all": -logsumexp(total, 1)[who] / number[who],  # the mean over judgments is that of annotators by judgments
        "single": -predicted[rows, outcome],
        "strict": np.where(outcome < 2, -strict, 0.0),
    }


def run(name: str, options: Any) -> dict[str, Any]:
    """All rows of a source."""
    judgments, features = crowd(name)
    people, ridge = with_features(people_of(judgments), features, 64, 0)
    panel = people.panel
    if name == "convarg":
        panel = panel.of_annotators(np.random.default_rng(0).permutation(panel.annotators)[:MOST])
    fold = np.random.default_rng(0).permutation(np.arange(panel.annotators) % FOLDS)
    found: dict[str, dict[str, list[Any]]] = {row: {} for row in ROWS}
    who, outcomes = [], []
    for number in range(FOLDS):
        train, test = (panel.of_annotators(np.flatnonzero((fold == number) == held)) for held in (False, True))
        ranks = np.where(test.rank_values > 0, test.rank_values, 99)
        outcome = np.where(ranks[:, 0] < ranks[:, 1], 0, np.where(ranks[:, 0] > ranks[:, 1], 1, 2))
        who.append(np.flatnonzero(fold == number)[test.annotator_ids])
        outcomes.append(outcome)
        for row, given in ROWS.items():
            logs, log_shares, nu = three_outcomes(train, test, ridge, **{"most": options.most, **given})
            each = losses(logs, log_shares, test, outcome) | {"nu": nu.round(2).tolist(), "types": [len(nu)]}
            for key, value in each.items():
                found[row].setdefault(key, []).append(value)
            print(name, number, row, nu.round(2), {key: round(float(value.mean()), 4) for key, value in each.items()
                                                   if key in ("all", "single")}, flush=True)  # fmt: skip
    strict = (np.concatenate(outcomes) < 2).astype(float)
    resampling = Resampling(np.concatenate(who))
    each = {row: {key: np.concatenate(of[key]) for key in ("all", "single", "strict")} for row, of in found.items()}
    table = []
    for row, own in each.items():
        means = {}
        for key, weight in (("all", np.ones(len(strict))), ("single", np.ones(len(strict))), ("strict", strict)):
            means[key] = (own[key] * weight, weight)
            means[f"{key}_gain"] = ((own[key] - each["davidson"][key]) * weight, weight)
        types = [count for one in found[row]["types"] for count in one]
        table.append({"row": row, "types": types, "nu": found[row]["nu"], **resampling.mean_intervals(means)})
    shape = {"judgments": panel.judgments, "annotators": panel.annotators, "ties": float(1 - strict.mean())}
    return shape | {"features": features, "rows": table}


def main() -> None:
    sources = ["llm_crowd", "convarg", *POLIS_CONVERSATIONS]
    options = parsed(__doc__, most=3, sources=parts(sources, "Only these sources."))
    settings = {"most": options.most, "folds": FOLDS}
    rows = kept("types_ties", settings)
    for name in options.sources:
        rows[name] = run(name, options)
        for row in rows[name]["rows"]:
            print(name, {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
        keep("types_ties", settings, rows)


if __name__ == "__main__":
    main()
