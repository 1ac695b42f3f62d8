"""The demo's town: its judgments and ratings, and the truth about it that real data would not show."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy.special import logsumexp, softmax

from pluralign.judgments.population import (
    PROMPTS,
    Simulation,
    Town,
    compose,
    label_thresholds,
    simulate,
    utilities,
)
from pluralign.judgments.split import split
from pluralign.judgments.table import Judgments
from pluralign.scoring.mixtures import RESPONSIBILITIES
from pluralign.workflows.votes.update import Updated, update_votes

TOWN = {"annotators": 90, "judgments_per_annotator": 16, "responses": 3, "overlap": 0.2}
"""The demo's town: 90 annotators in three groups, who rank three responses 16 times each."""

PLACES = {"market": {"brief": 0.8}, "school": {"warm": 0.8, "thorough": 0.8}}
"""The sources, and the share of a group that was asked there; the rest was asked at the other place."""

RATED = 160
"""Responses that all annotators give a label from 1 to 5; three in ten of them are held out."""

COMPOSED = 4000
"""Composed responses over which utilities are normalized, see `log_choices`."""


@dataclass(frozen=True)
class Ratings:
    """The labels that the town gives."""

    train: Judgments  # labels of the responses to learn from
    test: Judgments  # labels of the held-out responses, to other prompts
    files: list[Path]  # the files of `train`, one for each place
    state: Path  # the vote state of `train`
    update: Updated  # what the votes of the second place changed

    @property
    def config(self) -> dict[str, Any]:
        """The data keys of a `dprm` config."""
        return {
            "vote_state": str(self.state),
            "train_files": [str(file) for file in self.files],
            "eval_files": [str(self.state.with_name("ratings-test.parquet"))],
        }


def with_sources(simulation: Simulation, seed: int) -> Judgments:
    """The town's judgments with a source: the place where the annotator was asked."""
    draw = np.random.default_rng(seed)
    market, school = PLACES
    place = {}
    for name, group in simulation.types.items():
        usual = market if group in PLACES[market] else school
        place[name] = usual if draw.random() < PLACES[usual][group] else (school if usual == market else market)
    table = simulation.judgments
    rows = [{**row, "source": place[row["annotator"]]} for row in table.rows()]
    return Judgments.from_rows(rows, table.label_scale)


def rated(simulation: Simulation, folder: Path, seed: int) -> Ratings:
    """Let all annotators label the same responses, and merge the votes of one place after the other.

    The vote state is created anew each time, so that a second call reports the same update.
    """
    survey = replace(simulation.town, responses=1, top=None, judgments_per_annotator=RATED, overlap=1.0, labels="only")
    train, test = split(with_sources(simulate(survey), seed), by="prompt", test=0.3, seed=seed)
    test.write(folder / "ratings-test.parquet")
    sources, files = np.array(train.column("source")), []
    for place in PLACES:
        files.append(folder / f"ratings-{place}.parquet")
        train.select(np.flatnonzero(sources == place)).write(files[-1])
    state = folder / "crowd-votes.parquet"
    state.unlink(missing_ok=True)
    for file in files:
        update = update_votes(state, file, most=3)
    return Ratings(train, test, files, state, update)


def true_shares(simulation: Simulation, texts: list[str]) -> np.ndarray:
    """The expected share of each label: `(texts, labels)`.

    An annotator of type k gives a label below the cut t with probability P(u_k + noise * Gumbel <= t) =
    exp(-exp((u_k - t) / noise)). Types count by their annotators, including careless ones.

    Examples:
        >>> from pluralign.judgments.population import Town
        >>> shares = true_shares(simulate(Town(annotators=4)), ["It takes 5 minutes."])
        >>> shares.shape, round(float(shares.sum()), 9)
        ((1, 5), 1.0)
    """
    town = simulation.town
    cuts = label_thresholds(town)  # (types, labels - 1)
    types = np.bincount(list(simulation.type_index.values()), minlength=len(cuts)) / len(simulation.type_index)
    worth = np.array([simulation.utilities(text) for text in texts])[..., None]  # (texts, types, 1)
    with np.errstate(divide="ignore", over="ignore"):  # without noise, or far from a cut, the share is 0 or 1
        below = np.exp(-np.exp((worth - cuts) / town.noise))
    return np.einsum("k,tkl->tl", types, np.diff(below, axis=-1, prepend=0.0, append=1.0))


