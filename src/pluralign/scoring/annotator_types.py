"""Annotator types behind judgments: a panel with features, the number of types, the fit, and what the data can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from transformers.utils import logging

from pluralign.choice.latent_class import estimator
from pluralign.choice.latent_class.estimator import MOST_COVARIANCES, LatentClassPlackettLuce
from pluralign.choice.latent_class.identification import (
    Design,
    Evidence,
    Identification,
    design,
    evidence,
    identification,
)
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.power import Power, power_curve
from pluralign.choice.latent_class.processes import dealt, of_everyone
from pluralign.choice.latent_class.selection import Selection, select_types, settings_of
from pluralign.choice.latent_class.tie_alternatives import with_tie_alternatives
from pluralign.core.errors import PluralignError
from pluralign.core.files import cache_folder
from pluralign.core.fingerprint import fingerprint, fingerprint_folder
from pluralign.core.progress import track
from pluralign.core.records import read_json, write_record
from pluralign.judgments.table import Judgments
from pluralign.scoring.features import text_features
from pluralign.scoring.panels import People, annotators_of, people_of
from pluralign.scoring.side_tables import Columns, SideTable, estimator_settings, with_attributes, with_covariates

logger = logging.get_logger(__name__)

PRIOR = 1.0
"""Standard deviation of a response's utility under the prior on coefficients, in logits."""

JUDGED_OFTEN = 10
"""Minimum judgments per response at which each response gets its own worth."""

SELECTION_JUDGMENTS = 50_000
"""The number of types is chosen on a subset of annotators with about this many judgments."""

REMEMBERED = 200_000
"""Types of larger tables are not kept in the cache: reading all rows for a fingerprint takes long."""

Ties = Literal["efron", "breslow", "davidson"]
"""How equal ranks are treated: as an order that was not recorded, or as an outcome with its own probability."""


@dataclass(frozen=True)
class Findings:
    """The results of the analysis of annotator types, as numbers.

    Args:
        people: the panel, with features.
        panel: what was fitted: the panel of `people`, or with `davidson` the one in which a tie is a third response.
        features: `worths`, `tfidf`, `response_features`, or the name of the model.
        ties: as given to `findings`.
        selection: fits for several numbers of types.
        model: the fit of the chosen number of types to all judgments.
        design: what was collected.
        numbers: evidence from the information matrix; `None` with one type or too many parameters.
        power: the simulated power curve.
        attributes: the columns of the response features, if they were given.
        covariates: the columns of the annotator features, if they were given.
    """

    people: People
    panel: Panel
    features: str
    ties: Ties
    selection: Selection
    model: LatentClassPlackettLuce
    design: Design
    numbers: Evidence | None
    power: list[Power]
    attributes: Columns | None = None
    covariates: Columns | None = None

    @property
    def verdict(self) -> Identification:
        """Whether the data can identify types; with one type, judged by the simulations if there are any."""
        collected = max(1, round(self.design.judgments))
        now = [point.accuracy for point in self.power if point.length is None and point.judgments == collected]
        fitted, tried = len(self.model.mixture_weights_), [int(number) for number in self.selection.types]
        compared = fitted if fitted > 1 else next((number for number in tried if number > 1), None)
        gain = self.selection.gain_of(compared) if compared in tried and 1 in tried else None
        power = now[0] if fitted == 1 and now else None
        chosen = self.selection
        continuum = chosen.continuum_gain(fitted) if len(chosen.continuum) and fitted in tried else None
        return identification(
            self.design,
            self.numbers,
            power,
            types=compared,
            gain=gain,
            heterogeneity=chosen.heterogeneity,
            continuum=continuum,
        )

    @property
    def tastes(self) -> LatentClassPlackettLuce:
        """The model without its tie parameters, for the panel of `people`."""
        model = copy(self.model)
        if self.ties == "davidson":
            model.coefficients_ = self.model.coefficients_[:, :-1]
        return model

    @property
    def log_nu(self) -> tuple[np.ndarray, np.ndarray | None] | None:
        """With `davidson`, log nu of each type `(K,)` and its standard errors, if the model is not too large."""
        if self.ties != "davidson":
            return None
        scale = float(np.asarray(self.panel.features)[-1, -1])
        values = scale * np.asarray(self.model.coefficients_)[:, -1]
        if self.model.n_parameters_ > MOST_COVARIANCES:
            return values, None
        variance = np.append(np.diag(self.model.covariance(self.panel)), 0.0)  # a type that ranks at random has none
        return values, scale * np.sqrt(variance[self.model.problem(self.panel).slot.cpu().numpy()[:, -1]].clip(0))

    @property
    def gains(self) -> bool:
        """Whether the fitted types were compared with one type and predict held-out annotators better."""
        types, selection = len(self.model.mixture_weights_), self.selection
        compared = types > 1 and {1, types} <= set(selection.types.tolist()) and selection.by_annotator.size > 0
        return bool(compared and selection.gain_of(types).exceeds())


