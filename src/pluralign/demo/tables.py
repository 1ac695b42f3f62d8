"""The sections of the demo's console text, each a list of lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pluralign.core.errors import one_line
from pluralign.demo.comparison import DPO, LISTED, OWN, SAID, WinRates
from pluralign.demo.town import PLACES, Ratings, chosen_shares, true_shares
from pluralign.judgments.population import Simulation
from pluralign.judgments.table import Judgments
from pluralign.scoring.crowd_predictions import CROWDS, crowd_metrics
from pluralign.scoring.crowds import crowd_of
from pluralign.scoring.items import Items
from pluralign.scoring.measured import reward_metrics
from pluralign.workflows.aggregate.contents import outcome_lines
from pluralign.workflows.aggregate.distill import distilled
from pluralign.workflows.aggregate.tuning import OFFERED
from pluralign.workflows.votes.update import Updated

COLUMNS = {
    "transport_cost": "transport cost",
    "total_variation": "total variation",
    "expected_reward_error": "error of the mean",
}
"""Metrics of predicted labels, and their column titles."""

SERVED_BY = ("reward model", "DPO policy", "own type's policy", "true utility")
"""What is asked whether it serves each group."""

BAR = 20
"""Characters of a full bar."""


def types_found(metrics: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The result of the audit, and how the types that it finds are distributed over the groups."""
    types = range(1, metrics["types"] + 1)
    found = f"{len(types)} type{'s' * (len(types) != 1)}"
    return [
        f"Which annotator types does the audit find? {found} from the rankings alone "
        f"({metrics['identification']}; adjusted Rand index {metrics['groups_adjusted_rand']:.2f})",
        "",
        f"{'group':<16}" + "".join(f"{f'type {kind}':>10}" for kind in types),
        *(f"{group['group']:<16}" + "".join(f"{share:>10.0%}" for share in group["shares"]) for group in groups),
    ]


def calibration(before: Mapping[str, Any], after: Mapping[str, Any], temperature: float) -> list[str]:
    """The calibration error of the reward model, as trained and with its temperature."""
    lines = [
        "How well calibrated is the reward model? (one model for two sources; calibration error on held-out pairs)",
        "",
        f"{'source':<16}{'weight':>8}{'accuracy':>20}{'error':>22}{f'at temperature {temperature:.2f}':>24}",
    ]
    for place in PLACES:
        part = f"/source={place}"
        weight, accuracy = before[f"weight{part}"], before[f"accuracy{part}"]
        errors = f"{before[f'ece{part}']:>22.3f}{after[f'ece{part}']:>24.3f}"
        lines.append(f"{place:<16}{weight:>8.2f}{accuracy:>20.3f}{errors}")
    errors = f"{before['ece']:>22.3f}{after['ece']:>24.3f}"
    lines.append(f"{'both':<16}{'':>8}{before['accuracy']:>20.3f}{errors}")
    if "ece_p_value" in before and "ece_p_value" in after:  # the probability of such an error if it were calibrated
        lines.append(f"{'p-value':<16}{'':>28}{before['ece_p_value']:>22.3f}{after['ece_p_value']:>24.3f}")
    return lines


def label_rows(
    simulation: Simulation, ratings: Ratings, metrics: Mapping[str, Any], seed: int
) -> dict[str, Mapping[str, Any]]:
    """Metrics of the model's label shares, of a constant prediction, and of the truth."""
    train, crowd = crowd_of(ratings.train), crowd_of(ratings.test)
    constant = (train.counts / train.votes[:, None]).mean(0)
    return {
        "constant": crowd_metrics(crowd, np.tile(constant, (len(crowd.response), 1)), (), 1000, seed),
        "model (DPRM)": metrics,
        "true shares": crowd_metrics(crowd, true_shares(simulation, crowd.response), (), 1000, seed),
    }


def labels_predicted(rows: Mapping[str, Mapping[str, Any]], ratings: Ratings, run: Path) -> list[str]:
    """The model's label shares compared with those of the votes, with a constant prediction, and with the truth."""
    crowd = crowd_of(ratings.test)
    return [
        f"How well are the crowd's labels predicted? (labels from 1 to 5; {len(crowd.response)} held-out responses, "
        f"{crowd.votes.mean():.0f} votes on each)",
        "",
        f"{'predicted shares':<18}" + "".join(f"{title:>24}" for title in COLUMNS.values()),
        *(f"{name:<18}" + "".join(f"{_with_interval(row, key):>24}" for key in COLUMNS) for name, row in rows.items()),
        "",
        *_typical_response(run / CROWDS, list(crowd.scale.labels)),
        "",
        *_votes_moved(ratings.update),
    ]