def log_choices(simulation: Simulation, texts: Sequence[str]) -> np.ndarray:
    """True utilities `(types, texts)`, each less the log of the type's mean of exp(u) over composed responses."""
    own = np.array([simulation.utilities(text) for text in texts]).T
    return np.asarray(own - _log_mean(simulation.town))


@functools.cache
def _log_mean(town: Town) -> np.ndarray:
    """log mean exp(u) over composed responses, of each type: `(types, 1)`."""
    whole = np.array([utilities(town, text) for text in _composed(seed=0)]).T
    return np.asarray(logsumexp(whole, axis=1, keepdims=True) - np.log(COMPOSED))


def _composed(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [compose(PROMPTS[rng.integers(len(PROMPTS))], rng).text for _ in range(COMPOSED)]


def chosen_shares(simulation: Simulation) -> list[float]:
    """Each type's share of what the town chooses from everything that it composes; see `population_choices`.

    Examples:
        >>> from pluralign.judgments.population import Town
        >>> shares = chosen_shares(simulate(Town(annotators=4)))
        >>> len(shares), round(sum(shares), 9)
        (3, 1.0)
    """
    choices = log_choices(simulation, _composed(seed=1))
    chosen = simulation.town.shares @ softmax(choices, axis=-1)
    return [float(chosen[choices.argmax(axis=0) == kind].sum()) for kind in range(len(choices))]


def candidates(prompts: Sequence[str], each: int, seed: int) -> list[list[str]]:
    """Different composed responses to each prompt.

    Examples:
        >>> (texts,) = candidates(list(PROMPTS[:1]), 3, seed=0)
        >>> len(set(texts))
        3
    """
    rng = np.random.default_rng([seed, 7])
    lists = []
    for prompt in prompts:
        texts: dict[str, None] = {}
        while len(texts) < each:
            texts[compose(prompt, rng).text] = None
        lists.append(list(texts))
    return lists


def population_choices(simulation: Simulation, texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """How the town chooses from lists of responses, and the type that each response belongs to.

    Type k chooses with probability softmax(u_k); the town is the mixture of its types. A response belongs to the
    type with the largest `log_choices`. Returns the log of the town's shares and indices of types, both
    `(prompts, responses)`; all lists have one length.

    Examples:
        >>> from pluralign.judgments.population import Town
        >>> town = simulate(Town(annotators=4))
        >>> log_shares, types = population_choices(town, candidates(list(PROMPTS[:1]), 5, seed=0))
        >>> log_shares.shape, types.shape, round(float(np.exp(log_shares).sum()), 9)
        ((1, 5), (1, 5), 1.0)
    """
    choices = log_choices(simulation, [text for group in texts for text in group])
    choices = choices.reshape(len(choices), len(texts), -1)
    shares = np.einsum("k,kpa->pa", simulation.town.shares, softmax(choices, axis=-1))
    return np.log(shares), choices.argmax(axis=0)


def types_by_group(simulation: Simulation, run: Path) -> dict[str, str]:
    """The adapter of the found type that holds most annotators of each group."""
    rows = pq.read_table(run / RESPONSIBILITIES).to_pylist()
    adapters = {}
    for group in simulation.town.types:
        types = Counter(row["type"] for row in rows if simulation.types.get(row["annotator"]) == group.name)
        adapters[group.name] = f"type-{types.most_common(1)[0][0]}"
    return adapters