@dataclass(frozen=True)
class AnnotatorTypes:
    """The types of a table's annotators, as training needs them: what `annotator_types` returns and remembers.

    Args:
        annotators: ids; the row number of a row without one.
        responsibilities: `(annotators, K)`, in the same order.
        features: `worths`, `tfidf`, or the name of the model.
        gains: as in `Findings`.
        verdict: as in `Findings`, without a power curve.
    """

    annotators: list[str | int]
    responsibilities: list[list[float]]
    features: str
    gains: bool
    verdict: Identification

    @property
    def types(self) -> int:
        """K."""
        return len(self.responsibilities[0])

    @classmethod
    def of(cls, found: Findings, judgments: Judgments) -> AnnotatorTypes:
        """The part of the findings that training needs."""
        _, keys = annotators_of(judgments, found.people.row)
        shares = np.asarray(found.model.responsibilities_).tolist()
        return cls(keys, shares, found.features, found.gains, replace(found, power=[]).verdict)


def annotator_types(
    judgments: Judgments,
    *,
    features: str = "auto",
    types: str | int = "auto",
    most_types: int = 6,
    dimensions: int = 64,
) -> AnnotatorTypes:
    """The types of a table's annotators: one answer for `audit`, EM-DPO and MORE's `source: types`.

    What an audit or another training run found in the same judgments by the same features and settings is read from
    the cache; the seed is the audit's default. If other features gave another number of types, a warning says so.

    Arguments and errors as in `findings`.
    """
    settings: dict[str, Any] = {"features": features, "types": types, "most_types": most_types}
    settings |= {"dimensions": dimensions, "seed": 0}
    file = _remembered(judgments, settings)
    if file is not None and file.exists():
        known = _read(file)
    else:
        known = AnnotatorTypes.of(findings(judgments, simulations=0, **settings), judgments)
    if file is not None:
        for other in sorted(file.parent.glob("*.json")):
            found = _read(other)
            if found.features != known.features and found.types != known.types:
                logger.warning(
                    f"types: the features {found.features} gave {found.types} types for the same judgments, and "
                    f"{known.features}, which are used here, give {known.types}"
                )
    return known


def _remembered(judgments: Judgments, settings: Mapping[str, Any]) -> Path | None:
    """The file in the cache of a table's types; `None` if they are not kept."""
    if len(judgments) > REMEMBERED:
        return None
    given = {key: str(value) for key, value in settings.items()}
    if given["types"] != "auto":
        del given["most_types"]
    code = fingerprint_folder(Path(estimator.__file__).parent)  # another version's answer may be another one
    return cache_folder() / "annotator-types" / judgments.fingerprint / f"{fingerprint(code, given)}.json"


def _read(file: Path) -> AnnotatorTypes:
    content = read_json(file)
    return AnnotatorTypes(**(content | {"verdict": Identification(**content["verdict"])}))


