"""The tables of EM-DPO for bench/README.md; `python tables_types.py` prints those that there are."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import Any

from common import OUT


def stored(name: str) -> dict[str, Any]:
    return json.loads((OUT / f"{name}.json").read_text())


def _spread(values: Iterable[float], digits: int) -> str:
    """Median, lowest and highest."""
    found = list(values)
    return f"{median(found):.{digits}f} [{min(found):.{digits}f}, {max(found):.{digits}f}]"


def _mean(values: Sequence[float], digits: int) -> str:
    """Mean, lowest and highest."""
    average = sum(values) / len(values)
    return f"{average:.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def em_town_recovery() -> list[str]:
    rows = stored("em_town_recovery")["rows"]
    rounds = len(next(iter(rows.values()))["accuracy"])
    names = ["start", *(f"round {number}" for number in range(1, rounds))]
    lines = [
        "| seed | verdict | "
        + " | ".join(f"right type, {name}" for name in names)
        + " | smallest mass, found by true: start | the same, last round | E-step, seconds | seconds in all "
        "| verdict with one pair each |",
        "|" + "---|" * (rounds + 7),
    ]
    for seed, row in rows.items():
        right = " | ".join(f"{value:.3f}" for value in row["accuracy"])
        masses = f"{row['smallest_mass'][0]:.2f} | {row['smallest_mass'][-1]:.2f}"
        scored = ", ".join(f"{value:.1f}" for value in row["e_step_seconds"])
        lines.append(
            f"| {seed} | {row['verdict']} | {right} | {masses} | {scored} | {row['seconds']:.1f} "
            f"| {row['verdict_pairs']} |"
        )
    columns = [[row["accuracy"][number] for row in rows.values()] for number in range(rounds)]
    means = " | ".join(f"{sum(column) / len(column):.3f}" for column in columns)
    least = (min(row["smallest_mass"][number] for row in rows.values()) for number in (0, -1))
    lines.append(f"| mean; least mass | | {means} | {' | '.join(f'{value:.2f}' for value in least)} | | | |")
    return lines


METHODS = (
    "true utilities",
    "latent class",
    "EM-DPO",
    "EM-DPO, dirichlet start",
    "paper",
    "paper, our rate",
    "cluster-dpo",
    "DPO",
)
"""The order of rows."""

CURVES = {
    "type_accuracy": ("Share of people in the right type, best matching", 3),
    "accuracy": ("Held-out pairs that the policy of the person's own type orders right", 3),
    "mixture_log_loss": (
        "Held-out log-loss of a ranking of three, in nats (a coin: ln 6 = 1.792), policies weighed by the person's "
        "posterior",
        3,
    ),
    "own_log_loss": ("The same under the policy of the person's most probable type alone", 3),
    "seconds": ("Seconds of a run", 1),
}
"""What the curve has measured, how it is called, and its digits."""


def em_town_curve() -> list[str]:
    found = stored("em_town_curve")
    rows, settings = found["rows"], found["settings"]
    numbers = sorted({row["judgments"] for row in rows})
    lines = [
        f"{settings['annotators']} people, {settings['held_out']} held-out rankings of each, "
        f"{len({row['seed'] for row in rows})} seeds. Mean [lowest, highest] over seeds; columns: judgments of a "
        "person in training.",
    ]
    for key, (title, digits) in CURVES.items():
        lines += ["", f"{title}:", "", f"| responses | method | {' | '.join(map(str, numbers))} |"]
        lines.append("|" + "---|" * (len(numbers) + 2))
        for responses, method in itertools.product(sorted({row["responses"] for row in rows}), METHODS):
            values: dict[int, list[float]] = {}
            for row in rows:
                if row["method"] == method and row["responses"] == responses and key in row:
                    values.setdefault(row["judgments"], []).append(row[key])
            if values:
                cells = (_mean(values[number], digits) if number in values else "" for number in numbers)
                lines.append(f"| {responses} | {method} | {' | '.join(cells)} |")
    return lines


OURS, TRL = "our dpo, an epoch", "TRL DPO, an epoch"


def em_cost_town() -> list[str]:
    return _cost("em_cost_town")


def em_cost_crowd() -> list[str]:
    return _cost("em_cost_crowd")


def em_cost_large() -> list[str]:
    return _cost("em_cost_large")


def _cost(name: str) -> list[str]:
    """One row for each E-step that was measured after an M-step; ratios of neighbours in time."""
    found = stored(name)
    told, runs = found["settings"], found["rows"]
    lines = [
        f"{told['annotators']} people, {told['each']} rankings of three each; model {told['model']}, LoRA of rank "
        f"{told['r']}, {told['per_device_train_batch_size']} judgments a step; threads: {told['threads']}. Median "
        "[lowest, highest] of the repetitions.",
        "",
        "| run | E-step | M-step, seconds | E-step, seconds | round, seconds | to our epoch | to TRL's epoch "
        "| values scored | of all possible | start, seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    epochs = {run: [turn["seconds"] for turn in runs.get(run, [])] for run in (OURS, TRL)}
    for run, seconds in epochs.items():
        if seconds:
            ratios = " | ".join(_ratio(seconds, epochs[other]) for other in (OURS, TRL))
            lines.append(f"| {run} | | | | {_spread(seconds, 1)} | {ratios} | | | |")
    for run, turns in runs.items():
        if run in epochs:
            continue
        for variant in turns[0]["e_steps"] if turns[0]["possible"] else ["default"]:
            scored = [turn["e_steps"][variant] for turn in turns]
            rounds = [turn["m_step"] + own["seconds"] for turn, own in zip(turns, scored, strict=True)]
            cells = [
                _spread([turn["m_step"] for turn in turns], 1),
                _spread([own["seconds"] for own in scored], 1),
                _spread(rounds, 1),
                *(_ratio(rounds, epochs[other]) for other in (OURS, TRL)),
            ]
            values, possible = scored[0]["values"], turns[0]["possible"]
            cells += [f"{values}", f"{values / possible:.0%}" if possible else "", f"{turns[0]['start']:.1f}"]
            lines.append(f"| {run} | {variant if possible else 'none'} | {' | '.join(cells)} |")
    return lines


def _ratio(seconds: Sequence[float], others: Sequence[float]) -> str:
    ratios = [one / other for one, other in zip(seconds, others, strict=False)]
    return _spread(ratios, 2) if ratios else ""


def em_cost_memory() -> list[str]:
    lines = [
        "| types | peak in the start, GiB | in an M-step | in an E-step | base, MiB | an adapter, MiB "
        "| its optimiser's state, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for types, row in stored("em_cost_memory")["rows"].items():
        peaks = " | ".join(f"{row[key]:.2f}" for key in ("start", "m_step", "e_step"))
        sizes = " | ".join(f"{row[f'{key}_bytes'] / 2**20:.2f}" for key in ("base", "adapter", "optimizer"))
        lines.append(f"| {types} | {peaks} | {sizes} |")
    return lines


TABLES: tuple[Callable[[], list[str]], ...] = (
    em_town_recovery,
    em_town_curve,
    em_cost_town,
    em_cost_crowd,
    em_cost_large,
    em_cost_memory,
)
"""Each is named like its block in the README and its file of results."""


if __name__ == "__main__":
    for make in TABLES:
        if (OUT / f"{make.__name__}.json").exists():
            print("\n".join([f"<!-- {make.__name__} -->", *make(), f"<!-- end {make.__name__} -->", ""]))
