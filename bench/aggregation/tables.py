"""Tables of `bench/results/aggregation.md`."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ..common.tables import named, paragraph, table

ORDER = [
    "base", "own type's", "population", "utilitarian", "max-min-reward", "mixture", "merge", "pooled", "best-of",
    "best-of-distilled", "best-of, weighted", "best-of, smallest", "best-of, weighted percentiles",
    "best-of, true utilities",
]  # fmt: skip


def aggregation_town(found: Any) -> list[str]:
    settings, seeds = found["settings"], found["rows"]
    intro = """{town[annotators]} annotators of three types, {town[judgments_per_annotator]} rankings of
        {town[responses]} each; {candidates} candidates, {trials} trials, {samples} responses of each policy to every
        held-out prompt; {count} seeds, each a town of its own. Worst-off type: the smallest win rate against the base
        over the three types, mean [lowest, highest] over seeds; then, how many seeds have its 95 %
        interval over prompts above one half, and in how many every type likes the policy better than the mixture."""
    runs = """
        | seed | types | identification | right type | tuning prompts | prompts | best by the judges | mixture | merge
        | pooled | best-of |
        ---
        | {name} | {types} | {verdict} | {type_accuracy:.2f} | {tuning_prompts} | {prompts} | {winner} | {mixture:.2f}
        | {merge:.2f} | {pooled:.2f} | {best_of:.2f} |"""
    rows: list[dict[str, Any]] = []
    for name in ORDER:
        taken = [run for run in seeds.values() if name in run["true"]]
        true = [run["true"][name] for run in taken]
        kinds = zip(*(rate["types"] for rate in true), strict=True)
        rows.append({
            "policy": name,
            "worst": [rate["value"] for rate in true],
            "each": ", ".join(f"{rate['value']:.2f}" for rate in true),
            "above": f"{sum(rate['low'] > 0.5 for rate in true)} of {len(true)}",
            "better": f"{sum(_all_better(run, name) for run in taken)} of {len(true)}",
            "types": " / ".join(f"{fmean(values):.2f}" for values in kinds),
            "judged": [run["judged"][name]["value"] for run in taken if name in run["judged"]],
        })  # fmt: skip
    template = """
        | policy | worst-off type | in each seed | above one half | better than the mixture for all
        | brief / warm / thorough | worst-off type by the judges |
        ---
        | {policy} | {worst:mean .3f} | {each} | {above} | {better} | {types} | {judged:mean .3f} |"""
    weights = [
        run | {
            kind: [run["weights"][f"{kind}_weights/type={place + 1}"] for place in range(run["types"])]
            for kind in ("mixture", "merge", "pooled", "best_of")
        }
        for run in named(seeds)
    ]  # fmt: skip
    return [
        paragraph(intro.format(count=len(seeds), **settings)),
        table(rows, template),
        paragraph("What was found, and the weights of the types:"),
        table(weights, runs),
    ]


def _all_better(run: dict[str, Any], name: str) -> bool:
    """Whether every true type likes a policy better than the mixture."""
    true = run["true"]
    return all(own > other for own, other in zip(true[name]["types"], true["mixture"]["types"], strict=True))


TABLES = {"aggregation_town": aggregation_town}