def findings(
    judgments: Judgments,
    *,
    features: str = "auto",
    types: str | int = "auto",
    most_types: int = 6,
    dimensions: int = 64,
    simulations: int = 3,
    seed: int = 0,
    response_features: SideTable | None = None,
    annotator_features: SideTable | None = None,
    noise_type: bool = False,
    shared: Sequence[str] = (),
    ties: Ties = "efron",
    distributed: bool = False,
) -> Findings:
    """Find annotator types in a table of judgments.

    Args:
        judgments: the table.
        features: `worths` gives each response its own worth, `tfidf` uses word counts, else the folder or hub id of
            an encoder or causal model; `auto` is `worths` if responses are judged often, else `tfidf`.
        types: number of types, or `auto` to choose it by held-out log-likelihood over annotators.
        most_types: the largest number that `auto` tries.
        dimensions: of text features, after truncated SVD.
        simulations: per design of the power curve; 0 omits it.
        response_features: attributes of responses, used in place of `features`, which must then be `auto`.
        annotator_features: covariates that membership in the types depends on.
        noise_type: the last type ranks at random, if there are two or more.
        shared: attributes of responses whose coefficient is the same for all types.
        ties: with `efron` and `breslow` a tie is an order that was not recorded; with `davidson` it is an outcome,
            and each type has a tie parameter.
        distributed: share the fits with the other processes of `torch.distributed`, which call this function with the
            same arguments; a process with `simulations=0` leaves the power curve to the others.

    Raises:
        PluralignError: a setting does not fit the table.
    """
    if ties not in get_args(Ties):
        raise PluralignError(f"ties: found {ties!r}, expected {', '.join(get_args(Ties))}")
    given = {"features": features, "types": types, "most_types": most_types, "dimensions": dimensions, "seed": seed}
    people = people_of(judgments)
    attributes = covariates = None
    if response_features is not None:
        if features != "auto":
            raise PluralignError(f"features: found {features!r} beside response features: give one of the two")
        features = "response_features"
        people, ridge, attributes = with_attributes(people, response_features)
    else:
        if features == "auto":
            often = people.panel.judgments >= JUDGED_OFTEN * len(people.items.responses)
            features = "worths" if often else "tfidf"
        people, ridge = with_features(people, features, dimensions, seed)
    if annotator_features is not None:
        people, covariates = with_covariates(people, annotator_features)
    settings = estimator_settings(attributes, shared, noise=noise_type, bars=bool(people.bars.any()), types=types)
    settings |= {"ties": ties} if ties == "breslow" else {}
    plain = response_features is None and annotator_features is None and not settings and ties == "efron"
    panel = with_tie_parameter(people.panel, ridge) if ties == "davidson" else people.panel
    numbers = _numbers(types, most_types, panel.annotators)
    own = dealt(panel) if distributed else panel
    if len(numbers) == 1 and (numbers[0] == 1 or numbers[0] > panel.annotators // 4):
        single = settings_of(numbers[0], settings)
        model = LatentClassPlackettLuce(numbers[0], ridge=ridge, common_ridge=ridge, seed=seed, **single).fit(own)
        selection = Selection.of_one(model)
    else:
        part = own
        if panel.judgments > SELECTION_JUDGMENTS:
            order = np.random.default_rng(seed).permutation(panel.annotators)
            made = np.bincount(panel.annotator_ids, minlength=panel.annotators)[order].cumsum()
            part = panel.of_annotators(np.sort(order[: int(np.searchsorted(made, SELECTION_JUDGMENTS)) + 1]))
            part = dealt(part) if distributed else part
        tried = numbers if len(numbers) > 1 else [1, *numbers]
        selection = select_types(
            part, tried, seed=seed, ridge=ridge, restarts=6, progress=lambda work: track(work, "Types"), **settings
        )
        model = selection.model if len(numbers) > 1 else selection.models[-1]
        if part is not own:
            types, ridge, common = len(model.mixture_weights_), model.ridge, model.common_ridge
            model = LatentClassPlackettLuce(
                types, ridge=ridge, common_ridge=common, seed=seed, **settings_of(types, settings)
            ).fit(own)
    model.responsibilities_ = of_everyone(own, model.responsibilities_)
    collected = design(people.panel, people.prompt)
    several = len(model.mixture_weights_) > 1
    evident = evidence(model, own) if several and model.n_parameters_ <= MOST_COVARIANCES else None
    kept = settings if several else {}
    simulated = simulations and panel.annotators > 1
    power = _power(model, panel, collected, simulations, seed, ties, kept) if simulated else []
    found = Findings(people, panel, features, ties, selection, model, collected, evident, power, attributes, covariates)
    if plain and (file := _remembered(judgments, given)) is not None:
        write_record(file, AnnotatorTypes.of(found, judgments))
    return found


def with_features(people: People, name: str, dimensions: int, seed: int) -> tuple[People, float]:
    """The panel with features of unit variance, and the ridge that gives utilities the standard deviation `PRIOR`.

    Where features have a direction in which all responses are alike, as with fewer responses than dimensions, they are
    rotated and it is left out: no choice depends on it.
    """
    if name == "worths":
        return people, 1 / PRIOR**2
    features = text_features(people.items, name, dimensions=dimensions, seed=seed).astype(np.float64)
    features = features - features.mean(0)
    if features.shape[1] > dimensions:
        left, values, _ = np.linalg.svd(features, full_matrices=False)
        features = (left * values)[:, :dimensions]
    spread = features.std(0)
    features = features[:, spread > 1e-6 * max(spread.max(initial=0.0), 1e-300)]
    if not features.size:
        raise PluralignError(f"features {name!r}: all responses have the same features: use --features worths")
    ridge = features.shape[1] / PRIOR**2
    features = features / features.std(0)
    left, values, _ = np.linalg.svd(features, full_matrices=False)
    differing = values > 1e-9 * values[0]
    if not differing.all():
        features = (left * values)[:, differing]
    return people.with_features(features), ridge


def with_tie_parameter(panel: Panel, ridge: float) -> Panel:
    """The panel with ties as third responses; under the ridge, log nu has the prior standard deviation `PRIOR`.

    Raises:
        PluralignError: a judgment is not of two responses, or none is a tie.
    """
    try:
        tied = with_tie_alternatives(panel)
    except ValueError as fault:
        raise PluralignError(
            "ties: davidson needs judgments of two responses, and the table has others: use efron"
        ) from fault
    if not (tied.rank_values[:, 2] == 1).any():
        raise PluralignError("ties: davidson needs ties, and the table has none: use efron")
    features = np.array(tied.features)
    features[:, -1] *= PRIOR * np.sqrt(ridge)
    return replace(tied, features=features)


def _numbers(types: str | int, most: int, annotators: int) -> list[int]:
    if types != "auto":
        try:
            number = int(types)
        except ValueError:
            raise PluralignError(f"types: found {types!r}, expected auto or a number") from None
        if not 1 <= number <= annotators:
            raise PluralignError(f"types: found {number}, expected 1 to {annotators}, the number of annotators")
        return [number]
    if most < 1:
        raise PluralignError(f"most_types: found {most}, expected 1 or more")
    # Each fold is fitted without its annotators, and a type needs several annotators.
    return list(range(1, min(most, max(1, annotators // 4)) + 1))


def _power(
    model: LatentClassPlackettLuce,
    panel: Panel,
    collected: Design,
    simulations: int,
    seed: int,
    ties: Ties,
    settings: dict[str, Any],
) -> list[Power]:
    """Power of the design as collected, and of rankings of three (or of pairs, if rankings were collected)."""
    other = 3 if collected.longest < 3 else 2
    # Sets are drawn from what was shown, and a tie is no response that one could show.
    lengths = [None, other] if panel.response_count >= other and ties != "davidson" else [None]
    numbers = np.unique(np.round(np.geomspace(1, max(8, 2 * collected.judgments), 4)).astype(int)).tolist()
    if not any(abs(number - collected.judgments) < 0.5 for number in numbers):
        numbers = sorted({*numbers, max(1, round(collected.judgments))})
    return power_curve(
        model,
        panel,
        judgments=numbers,
        lengths=lengths,
        replicates=simulations,
        seed=seed,
        progress=lambda work: track(work, "Simulations"),
        **settings,
    )
