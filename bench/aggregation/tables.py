"""Tables of `bench/results/aggregation.md`."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ..common.tables import between, named, paragraph, table

ORDER = [
    "base", "own type's", "population", "utilitarian", "max-min-reward", "mixture", "merge", "pooled", "best-of",
    "best-of-distilled", "best-of, base, weighted", "best-of, base, smallest",
    "best-of, base, weighted percentiles", "best-of, base, true utilities",
]  # fmt: skip


def aggregation_town(found: Any) -> list[str]:
    settings, seeds = found["settings"], found["rows"]
    intro = """{town[annotators]} annotators of three types, {town[judgments_per_annotator]} rankings of
        {town[responses]} each; {candidates} candidates, {trials} trials, {samples} responses of each policy to every
        held-out prompt. Worst-off type: the smallest win rate against the base over the three types, with a 95 %
        interval over prompts; "all seeds" is the mean of each type's rate over seeds, brief / warm / thorough."""
    runs = """
        | seed | types | identification | right type | tuning prompts | prompts | best by the judges
        | best-of draws from |
        ---
        | {name} | {types} | {verdict} | {type_accuracy:.2f} | {tuning_prompts} | {prompts} | {winner} | {drawn_by} |"""
    shares = """
        | weights of the types, seed | mixture | merge | pooled | best-of |
        ---
        | {seed} | {mixture} | {merge} | {pooled} | {best_of} |"""
    rows: list[dict[str, Any]] = []
    for name in ORDER:
        row: dict[str, Any] = {"policy": name}
        for seed, run in seeds.items():
            for kind in ("true", "judged"):
                if rate := run[kind].get(name):
                    row[f"{kind} {seed}"] = between(rate["value"], rate["low"], rate["high"], ".2f")
        rates = [run["true"][name]["types"] for run in seeds.values() if name in run["true"]]
        if rates:
            row["all"] = " / ".join(f"{fmean(values):.2f}" for values in zip(*rates, strict=True))
        rows.append(row)
    columns = {f"true, seed {seed}": f"{{true {seed}}}" for seed in seeds} | {"true, all seeds": "{all}"}
    columns |= {f"judged, seed {seed}": f"{{judged {seed}}}" for seed in seeds}
    weights = [
        {
            "seed": seed,
            **{
                kind: " / ".join(f"{run['weights'][f'{kind}_weights/type={place}']:.2f}" for place in (1, 2, 3))
                for kind in ("mixture", "merge", "pooled", "best_of")
                if f"{kind}_weights/type=3" in run["weights"]
            },
        }
        for seed, run in seeds.items()
    ]
    return [
        paragraph(intro.format_map(settings)),
        table(named(seeds), runs),
        table(rows, "\n| policy | ... |\n---\n| {policy} | ... |", columns),
        table(weights, shares),
    ]


TABLES = {"aggregation_town": aggregation_town}
