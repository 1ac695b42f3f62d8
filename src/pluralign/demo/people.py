"""The people of `demo`: where they were asked, which type they were found to be of, whose answers they like."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from pluralign.evaluation.policies.win_rate import win_rate
from pluralign.judgments.population import Simulation
from pluralign.judgments.table import Judgments
from pluralign.policies.loading import load_policy
from pluralign.scoring.items import Items
from pluralign.scoring.mixtures import RESPONSIBILITIES

PLACES = {"market": {"brief": 0.8}, "school": {"warm": 0.8, "thorough": 0.8}}
"""Where people were asked, and the share of a kind that was asked there; the others were at the other place."""

CONTEXT = 160
"""Tokens that the demo's language model can read, and"""

ANSWER = 80
"""the longest answer that it is asked for."""


def asked_somewhere(simulation: Simulation, seed: int) -> Judgments:
    """The town's judgments, each from one of two sources: the place where its person was asked."""
    draw = np.random.default_rng(seed)
    market, school = PLACES
    place = {}
    for name, kind in simulation.types.items():
        usual = market if kind in PLACES[market] else school
        place[name] = usual if draw.random() < PLACES[usual][kind] else (school if usual == market else market)
    table = simulation.judgments
    rows = [{**row, "source": place[row["annotator"]]} for row in table.rows()]
    return Judgments.from_rows(rows, table.label_scale)


def answers_preferred(
    simulation: Simulation, policies: Mapping[str, Path], base: Path, items: Items, seed: int
) -> dict[str, dict[str, dict[str, float]]]:
    """How often each kind of person finds each policy's answers better than the base's, with intervals.

    A run of types answers each kind of person by the policy of the type that most of them are of.
    """

    def answers(model: Path, adapter: str | None = None) -> np.ndarray:
        policy = load_policy(model if adapter is None else model / adapter, max_length=CONTEXT)
        drawn = policy.sample(items.prompts, n=4, max_new_tokens=ANSWER, seed=seed)
        return np.array([[simulation.utilities(sample.response) for sample in group] for group in drawn])

    before = answers(base)  # (prompts, answers, kinds)
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name, model in policies.items():
        if (model / RESPONSIBILITIES).exists():
            own = types_by_kind(simulation, model)
            drawn = {adapter: answers(model, adapter) for adapter in set(own.values())}
            of_kind = {kind: drawn[adapter] for kind, adapter in own.items()}
        else:
            of_kind = dict.fromkeys([kind.name for kind in simulation.town.types], answers(model))
        found[name] = {
            kind.name: win_rate(of_kind[kind.name][:, :, index], before[:, :, index], seed=seed)
            for index, kind in enumerate(simulation.town.types)
        }
    return found


def types_by_kind(simulation: Simulation, run: Path) -> dict[str, str]:
    """The type that most people of each kind were found to be of, by the name of its adapter."""
    rows = pq.read_table(run / RESPONSIBILITIES).to_pylist()
    found = {}
    for kind in simulation.town.types:
        votes = Counter(row["type"] for row in rows if simulation.types.get(row["annotator"]) == kind.name)
        found[kind.name] = f"type-{votes.most_common(1)[0][0]}"
    return found
