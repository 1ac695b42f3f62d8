"""The tables of preference matching for bench/README.md."""

from __future__ import annotations

from typing import Any

from tables_types import stored


def penalty_of(row: dict[str, Any]) -> str:
    """Mode, and of `conditional` its threshold and its gate."""
    if row["mode"] != "conditional":
        return str(row["mode"])
    return f"conditional, {row['alpha']:g}, {row['gate']}"


def matching_offline() -> list[str]:
    found = stored("matching_offline")
    options = found["options"]
    lines = [
        f"{options['steps']} steps of all rankings, learning rate {options['learning_rate']:g} falling to 0, "
        f"seed {options['seed']}.",
        "",
        "| tree | judged | rankings | mode | beta | TV at the start | TV | largest error of log-odds "
        "| mass of the judged: start, end, optimum | TV over all | s |",
        "|" + "---|" * 11,
    ]
    for row in found["rows"]:
        every = row["judged"] == row["responses"]
        mass = "all" if every else ", ".join(f"{value:.3f}" for value in row["mass"])
        over_all = "" if every else f"{row['everywhere']:.3f}"
        lines.append(
            f"| {row['tree']} | {row['judged']} of {row['responses']} | {row['rankings']} of {row['shown']} "
            f"| {penalty_of(row)} | {row['beta']:g} | {row['start']:.3f} | {row['total_variation']:.1e} "
            f"| {row['log_odds']:.1e} | {mass} | {over_all} | {row['seconds']:.0f} |"
        )
    return lines


def matching_first_loss() -> list[str]:
    found = stored("matching_first_loss")
    lines = [
        f"{found['pairs']} held-out pairs of HH, {found['options']['max_length']} tokens at most; responses of "
        f"{found['tokens']['median']:.0f} tokens in the median, {found['tokens']['cut']} of them cut; beta 1.",
        "",
        "| mode | first loss, nats | median distance of two rewards, nats | longer response behind |",
        "|" + "---|" * 4,
    ]
    for row in found["rows"]:
        behind = "" if row["longer_behind"] is None else f"{row['longer_behind']:.0%}"
        lines.append(f"| {penalty_of(row)} | {row['loss']:.2f} | {row['margin']:.1f} | {behind} |")
    return lines


def matching_exact() -> list[str]:
    found = stored("matching_exact")
    options = found["options"]
    lines = [
        f"{options['steps']} steps of {options['batch']} answers, learning rate {options['learning_rate']:g} "
        f"falling to 0, seed {options['seed']}.",
        "",
        "| responses | mode | beta | tokens inside | TV at the start | TV | least probability of the optimum "
        "| largest error of log-odds | s |",
        "|" + "---|" * 9,
    ]
    for row in found["rows"]:
        lines.append(
            f"| {row['tree']} | {penalty_of(row)} | {row['beta']:g} | {100 * row['inside']:.0f} % "
            f"| {row['start']:.3f} | {row['total_variation']:.1e} | {row['least']:.4f} "
            f"| {row['log_odds']:.1e} | {row['seconds']:.0f} |"
        )
    return lines


def pm_step() -> list[str]:
    found = stored("pm_step")
    options = found["options"]
    lines = [
        f"{options['batch']} answers of {options['answer']} tokens to prompts of {options['prompt']}; "
        f"{options['threads']} thread(s); processor time, medians of {options['repeats']} turns.",
        "",
        "| trainer | step, s | ratio to RLOO | without drawing, s | ratio to RLOO |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        name = "TRL `RLOOTrainer`, beta 1" if row["kind"] == "RLOO" else f"`pm-rlhf`, {row['kind']}"
        lines.append(
            f"| {name} | {row['step']:.3f} | {row['step_ratio']:.3f} | {row['rest']:.3f} | {row['rest_ratio']:.3f} |"
        )
    return lines


TABLES = (matching_exact, matching_offline, matching_first_loss, pm_step)
