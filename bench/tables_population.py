"""The table of the town's answers for bench/README.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tables_types import stored


def pm_population() -> list[str]:
    """Means over seeds; a method that was not run has no row."""
    found = stored("pm_population")
    told = found["settings"]
    by_method: dict[str, list[dict[str, Any]]] = {}
    for key, row in found["rows"].items():
        by_method.setdefault(key.rsplit(", ", 1)[0], []).append(row)
    lines = [
        f"{told['town']['annotators']} people, {told['town']['judgments_per_annotator']} rankings of "
        f"{told['town']['responses']} each, a quarter of the prompts held out; {told['num_train_epochs']} epochs, "
        f"learning rate {told['learning_rate']:g}, beta {told['beta']:g}. {told['prompts']} prompts, "
        f"{told['candidates']} composed answers listed and {told['samples']} answers drawn to each. Means over "
        "seeds; in brackets the least and the largest.",
        "",
        "| policy | seeds | listed: brief, warm, thorough | total variation to the people | minority mass "
        "| said: brief, warm, thorough | entropy of answers, nats |",
        "|" + "---|" * 7,
    ]
    for method, rows in by_method.items():
        said = [row["said"] for row in rows if "said" in row]
        entropies = [one["entropy"] for one in said if "entropy" in one]
        cells = [
            method,
            str(len(rows)),
            *_listed([row["listed"] for row in rows]),
            _shares([one["shares"] for one in said]) if said else "",
            f"{np.mean(entropies):.1f}" if entropies else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
        if by_type := [row["listed_by_type"] for row in rows if "listed_by_type" in row]:
            cells = [f"{method}, a type drawn first", str(len(by_type)), *_listed(by_type), "", ""]
            lines.append("| " + " | ".join(cells) + " |")
    return lines


def _listed(rows: list[dict[str, Any]]) -> list[str]:
    return [
        _shares([row["shares"] for row in rows]),
        _spread([row["total_variation"] for row in rows]),
        _spread([row["minority_mass"] for row in rows]),
    ]


def _shares(rows: list[list[float]]) -> str:
    return ", ".join(f"{value:.2f}" for value in np.mean(rows, axis=0))


def _spread(values: list[float]) -> str:
    ends = "" if len(values) == 1 else f" [{min(values):.3f}, {max(values):.3f}]"
    return f"{np.mean(values):.3f}{ends}"


def pm_polis() -> list[str]:
    """Each conversation's policies over its statements."""
    found = stored("pm_polis")
    told = found["settings"]
    lines = [
        f"Rankings of {told['size']} statements or a few more, a fifth held out; {told['max_steps']} steps of "
        f"{told['per_device_train_batch_size']}, learning rate {told['learning_rate']:g}, "
        f"beta {told['beta']:g}; seed 0.",
        "",
        "| conversation | chooses | share of each group's statements | total variation to the people "
        "| minority mass | the likeliest statement's share | s |",
        "|" + "---|" * 7,
    ]
    for key, row in found["rows"].items():
        place, name, _ = key.split(", ")
        shares = ", ".join(f"{share:.2f}" for share in row["shares"])
        lines.append(
            f"| {place} | {name} | {shares} | {row['total_variation']:.3f} | {row['minority_mass']:.3f} "
            f"| {row['largest']:.3f} | {row.get('seconds', '')} |"
        )
    return lines


TABLES: tuple[Callable[[], list[str]], ...] = (pm_population, pm_polis)
