"""The tables of predicted crowds for bench/README.md."""

from __future__ import annotations

from collections.abc import Callable

from tables_types import stored

CROWD_COLUMNS = {
    "transport_cost": "transport cost",
    "total_variation": "total variation",
    "log_loss_excess": "log-loss over the votes' entropy",
    "expected_reward_error": "expected-reward error",
    "share_ece": "share ECE",
    "majority_accuracy": "majority accuracy",
    "pair_accuracy": "pairs: accuracy",
    "pair_log_loss": "pairs: log-loss",
}
"""Metrics of the table of crowds, and what they are called there."""

NEED_A_CROWD = {"helpsteer2": ("transport_cost", "total_variation", "expected_reward_error")}
"""Distances to a single vote are least for a sure guess, whatever the crowd: they are left out."""

DIFFERENCES = (
    ("ce", "marginal"),
    ("ot", "marginal"),
    ("energy", "marginal"),
    ("bradley-terry", "marginal"),
    ("ot", "medians"),
    ("majority", "ce"),
    ("w1", "ce"),
    ("ot", "ce"),
    ("energy", "ce"),
    ("bradley-terry", "ce"),
)
"""Rows whose paired differences are told."""


def crowds() -> list[str]:
    found = stored("crowds")
    options, sources = found["options"], found["sources"]
    lines = [
        f"Upper {6 - options['frozen']} of six layers trained, batches of {options['batch']}. Means over seeds.",
        "",
        "| source | held out: items, pairs | learnt from | seeds | learning rate, epochs | votes' entropy |",
        "|---|---|---|---|---|---|",
    ]
    for name, own in sources.items():
        rate, epochs = own["setting"]
        lines.append(
            f"| {name} | {own['test']}, {own['pairs']} | {own['train']} | {own['seeds']} | {rate:g}, {epochs:g} "
            f"| {own['entropy']:.3f} |"
        )
    lines += [
        "",
        f"| source | row | {' | '.join(CROWD_COLUMNS.values())} |",
        "|" + "---|" * (2 + len(CROWD_COLUMNS)),
    ]
    for name, own in sources.items():
        for row, metrics in own["rows"].items():
            cells = ("-" if one is None else f"{one[0]:.3f}" for one in _told(name, metrics))
            lines.append(f"| {name} | {row} | {' | '.join(cells)} |")
    lines += [
        "",
        "Paired differences with 95 % intervals over seeds and items:",
        "",
        f"| source | row - other | {' | '.join(CROWD_COLUMNS.values())} |",
        "|" + "---|" * (2 + len(CROWD_COLUMNS)),
    ]
    for name, own in sources.items():
        for row, other in DIFFERENCES:
            if (metrics := own["to"].get(other, {}).get(row)) is not None:
                cells = map(_difference, _told(name, metrics))
                lines.append(f"| {name} | {row} - {other} | {' | '.join(cells)} |")
    return lines


def _told(name: str, metrics: dict[str, list[float]]) -> list[list[float] | None]:
    """By column: value, low and high; None where there is none."""
    return [None if key in NEED_A_CROWD.get(name, ()) else metrics.get(key) for key in CROWD_COLUMNS]


def _difference(found: list[float] | None) -> str:
    if found is None:
        return "-"
    value, low, high = found
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


def transport_speed() -> list[str]:
    found = stored("transport_speed")
    options = found["options"]
    lines = [
        f"{found['items']} items, torch with {options['threads']} thread(s), POT {found['pot']}; medians of "
        f"{options['repeats']} turns, ratios of neighbours in time. Ours has softmax and gradient.",
        "",
        "| loss | labels | ours, float32, s | ours, float64, s | `emd2` loop, s | ratio, float32 | ratio, float64 "
        "| `wasserstein_1d` with gradient, float64, s | costs differ from `emd2` by at most: float64, float32 |",
        "|" + "---|" * 9,
    ]
    for row in found["rows"]:
        seconds, ratios, apart = row["seconds"], row["ratios"], row["apart"]
        line = f"{seconds['wasserstein_1d']:.4f}" if "wasserstein_1d" in seconds else ""
        lines.append(
            f"| `{row['loss']}` | {row['labels']} | {seconds['float32']:.4f} | {seconds['float64']:.4f} "
            f"| {seconds['emd2']:.2f} | {ratios['float32']:.0f} | {ratios['float64']:.0f} | {line} "
            f"| {apart['float64']:.1e}, {apart['float32']:.1e} |"
        )
    return lines


TABLES: tuple[Callable[[], list[str]], ...] = (
    crowds,
    transport_speed,
)
