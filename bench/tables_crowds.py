"""The tables of predicted crowds for bench/README.md."""

from __future__ import annotations

from collections.abc import Callable

from tables_types import stored


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


TABLES: tuple[Callable[[], list[str]], ...] = (transport_speed,)