def _typical_response(table: Path, labels: list[str]) -> list[str]:
    """Votes and prediction for the response with the median prediction error."""
    columns = pq.read_table(table).to_pydict()
    shares = {kind: np.array([columns[f"{kind}_{label}"] for label in labels]).T for kind in ("voted", "predicted")}
    errors = np.abs(shares["voted"] - shares["predicted"]).sum(1)
    median = int(np.argsort(errors, kind="stable")[len(errors) // 2])
    response = f"   response with the median error: {one_line(columns['response'][median], 40)}"
    return [f"{'':<18}" + "".join(f"{label:>8}" for label in labels) + response] + [
        f"{kind:<18}" + "".join(f"{share:>8.0%}" for share in rows[median]) for kind, rows in shares.items()
    ]


def _votes_moved(update: Updated) -> list[str]:
    first, second = PLACES
    return [
        f"What do new votes change? (the posterior from the votes at the {first}, updated with those at the {second})",
        "",
        *update.summary()[:-1],  # the last line names the file
    ]


def accuracies(
    simulation: Simulation, items: Items, metrics: Mapping[str, Mapping[str, Any]], judgments: Judgments
) -> dict[str, list[float]]:
    """How often what `SERVED_BY` names agrees with each group.

    Rankings are noisy, so even the true utility does not agree with all of them: it is the upper bound.
    """
    found = {}
    for index, group in enumerate(simulation.town.types):
        key = f"accuracy/group={group.name}"
        own = np.array([simulation.utilities(str(text))[index] for text in items.responses])
        runs = [metrics[name][key] for name in ("reward", "policy", "types")]
        found[group.name] = [*runs, reward_metrics(judgments, items, own)[key]]
    return found


def served(
    simulation: Simulation, agreement: Mapping[str, Sequence[float]], metrics: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """How often one reward, one policy, and the policy of the own type agree with each group: `accuracies`."""
    lines = [
        "How well do one reward model and one policy serve each group? (accuracy on held-out pairs)",
        "",
        f"{'group':<16}{'share':>8}" + "".join(f"{name:>20}" for name in SERVED_BY),
    ]
    for group in simulation.town.types:
        cells = "".join(f"{value:>20.3f}" for value in agreement[group.name])
        lines.append(f"{group.name:<16}{group.share:>8.0%}{cells}")
    everyone = "".join(f"{metrics[name]['accuracy']:>20.3f}" for name in ("reward", "policy", "types"))
    return [*lines, f"{'everyone':<16}{'':>8}{everyone}"]


def one_policy(metrics: Mapping[str, Any], types: Mapping[str, str]) -> list[str]:
    """How often each type's judge prefers each policy to the language model."""
    groups = ", ".join(f"{adapter} is mostly {group}" for group, adapter in types.items())
    title = f"Which one policy serves all types? (by judges fitted to their judgments; {groups}; * is the best)"
    return [title, "", *outcome_lines(metrics)]


def fair_order(wins: Mapping[str, WinRates]) -> list[str]:
    """The policies in the order in which they are shown."""
    return [name for name in (DPO, OWN, *OFFERED, *map(distilled, OFFERED)) if name in wins]


def fair_policy(simulation: Simulation, wins: Mapping[str, WinRates], winner: str) -> list[str]:
    """How often each group truly prefers each policy's responses to those of the language model."""
    groups = [group.name for group in simulation.town.types]
    lines = [
        "Does it? (how often each group prefers a policy's responses to the language model's, by true utilities)",
        "",
        f"{'policy':<22}" + "".join(f"{name:>20}" for name in [*groups, "worst-off"]),
    ]
    for name in fair_order(wins):
        rates = [*wins[name].groups.values(), wins[name].worst]
        cells = "".join(f"{_with_interval(rate, 'win_rate', digits=2):>20}" for rate in rates)
        lines.append(f"{name + ' *' * (name == winner):<22}{cells}")
    if winner in wins:
        rate = wins[winner].worst
        lines += ["", f"The worst-off group prefers {winner} with probability {_with_interval(rate, 'win_rate', 2)}."]
    return lines


def histograms(simulation: Simulation, choices: Mapping[str, Mapping[str, Any]], prompts: int) -> list[str]:
    """A bar for each group's share of the responses that each policy chooses; `choices` is from `compare_lists`."""
    width = BAR + 8
    lines = [
        f"Whose preferences does each policy reproduce? ({LISTED} responses to each of {prompts} held-out prompts; "
        "a response belongs to the group that chooses it most)",
        "",
        f"{'chosen by':<22}"
        + "".join(f"{group.name:<{width}}" for group in simulation.town.types)
        + f"{'distance':>8}{'minority kept':>16}",
    ]
    for name, row in choices.items():
        bars = "".join(f"{share:>4.0%} {'#' * round(BAR * share):<{width - 5}}" for share in row["shares"])
        lines.append(f"{name:<22}{bars}{row['total_variation']:>8.2f}{row['minority_mass']:>16.2f}")
    return lines


def said(simulation: Simulation, rows: Mapping[str, Mapping[str, Any]], prompts: int) -> list[str]:
    """Each group's share of what each policy says, and the distance from what the people choose: `compare_said`."""
    groups = [group.name for group in simulation.town.types]
    lines = [
        f"What do policies say? ({SAID} responses of their own to each of {prompts} held-out prompts, not from a list)",
        "",
        f"{'said by':<22}"
        + "".join(f"{name:>20}" for name in groups)
        + f"{'distance':>20}{'tokens':>8}{'perplexity':>12}",
        f"{'people (would choose)':<22}" + "".join(f"{share:>20.2f}" for share in chosen_shares(simulation)),
    ]
    for name, row in rows.items():
        shares = [
            {"share": row["shares"][place]}
            | {f"share_{end}": row[f"shares_{end}"][place] for end in ("low", "high") if f"shares_{end}" in row}
            for place in range(len(groups))
        ]
        cells = "".join(f"{_with_interval(share, 'share', digits=2):>20}" for share in shares)
        distance = _with_interval(row, "total_variation", digits=2)
        lines.append(f"{name:<22}{cells}{distance:>20}{row['mean_length']:>8.0f}{row['perplexity']:>12.1f}")
    return lines


def _with_interval(metrics: Mapping[str, Any], key: str, digits: int = 3) -> str:
    """A metric with its interval, if it has one."""
    value = f"{metrics[key]:.{digits}f}"
    if f"{key}_low" not in metrics:
        return value
    return f"{value} [{metrics[f'{key}_low']:.{digits}f}, {metrics[f'{key}_high']:.{digits}f}]"
