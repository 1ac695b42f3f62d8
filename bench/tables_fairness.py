"""The tables of EM-DPO on real people and of regret; `python tables_fairness.py` prints those that there are."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from common import OUT


def stored(name: str) -> dict[str, Any]:
    return json.loads((OUT / f"{name}.json").read_text())


def _mean(values: Iterable[float], digits: int = 4, sign: str = "") -> str:
    """Mean with its 95 % interval, normal."""
    found = np.array(list(values))
    mean, error = float(found.mean()), 1.96 * float(found.std(ddof=1)) / math.sqrt(len(found))
    return f"{mean:{sign}.{digits}f} [{mean - error:{sign}.{digits}f}, {mean + error:{sign}.{digits}f}]"


def _between(value: float, low: float, high: float, digits: int = 3) -> str:
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _rounded(values: Iterable[float], digits: int = 2) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def _header(*names: str) -> list[str]:
    return [_row(names), "|" + "---|" * len(names)]


def em_real_tuning() -> list[str]:
    found = stored("em_real_tuning")
    lines = [f"One type, on {found['settings']['votes']} training votes, a fifth of their pairs left out.", ""]
    lines += _header("learning rate", "log-loss", "seconds")
    return lines + [
        _row([f"{row['learning_rate']:g}", f"{row['log_loss']:.4f}", f"{row['seconds']:.0f}"])
        for row in sorted(found["rows"].values(), key=lambda row: row["learning_rate"])
    ]


def em_real_convarg() -> list[str]:
    """Means over annotators; differences are paired."""
    found = stored("em_real_convarg")
    told, rows = found["settings"], found["rows"]
    lines = [
        f"{told['annotators']} annotators of {told['least']} strict votes or more, {told['topics']} topics and "
        f"sides, {told['arguments']} arguments; {told['votes']} votes to train on, {told['held_out']} on pairs "
        f"that nobody judged in training. {told['num_train_epochs']} epoch in an M-step, "
        f"{told['per_device_train_batch_size']} votes a step, learning rate {told['learning_rate']:g}, beta "
        f"{told['beta']:g}. Log-loss in nats a vote (less is better), mean over annotators with a 95 % interval "
        "over them; differences are paired, annotator by annotator.",
        "",
        *_header(
            "model", "types", "most probable type alone", "difference to one type", "weighed by posterior",
            "difference to one type", "shares", "verdict", "seconds",
        ),
        _row(["chance", "", f"{math.log(2):.4f}", "", f"{math.log(2):.4f}", "", "", "", ""]),
    ]  # fmt: skip
    for row in sorted(rows.values(), key=lambda row: (row["method"] != "latent class", row["types"])):
        one = rows.get(f"{row['method']}, 1")
        cells = [row["method"], row["types"]]
        for kind in ("own", "mixture"):
            gaps = [] if one is None or row is one else [row[kind][who] - one[kind][who] for who in one[kind]]
            cells += [_mean(row[kind].values()), _mean(gaps, sign="+") if gaps else ""]
        lines.append(_row([*cells, _rounded(row["shares"]), row["verdict"], f"{row['seconds']:.0f}"]))
    return lines


def em_real_polis() -> list[str]:
    found = stored("em_real_polis")
    told, rows = found["settings"], found["rows"]
    runs = [(place, row, run) for place, row in rows.items() for run in row["runs"].items()]
    lines = [
        f"Everybody's statements in rankings of {told['size']} or a few more, {told['share']:.0%} held out; "
        f"{told['max_steps']} steps of {told['per_device_train_batch_size']} rankings in an M-step. Asked: 1 is "
        "DPO, a larger number is that of the opinion groups, `auto` goes by held-out likelihood. Rand: adjusted "
        "index of types with opinion groups; right: people in the group of their type, best matching.",
        "",
        *_header(
            "conversation", "people", "rankings", "statements", "asked", "types", "shares", "verdict",
            "Rand, start", "Rand", "right [95 %, people]", "seconds",
        ),
    ]  # fmt: skip
    for place, row, (asked, run) in runs:
        if asked == "1":
            continue
        own = run["recovered"]
        right = _between(*(own[f"type_accuracy{end}"] for end in ("", "_low", "_high")), 2)
        cells = [place, row["people"], row["rankings"], row["statements"], asked, run["types"]]
        cells += [_rounded(run["shares"]), run["verdict"], f"{run['recovered_start']['rand']:.2f}"]
        lines.append(_row([*cells, f"{own['rand']:.2f}", right, f"{run['seconds']:.0f}"]))
    lines += [
        "",
        "Held-out pairs, everyone's by the policy of his own type; intervals over people. Log-loss in nats, of a "
        "pair; and of a ranking, policies weighed by the person's posterior.",
        "",
        *_header("conversation", "group", "people", "asked", "types", "accuracy", "log-loss", "of a ranking"),
    ]
    for place, _row_of, (asked, run) in runs:
        for group, own in run["served"].items():
            cells = [place, _short(group, place), own["people"], asked, run["types"]]
            cells += [_with_ends(own, key) for key in ("accuracy", "log_loss")]
            lines.append(_row([*cells, f"{own['mixture_log_loss']:.3f}"]))
    lines += [
        "",
        f"Regret in nats an answer, with standard errors; {told['samples']} answers of each policy to the topic. "
        "The largest over types with a 95 % interval over answers; of a group: mean over its members of their "
        "types' regrets.",
        "",
        *_header("conversation", "asked", "policy", "largest over types", "each type", "each group", "cut answers"),
    ]
    for place, _row_of, (asked, run) in runs:
        for policy, own in run.get("regret", {}).get("policies", {}).items():
            largest = _between(own["max_regret"], own["max_regret_low"], own["max_regret_high"], 2)
            types = _errors(zip(own["types"], own["types_se"], strict=True))
            groups = _errors((own["groups"][name], own["groups_se"][name]) for name in own["groups"])
            lines.append(_row([place, asked, policy, largest, types, groups, f"{own['unfinished']:.0%}"]))
    return lines


def _short(group: str, place: str) -> str:
    return group.removeprefix(f"{place}/")


def _with_ends(metrics: dict[str, Any], key: str) -> str:
    if f"{key}_low" not in metrics:
        return f"{metrics[key]:.3f}"
    return _between(*(metrics[f"{key}{end}"] for end in ("", "_low", "_high")))


def _errors(values: Iterable[tuple[float, float]]) -> str:
    return ", ".join(f"{value:.2f} ± {error:.2f}" for value, error in values)


def em_regret() -> list[str]:
    found = stored("em_regret")
    told, rows = found["settings"], found["rows"]
    seeds = list(rows)
    town = told["town"]
    lines = [
        f"{town['annotators']} people of three kinds, {town['judgments_per_annotator']} rankings of "
        f"{town['responses']} each; {told['samples']} answers of each policy to every held-out prompt. Largest "
        "regret over the types found, in nats an answer; share of answers that the worst-off kind of people truly "
        "prefers to the base's. 95 % intervals over prompts.",
        "",
        *_header("seed", "types", "verdict", "right type", "prompts", "game, linear programme", "game, Hedge",
                 "[95 %]", "training, seconds", "in all"),
    ]  # fmt: skip
    for seed, row in rows.items():
        values = [f"{row['game'][solver]['value']:.4f}" for solver in ("linear programme", "Hedge")]
        ends = f"[{_rounded(row['game_interval'])}]"
        cells = [seed, row["types"], row["verdict"], f"{row['type_accuracy']:.2f}", row["prompts"], *values, ends]
        lines.append(_row([*cells, f"{row['training_seconds']:.0f}", f"{row['seconds']:.0f}"]))
    policies = list(dict.fromkeys(name for row in rows.values() for name in [*row["regret"], *row["win_rate"]]))
    order = ["base", "dpo", "population", "utilitarian", "egalitarian", "max-min-reward", "distilled", "own type's"]
    policies.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    lines += ["", *_header("policy", *(f"largest regret, seed {seed}" for seed in seeds),
                           *(f"win rate of the worst-off kind, seed {seed}" for seed in seeds))]  # fmt: skip
    for name in policies:
        cells = [name]
        for row in rows.values():
            own = row["regret"].get(name)
            cells.append("" if own is None else _between(own["value"], own["low"], own["high"], 2))
        for row in rows.values():
            rates = row["win_rate"].get(name)
            if rates is None:
                cells.append("")
                continue
            kind = min(rates, key=lambda one: rates[one]["value"])
            own = rates[kind]
            cells.append(f"{kind} {_between(own['value'], own['low'], own['high'], 2)}")
        lines.append(_row(cells))
    return lines


TABLES: tuple[Callable[[], list[str]], ...] = (em_real_tuning, em_real_convarg, em_real_polis, em_regret)
"""Each is named like its block in the README and its file of results."""


if __name__ == "__main__":
    for make in TABLES:
        if (OUT / f"{make.__name__}.json").exists():
            print("\n".join([f"<!-- {make.__name__} -->", *make(), f"<!-- end {make.__name__} -->", ""]))
