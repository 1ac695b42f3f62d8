"""The town's labels in `demo`: a crowd's votes as they come in, and how near a model of them comes to others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pluralign.core.errors import one_line
from pluralign.demo.people import PLACES, asked_somewhere
from pluralign.judgments.population import Simulation, label_thresholds, simulate
from pluralign.judgments.split import split
from pluralign.judgments.table import Judgments
from pluralign.scoring.crowds import CROWDS, crowd_metrics, crowd_of
from pluralign.workflows.votes.update import Updated, update_votes

RATED = 160
"""Answers that everybody in town gives a label from 1 to 5, three in ten of them to be predicted."""

COLUMNS = {
    "transport_cost": "transport cost",
    "total_variation": "share on wrong label",
    "expected_reward_error": "mean off by",
}
"""Metrics of the table, and how it calls them."""


@dataclass(frozen=True)
class Ratings:
    """The labels of the town.

    Args:
        train: the answers to learn from.
        test: the answers held out, to other questions.
        files: of the votes to learn from, one for each place.
        state: the crowd's posterior, of all of `train`.
        update: what the second place's votes changed.
    """

    train: Judgments
    test: Judgments
    files: list[Path]
    state: Path
    update: Updated

    @property
    def config(self) -> dict[str, Any]:
        """What the YAML of `dprm` says of data."""
        return {
            "vote_state": str(self.state),
            "train_files": [str(file) for file in self.files],
            "eval_files": [str(self.state.with_name("ratings-test.parquet"))],
        }


def rated(simulation: Simulation, folder: Path, seed: int) -> Ratings:
    """Let the people of a town give labels to the same answers, and merge the votes of one place after the other.

    The state is made anew each time: a second call then tells of the same update.

    Args:
        simulation: its people are asked.
        folder: where the files go.
        seed: of the split and of who is asked where.
    """
    survey = replace(simulation.town, responses=1, top=None, judgments_per_annotator=RATED, overlap=1.0, labels="only")
    train, test = split(asked_somewhere(simulate(survey), seed), by="prompt", test=0.3, seed=seed)
    test.write(folder / "ratings-test.parquet")
    places, files = np.array(train.column("source")), []
    for place in PLACES:
        files.append(folder / f"ratings-{place}.parquet")
        train.select(np.flatnonzero(places == place)).write(files[-1])
    state = folder / "crowd-votes.parquet"
    state.unlink(missing_ok=True)
    for file in files:
        update = update_votes(state, file, most=3)
    return Ratings(train, test, files, state, update)


def true_shares(simulation: Simulation, texts: list[str]) -> np.ndarray:
    """What share of the town gives each label, without the chance of who said what: `(texts, labels)`.

    A person of kind k gives a label below the cut t with probability P(u_k + noise * Gumbel <= t) =
    exp(-exp((u_k - t) / noise)); kinds count by their people, careless ones as the others.

    Examples:
        >>> from pluralign.judgments.population import Town
        >>> shares = true_shares(simulate(Town(annotators=4)), ["It takes 5 minutes."])
        >>> shares.shape, round(float(shares.sum()), 9)
        ((1, 5), 1.0)
    """
    town = simulation.town
    cuts = label_thresholds(town)  # (kinds, labels - 1)
    people = np.bincount(list(simulation.type_index.values()), minlength=len(cuts)) / len(simulation.type_index)
    utilities = np.array([simulation.utilities(text) for text in texts])[..., None]  # (texts, kinds, 1)
    with np.errstate(divide="ignore", over="ignore"):  # without noise, or far from a cut, the share is 0 or 1
        below = np.exp(-np.exp((utilities - cuts) / town.noise))
    return np.einsum("k,tkl->tl", people, np.diff(below, axis=-1, prepend=0.0, append=1.0))


def said(simulation: Simulation, ratings: Ratings, metrics: Mapping[str, Any], run: Path, seed: int) -> list[str]:
    """The model's shares beside those of the votes, against one answer for all and against the truth.

    Args:
        simulation: knows the true shares.
        ratings: of the town.
        metrics: of the model, on the answers held out.
        run: the model's folder.
        seed: of the bootstrap.
    """
    asked, crowd = crowd_of(ratings.train), crowd_of(ratings.test)
    constant = (asked.counts / asked.votes[:, None]).mean(0)
    rows = {
        "the same for all": crowd_metrics(crowd, np.tile(constant, (len(crowd.response), 1)), (), 1000, seed),
        "model (DPRM)": metrics,
        "true shares": crowd_metrics(crowd, true_shares(simulation, crowd.response), (), 1000, seed),
    }
    lines = [
        f"What would they say of an answer? (labels from 1 to 5; {len(crowd.response)} answers held out, "
        f"{crowd.votes.mean():.0f} votes on each)",
        "",
        f"{'predicted shares':<18}" + "".join(f"{name:>24}" for name in COLUMNS.values()),
    ]
    for name, found in rows.items():
        lines.append(f"{name:<18}" + "".join(f"{_with_interval(found, key):>24}" for key in COLUMNS))
    return [*lines, "", *_one_answer(run / CROWDS, list(crowd.scale.labels)), "", *_moved(ratings.update)]


def _with_interval(found: Mapping[str, Any], key: str) -> str:
    value = f"{found[key]:.3f}"
    return f"{value} [{found[f'{key}_low']:.3f}, {found[f'{key}_high']:.3f}]" if f"{key}_low" in found else value


def _one_answer(table: Path, labels: list[str]) -> list[str]:
    """Votes and prediction of the answer whose prediction is neither among the best nor among the worst."""
    columns = pq.read_table(table).to_pydict()
    shares = {kind: np.array([columns[f"{kind}_{label}"] for label in labels]).T for kind in ("voted", "predicted")}
    apart = np.abs(shares["voted"] - shares["predicted"]).sum(1)
    middle = int(np.argsort(apart, kind="stable")[len(apart) // 2])
    lines = [f"{'':<18}" + "".join(f"{label:>8}" for label in labels) + "   of an answer in the middle of them:"]
    lines[0] += f" {one_line(columns['response'][middle], 40)}"
    return lines + [
        f"{kind:<18}" + "".join(f"{share:>8.0%}" for share in found[middle]) for kind, found in shares.items()
    ]


def _moved(update: Updated) -> list[str]:
    """What the votes of the second place changed."""
    first, second = PLACES
    return [
        f"What do new votes change? (the posterior of the {first}'s votes when those of the {second} come in)",
        "",
        *update.summary()[:-1],  # the last line names the file
    ]
