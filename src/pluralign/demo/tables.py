"""What `demo` says of who was found and who is served: lines of text from metrics."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.demo.people import PLACES
from pluralign.judgments.population import Simulation
from pluralign.judgments.table import Judgments
from pluralign.scoring.items import Items
from pluralign.workflows.aggregate.contents import regret_lines
from pluralign.workflows.evaluate.run import reward_metrics


def kinds_found(metrics: Mapping[str, Any], story: Path) -> list[str]:
    """The audit's verdict, and how the types that it found fall over the kinds that the town was made of."""
    groups = json.loads(story.read_text(encoding="utf-8"))["groups"]
    types = range(1, metrics["types"] + 1)
    lines = [
        f"Who are they? {metrics['types']} types of people found from the rankings alone "
        f"({metrics['identification']}; adjusted Rand index {metrics['groups_adjusted_rand']:.2f})",
        "",
        f"{'kind of person':<16}" + "".join(f"{f'type {kind}':>10}" for kind in types),
    ]
    for group in groups:
        lines.append(f"{group['group']:<16}" + "".join(f"{share:>10.0%}" for share in group["shares"]))
    return lines


def confidence(before: Mapping[str, Any], after: Mapping[str, Any], temperature: float) -> list[str]:
    """How far the reward's confidence is from how often it is right, as trained and with its temperature."""

    def cell(metrics: Mapping[str, Any], key: str) -> str:
        value = f"{metrics[key]:.3f}"
        return f"{value} [{metrics['ece_low']:.3f}, {metrics['ece_high']:.3f}]" if key == "ece" else value

    lines = [
        "How sure may the reward be? (one reward over two sources; calibration error on pairs held out)",
        "",
        f"{'source':<16}{'weight':>8}{'accuracy':>20}{'error':>22}{f'at temperature {temperature:.2f}':>24}",
    ]
    for place in PLACES:
        part = f"/source={place}"
        weight, accuracy = before[f"weight{part}"], before[f"accuracy{part}"]
        errors = f"{cell(before, f'ece{part}'):>22}{cell(after, f'ece{part}'):>24}"
        lines.append(f"{place:<16}{weight:>8.2f}{accuracy:>20.3f}{errors}")
    errors = f"{cell(before, 'ece'):>22}{cell(after, 'ece'):>24}"
    return [*lines, f"{'both':<16}{'':>8}{before['accuracy']:>20.3f}{errors}"]


def served(
    simulation: Simulation, items: Items, metrics: Mapping[str, Mapping[str, Any]], judgments: Judgments
) -> list[str]:
    """How often the one reward, the one policy, and the own type's policy agree with each kind of person.

    A person's rankings are noisy, so that not even their own utility agrees with all of them: that column is the
    most that any reward can reach for that kind of person.
    """
    columns = ("reward", "DPO policy", "own type's policy", "own utility")
    lines = [
        "Whom does one reward for all, and one policy for all, serve? (pairs ranked as the person did, held out)",
        "",
        f"{'kind of person':<16}{'share':>8}" + "".join(f"{name:>20}" for name in columns),
    ]
    runs = ("reward", "policy", "people")
    for index, kind in enumerate(simulation.town.types):
        key = f"accuracy/group={kind.name}"
        own = np.array([simulation.utilities(str(text))[index] for text in items.responses])
        reached = [*(metrics[name][key] for name in runs), reward_metrics(judgments, items, own)[key]]
        cells = "".join(f"{value:>20.3f}" for value in reached)
        lines.append(f"{kind.name:<16}{kind.share:>8.0%}{cells}")
    lines.append(f"{'everyone':<16}{'':>8}" + "".join(f"{metrics[name]['accuracy']:>20.3f}" for name in runs))
    return lines


def given_up(metrics: Mapping[str, Any], types: Mapping[str, str]) -> list[str]:
    """Each type's regret under every policy, and which kind of person each type is."""
    known = ", ".join(f"{adapter} is mostly {kind}" for kind, adapter in types.items())
    title = f"What does each type give up under each policy, against its own? ({known})"
    return [title, "", *regret_lines(metrics)]


def liked(simulation: Simulation, wins: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
    """How often each kind of person likes each policy's answers better than those before."""
    lines = [
        "Whose answers got better? (share that each kind of person prefers to the language model's own)",
        "",
        f"{'kind of person':<16}{'share':>8}" + "".join(f"{name:>20}" for name in wins),
    ]
    for kind in simulation.town.types:
        cells = "".join(f"{_with_interval(found[kind.name]):>20}" for found in wins.values())
        lines.append(f"{kind.name:<16}{kind.share:>8.0%}{cells}")
    return lines


def _with_interval(found: Mapping[str, float]) -> str:
    return f"{found['win_rate']:.2f} [{found['win_rate_low']:.2f}, {found['win_rate_high']:.2f}]"
