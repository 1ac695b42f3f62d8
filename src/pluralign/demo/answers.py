"""The demo in a few sentences: the questions of its page, each with its answer; the tables behind them are longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pluralign.demo.comparison import OWN, WinRates
from pluralign.demo.tables import SERVED_BY
from pluralign.demo.town import PLACES, chosen_shares
from pluralign.judgments.population import Simulation


def types_answer(metrics: Mapping[str, Any]) -> list[str]:
    """What the audit finds, and whether it is the truth."""
    told = str(metrics["sentence"]).replace("+- ", "±").rstrip(".")
    index = metrics["groups_adjusted_rand"]
    return [
        "Which annotator types are there?",
        f"{told}.",
        f"The audit was not told the groups; its types agree with them by an adjusted Rand index of {index:.2f}.",
    ]


def calibration_answer(before: Mapping[str, Any], after: Mapping[str, Any], temperature: float) -> list[str]:
    """How far one reward for two sources is from the shares of people, as trained and at its temperature."""
    agreement = " and ".join(f"{before[f'accuracy/source={place}']:.0%} ({place})" for place in PLACES)
    apart = ", ".join(
        f"{before[f'ece{part}']:.3f} to {after[f'ece{part}']:.3f} ({name})"
        for name, part in {"both": "", **{place: f"/source={place}" for place in PLACES}}.items()
    )
    told = f"One reward for two sources that disagree agrees with people on {agreement} of held-out pairs."
    if temperature == 1:
        return ["How well calibrated is the reward model?", told, "It could not be calibrated on so few judgments."]
    return [
        "How well calibrated is the reward model?",
        told,
        f"A temperature of {temperature:.2f}, fitted to other judgments, changes its calibration error from {apart}.",
    ]


def labels_answer(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """How far predicted shares of labels are from the votes."""
    model, constant, true = (rows[name]["transport_cost"] for name in ("model (DPRM)", "constant", "true shares"))
    return [
        "How well are the crowd's labels predicted?",
        f"Predicted shares are {model:.3f} from the held-out votes (transport cost), the same shares for every "
        f"response {constant:.3f}, the true ones {true:.3f}.",
    ]


def served_answer(accuracies: Mapping[str, Sequence[float]]) -> list[str]:
    """How often one policy, the own type's and the true utilities agree with each group; from `tables.accuracies`."""
    policy, own, true = (
        _of_groups({group: f"{row[SERVED_BY.index(name)]:.0%}" for group, row in accuracies.items()})
        for name in SERVED_BY[1:]
    )
    return [
        "Which groups do one reward model and one policy serve?",
        f"One DPO policy agrees with people on {policy} of held-out pairs, a policy for each type on {own}.",
        f"People are noisy: even their true utilities agree only on {true}.",
    ]


def fair_answer(wins: Mapping[str, WinRates], winner: str) -> list[str]:
    """How often the group that likes it least prefers the chosen policy; without `wins` there is one type."""
    asked = "Which one policy serves all types?"
    if not wins:
        return [asked, "There is a single annotator type, so one policy serves everybody."]
    told = [asked]
    if winner in wins:
        told.append(
            f"The types' judges choose {winner}. By true utilities the group that likes it least prefers it to the "
            f"language model in {_share(wins[winner].worst, 'win_rate')} of cases."
        )
    own = _share(wins[OWN].worst, "win_rate")
    return [*told, f"With a policy for each type, the group that likes its own least prefers it in {own}."]


def said_answer(simulation: Simulation, rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Whose responses policies say, against what people choose; from `compare_said`."""
    groups = [group.name for group in simulation.town.types]

    def shares(values: Sequence[float]) -> str:
        return _of_groups({group: f"{value:.0%}" for group, value in zip(groups, values, strict=True)})

    names = ("KL-RLHF", "matching (pm-dpo)", "matching by type")
    said = "; ".join(f"{name} {shares(rows[name]['shares'])}" for name in names)
    return [
        "Do policies keep the minority?",
        f"People choose responses of each group's kind in these shares: {shares(chosen_shares(simulation))}.",
        f"Policies say: {said}.",
    ]


def _of_groups(values: Mapping[str, str]) -> str:
    """Values with their groups, as a list in a sentence."""
    *others, last = (f"{value} ({group})" for group, value in values.items())
    return f"{', '.join(others)} and {last}" if others else last


def _share(metrics: Mapping[str, float], key: str) -> str:
    """A share with its interval, if it has one."""
    told = f"{metrics[key]:.0%}"
    return f"{told} [{metrics[f'{key}_low']:.0%}, {metrics[f'{key}_high']:.0%}]" if f"{key}_low" in metrics else told
