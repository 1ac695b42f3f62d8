"""The tables of MORE for bench/README.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tables_types import stored

ASIDE = 1e6
"""The temperature that stands for rewards that say nothing."""

METRICS = ("accuracy", "log-loss", "ECE")


def _signed(ends: list[float]) -> str:
    return f"[{ends[0]:+.3f}, {ends[1]:+.3f}]"


def more_sources() -> list[str]:
    found = stored("more_sources")
    rows, options = found["rows"], found["options"]
    sources = list(found["pairs"])
    lines = [
        f"{found['seeds']} seeds; a step of {options['batch']} judgments, {options['train']} of each source, "
        f"{options['epochs']:g} epoch(s) at {options['learning_rate']:g}; test pairs of seed 0: "
        + ", ".join(f"{name} {count}" for name, count in found["pairs"].items())
        + f". Mean cosine of two sources' gradients: {found['cosine']:.2f}.",
        "",
        "| method | accuracy, mean of five | ECE, mean of five | less MultiTask's | log-loss, mean of five "
        "| less MultiTask's | ECE, pooled | less MultiTask's | T |",
        "|" + "---|" * 9,
    ]
    for name, row in rows.items():
        accuracy, loss, ece = row["sources"]["mean"]
        pooled = row["sources"]["pooled"][2]
        between, together = row["mean_less_multitask"], row["pooled_less_multitask"]
        control = name.startswith("MultiTask")
        fitted = [value for value in row["temperature"] if value < ASIDE]
        temperature = f"{np.mean(fitted):.2f}" if name.endswith("temperature") and fitted else ""
        if name.endswith("temperature") and len(fitted) < len(row["temperature"]):
            temperature += f" ({len(row['temperature']) - len(fitted)} without)"
        lines.append(
            f"| {name} | {accuracy:.3f} | {ece:.3f} | {'' if control else _signed(between[2])} | {loss:.3f} "
            f"| {'' if control else _signed(between[1])} | {pooled:.3f} "
            f"| {'' if control else _signed(together[2])} | {temperature} |"
        )
    lines += ["", "| accuracy / ECE | " + " | ".join(sources) + " |", "|" + "---|" * (1 + len(sources))]
    for name, row in rows.items():
        cells = (f"{row['sources'][source][0]:.3f} / {row['sources'][source][2]:.3f}" for source in sources)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| mean weight | " + " | ".join(found["weights"]["MultiTask"]) + " |"]
    lines.append("|" + "---|" * (1 + len(found["weights"]["MultiTask"])))
    for name, weights in found["weights"].items():
        lines.append(f"| {name} | {' | '.join(f'{value:.3f}' for value in weights.values())} |")
    return lines


def more_conflict() -> list[str]:
    found = stored("more_conflict")
    rows: list[dict[str, Any]] = found["rows"]
    methods = list(dict.fromkeys(row["method"] for row in rows))
    lines = [
        f"{found['options']['seeds']} seeds, {found['options']['pairs']} pairs of a source; each cell: drift taken "
        "up, error in the other directions, ECE (means over the seeds).",
        "",
        "| sources | drift | " + " | ".join(methods) + " |",
        "|" + "---|" * (2 + len(methods)),
    ]
    for case in dict.fromkeys(row["case"] for row in rows):
        for drift in dict.fromkeys(row["drift"] for row in rows):
            cells = []
            for method in methods:
                own = [r for r in rows if (r["case"], r["drift"], r["method"]) == (case, drift, method)]
                means = [np.mean([r[key] for r in own]) for key in ("drift_taken", "shared_error", "ece")]
                cells.append(f"{means[0]:+.2f}, {means[1]:.2f}, {means[2]:.3f}")
            lines.append(f"| {case} | {drift:g} | {' | '.join(cells)} |")
    return lines


def more_study() -> list[str]:
    found = stored("more_study")
    rows: list[dict[str, Any]] = found["rows"]
    lines = [
        f"{found['options']['seeds']} splits; strict pairs: "
        + ", ".join(f"{name} {count}" for name, count in found["pairs"].items())
        + ". Means over the sources; differences to uniform weights: mean and standard error over the splits.",
        "",
        "| setting | uniform: accuracy, ECE | l2, less that: accuracy | ECE | none, less uniform: accuracy | ECE "
        "| ECE with temperature: uniform, l2, none | l2's weights |",
        "|" + "---|" * 8,
    ]
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = {
            method: [r for r in rows if (r["setting"], r["method"]) == (setting, method)]
            for method in ("uniform", "l2", "none")
        }
        values = {method: np.array([row["mean"] for row in mine]) for method, mine in own.items()}
        cells = [f"{values['uniform'][:, 0].mean():.3f}, {values['uniform'][:, 2].mean():.3f}"]
        for method in ("l2", "none"):
            gaps = values[method] - values["uniform"]
            error = gaps.std(0, ddof=1) / np.sqrt(len(gaps))
            cells += [f"{gaps[:, place].mean():+.3f} ± {error[place]:.3f}" for place in (0, 2)]
        cells.append(", ".join(f"{np.mean([r['mean, temperature'][2] for r in mine]):.3f}" for mine in own.values()))
        weights = [row["weights"] for row in own["l2"]]
        cells.append(", ".join(f"{np.mean([w[name] for w in weights]):.2f}" for name in weights[0]))
        lines.append(f"| {setting} | {' | '.join(cells)} |")
    return lines


def more_cost() -> list[str]:
    lines = [
        "| sources | judgments of a step | micro-batches | uniform weights, s | MORE / uniform | plain / uniform "
        "| peak memory: plain, uniform, MORE, MiB |",
        "|" + "---|" * 7,
    ]
    for row in stored("more_cost")["rows"]:
        peaks = ", ".join(f"{row['peak'][kind]:.0f}" for kind in ("plain", "uniform", "more"))
        lines.append(
            f"| {row['sources']} | {row['batch']} | {row['parts']} | {row['seconds']['uniform']:.2f} "
            f"| {row['ratios']['more']:.3f} | {row['ratios']['plain']:.3f} | {peaks} |"
        )
    return lines


TABLES: tuple[Callable[[], list[str]], ...] = (more_sources, more_study, more_conflict, more_cost)
