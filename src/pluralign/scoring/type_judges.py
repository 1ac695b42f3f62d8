"""Judges of annotator types: what each type would think of new responses, apart from the types' own policies.

`FeatureJudge` fits u_k(y) = w_k . f(y) to the judgments of a run's annotators, each weighted by the annotator's
responsibility for type k; f are the words and simple traits of the response. Nothing of the language model is used, so
that a policy is not judged by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.core.errors import PluralignError
from pluralign.core.files import write_json
from pluralign.core.records import read_json
from pluralign.judgments.messages import plain_text
from pluralign.judgments.table import Judgments
from pluralign.scoring.items import Items
from pluralign.scoring.panels import annotators_of, people_of
from pluralign.scoring.scorers import Scorer
from pluralign.scoring.traits import TRAITS

Floats = NDArray[np.float64]

_TRAITS = TRAITS | {"length (words)": lambda text: float(len(text.split()))}
"""Traits that a judge reads. Policies may write longer texts than annotators saw, where the logarithm is too flat."""

_WORD = re.compile(r"\w+")

PRIOR = 2.0
"""Standard deviation of a response's utility under a judge's prior, in logits."""

JUDGES = "judges.json"
"""The file of a fitted `FeatureJudge`."""


class TypeJudges(Protocol):
    """Gives the utility of every unique response to each type."""

    def utilities(self, items: Items) -> Floats:
        """`(types, responses)`, on a scale of each type's own."""
        ...


@dataclass(frozen=True)
class ScorerJudges:
    """A reward model, or another scorer, for each type."""

    scorers: Sequence[Scorer]

    def utilities(self, items: Items) -> Floats:
        """Rewards of every unique response: `(types, responses)`."""
        return np.stack([scorer.score_items(items) for scorer in self.scorers])


@dataclass(frozen=True)
class FeatureJudge:
    """u_k(y) = sum over the different words of y of w_k + sum over traits of t(y) v_k.

    Args:
        types: names of the types.
        words: word in small letters to its weight for each type; other words count nothing.
        traits: trait of `pluralign.scoring.traits.TRAITS`, or the number of words, to its weight for each type.

    The responses are read without their prompts.
    """

    types: list[str]
    words: dict[str, list[float]]
    traits: dict[str, list[float]]

    def utilities(self, items: Items) -> Floats:
        """Utilities of every unique response in log-odds, up to a constant of each type: `(types, responses)`."""
        texts = [plain_text(text) for text in items.responses]
        none = [0.0] * len(self.types)
        values = np.array(
            [np.sum([self.words.get(word, none) for word in _words(text)] or [none], 0) for text in texts]
        )
        for name, weights in self.traits.items():
            values = values + np.array([[_TRAITS[name](text)] for text in texts]) * np.array(weights)
        return np.asarray(values.T)

    def write(self, folder: Path) -> None:
        """Write `judges.json`."""
        write_json(folder / JUDGES, asdict(self))


def read_feature_judge(folder: Path) -> FeatureJudge:
    """Read `judges.json`.

    Raises:
        PluralignError: the file is missing or not valid.
    """
    try:
        return FeatureJudge(**read_json(folder / JUDGES))
    except TypeError as fault:
        raise PluralignError(f"{folder / JUDGES}: is not valid ({fault}): write the folder again") from fault


def fit_feature_judge(
    judgments: Judgments,
    posteriors: Mapping[str, Floats],
    shares: Mapping[str, float],
    *,
    dimensions: int = 128,
    seed: int = 0,
) -> FeatureJudge:
    """Fit the utilities of all types: Plackett-Luce with a normal prior, one convex problem per type.

        max over w_k of  sum over judgments j of gamma_(h(j) k) log P(j | w_k . f) - ridge |w_k|^2 / 2

    The words (there or not) are reduced to `dimensions` by a singular value decomposition, which keeps distances. Every
    trait has the variance 1, and the words together that of all traits. The ridge gives a response's utility the
    standard deviation `PRIOR` under the prior.

    Args:
        judgments: those that the run was tuned on.
        posteriors: responsibilities `(types,)` by annotator.
        shares: of the types, by name; they stand in for the responsibilities of annotators without one.
        dimensions: of the words.
        seed: of the decomposition.

    Raises:
        PluralignError: the judgments compare nothing, or their responses hold no words.
    """
    people = people_of(judgments)
    texts = [plain_text(text) for text in people.items.responses]
    vocabulary = {word: place for place, word in enumerate(sorted(set().union(*map(_words, texts))))}
    if not vocabulary:
        raise PluralignError("the responses hold no words: give reward models as judges")
    rows = [(row, vocabulary[word]) for row, text in enumerate(texts) for word in _words(text)]
    shape = (len(texts), len(vocabulary))
    counts = csr_array((np.ones(len(rows)), tuple(np.array(rows).T)), shape=shape)
    names = list(_TRAITS)
    traits = np.array([[_TRAITS[name](text) for name in names] for text in texts])
    spread = traits.std(0)
    varying = spread > 1e-9
    scaled = (traits - traits.mean(0))[:, varying] / spread[varying]
    directions = _directions(counts, dimensions, max(1, scaled.shape[1]), seed)
    kept = directions.shape[1]
    features = np.hstack([counts @ directions, scaled])
    if not features.shape[1]:
        raise PluralignError("all responses have the same words and traits: give reward models as judges")
    people = people.with_features(features)
    numbers, keys = annotators_of(judgments, people.row)
    prior = np.array(list(shares.values()))
    gamma = np.stack([np.asarray(posteriors.get(str(key), prior)) for key in keys])[numbers]
    panel, ridge = people.panel, float(features.var(0).sum()) / PRIOR**2
    reliability = np.ones(panel.judgments) if panel.reliability is None else np.asarray(panel.reliability)
    fitted = np.stack([
        LatentClassPlackettLuce(1, ridge=ridge, restarts=1)
        .fit(replace(panel, reliability=reliability * gamma[:, kind]))
        .coefficients_[0, : features.shape[1]]
        for kind in range(len(shares))
    ])  # fmt: skip
    words = (directions @ fitted[:, :kept].T).tolist()
    of_traits = (fitted[:, kept:] / spread[varying]).T.tolist()
    chosen = [name for name, used in zip(names, varying, strict=True) if used]
    return FeatureJudge(
        list(shares),
        dict(zip(vocabulary, words, strict=True)),
        dict(zip(chosen, of_traits, strict=True)),
    )


def _words(text: str) -> list[str]:
    """The different words of a text, in an order that does not depend on the process."""
    return sorted(set(_WORD.findall(text.lower())))


def _directions(counts: Any, dimensions: int, variance: float, seed: int) -> Floats:
    """Weights of the words `(words, kept)` whose sums over texts have a total variance."""
    from sklearn.decomposition import TruncatedSVD

    if min(counts.shape) > dimensions:
        directions = TruncatedSVD(dimensions, random_state=seed).fit(counts).components_.T
    else:
        directions = np.linalg.svd(counts.toarray(), full_matrices=False)[2].T
    spread = (counts @ directions).std(0)
    kept = spread > 1e-6 * max(spread.max(initial=0.0), 1e-300)
    return np.asarray(directions[:, kept] * np.sqrt(variance / max(np.square(spread[kept]).sum(), 1e-300)))
