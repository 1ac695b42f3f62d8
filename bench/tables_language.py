"""The table of preference matching on free text for bench/README.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tables_types import stored

COLUMNS = {
    "pm_divergence": (0, "PM divergence"),
    "pair_js": (3, "Jensen-Shannon of pairs"),
    "minority_mass": (2, "minority mass"),
    "mean_reward/policy": (2, "reward"),
    "entropy_per_token": (2, "entropy, nats a token"),
    "reference_perplexity": (0, "perplexity under the reference"),
    "distinct_2": (2, "distinct 2-grams"),
    "unfinished": (2, "cut off"),
}
"""Metrics with their digits and headings."""


def pm_language() -> list[str]:
    """Means over seeds, the least and the largest in brackets; what was not run has no row."""
    rows: dict[tuple[Any, ...], list[dict[str, float]]] = {}
    for found in stored("pm_language"):
        options = found["options"]
        cell = found["cell"]
        key = (cell["how"] != "reference", -cell.get("beta", 0.0), cell["how"] == "offline",
               ["kl", "pm", "conditional"].index(cell.get("mode", "kl")), cell.get("alpha", 0.0))  # fmt: skip
        rows.setdefault(key, []).append(found["metrics"])
    reward = stored("pm_language_reward")
    lines = [
        f"Reward: accuracy {reward['accuracy']:.3f}, log-loss {reward['log_loss']:.3f} on held-out pairs, then "
        f"divided by {reward['temperature']:.2f}. Online: {options['steps']} steps of {options['batch']} answers, "
        f"learning rate {options['online_rate']:g}; offline: {options['pairs']} pairs, once, "
        f"{options['offline_rate']:g}. {options['asked']} held-out prompts, two answers each. Means over seeds; in "
        "brackets the least and the largest.",
        "",
        "| tuned | beta | seeds | " + " | ".join(name for _, name in COLUMNS.values()) + " |",
        "|" + "---|" * (3 + len(COLUMNS)),
    ]
    for key, metrics in sorted(rows.items()):
        tuned, beta, is_offline, mode, alpha = key
        name = "not (the reference)"
        if tuned:
            how = "offline" if is_offline else "online"
            name = f"{how}, {('KL', 'plain', f'conditional, {alpha:g}')[mode]}"
        cells = [name, f"{-beta:g}" if tuned else "", str(len(metrics))]
        cells += [_spread([one[column] for one in metrics], digits) for column, (digits, _) in COLUMNS.items()]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _spread(values: list[float], digits: int) -> str:
    ends = "" if len(values) == 1 else f" [{min(values):.{digits}f}, {max(values):.{digits}f}]"
    return f"{np.mean(values):.{digits}f}{ends}"


TABLES: tuple[Callable[[], list[str]], ...] = (pm_language,)
