"""Several runs beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pluralign.reports.page import Banner, Block, Figure, Figures, Section, Table, render
from pluralign.reports.rows import Point, Row, forest
from pluralign.reports.runs import METRICS, Run, describe, of_one, run_sections
from pluralign.reports.texts import interval, number, quoted, text_of

_UNBOUNDED = ("log_loss", "transport_cost", "pm_divergence")
_LOWER_IS_BETTER = ("log_loss", "ece", "total_variation", "transport_cost", "pm_divergence")
_BY_REWARD = ("win_rate", "pm_divergence", "minority_mass/on=reference")
"""Keys without an upper bound, keys of which less is better, keys that depend on a reward model that judged."""


def runs_page(runs: Sequence[Run]) -> str:
    """The HTML page of one run, or of several with a comparison at the top.

    Args:
        runs: what the folders hold; names are distinct.

    Returns:
        one self-contained page; the same arguments give the same bytes.

    Examples:
        >>> page = runs_page([Run("a", {"accuracy": 0.7}), Run("b", {"accuracy": 0.6})])
        >>> "Comparison" in page, "Everything stored" in page
        (True, True)
    """
    if len(runs) == 1:
        return render(runs[0].name, "", run_sections(runs[0]))
    compared = _comparison(runs)
    sections = [Section("Comparison", compared, "Which run does better, and is the difference more than chance?")]
    names = ", ".join(run.name for run in runs)
    return render(f"{len(runs)} runs", names, [*(sections if compared else []), *(of_one(run) for run in runs)])


def _comparison(runs: Sequence[Run]) -> list[Block]:
    """A forest plot for each metric that two or more runs have, and all of them in a table."""
    figures, keys = [], []
    measured = [run for run in runs if any(run.value(key) is not None for key in ("accuracy", "total_variation"))]
    judged = {tuple(sorted(_judged_on(run))) for run in measured}
    for key, (title, axis, reference, words) in METRICS.items():
        having = [run for run in runs if run.value(key) is not None]
        if having:
            keys.append(key)
        if len(having) > 1:
            rows = [
                Row(run.name, [Point(run.value(key), run.value(f"{key}_low"), run.value(f"{key}_high"))])
                for run in having
            ]
            drawn = forest(rows, f"{title} of each run with its interval.", x_label=axis, reference=reference,
                           bounds=(0.0, math.inf if key in _UNBOUNDED else 1.0))  # fmt: skip
            best = _reading(key, having) if len(judged) < 2 else ""
            if key in _BY_REWARD and len({text_of(run.config.get("reward")) for run in having}) > 1:
                best = "Different reward models judged them, so that their numbers are not to be compared."
            figures.append(Figure(title, drawn, f"{best} {words[0].upper()}{words[1:]}.".strip()))
    if not figures:
        return []
    blocks: list[Block] = []
    if len(judged) > 1:
        blocks.append(
            Banner(
                "careful",
                "Mind",
                "Not judged on the same data",
                ["These runs were evaluated on different judgments: do not compare their numbers as they stand."],
            )
        )
    blocks.append(Figures(figures))
    cells = [
        [run.name, *(interval(run.value(key), run.value(f"{key}_low"), run.value(f"{key}_high")) for key in keys)]
        for run in runs
    ]
    blocks.append(Table("The numbers", ["run", *(METRICS[key][0] for key in keys)], cells))
    blocks.append(Table("What they are", ["run", "what"], [[run.name, describe(run)] for run in runs], folded=True))
    return blocks


def _judged_on(run: Run) -> list[str]:
    """Fingerprints of the files that a run was judged on, or its counts where there are none."""
    files = run.config.get("files") or run.config.get("eval_files") or []
    inputs = run.environment.get("inputs") or {}
    found = [inputs.get(file) for file in files] if isinstance(inputs, dict) and isinstance(files, list) else []
    if found and all(isinstance(one, str) for one in found):
        return [str(one) for one in found]
    return [f"{key} {number(run.value(key))}" for key in ("judgments", "prompts", "pairs")]


def _reading(key: str, runs: Sequence[Run]) -> str:
    """Which run is best, and whether its interval stands clear of the next one's."""
    lower_is_better = key in _LOWER_IS_BETTER
    ordered = sorted(runs, key=lambda run: run.value(key) or 0.0, reverse=not lower_is_better)
    best, second = ordered[:2]
    if best.value(key) == second.value(key):
        return f"{quoted(best.name)} and {quoted(second.name)} are level."
    said = f"{quoted(best.name)} does best."
    inner = best.value(f"{key}_high" if lower_is_better else f"{key}_low")
    outer = second.value(f"{key}_low" if lower_is_better else f"{key}_high")
    if inner is None or outer is None:
        return said
    apart = inner < outer if lower_is_better else inner > outer
    clear = "stands clear of" if apart else "overlaps with"
    return f"{said} Its interval {clear} that of {quoted(second.name)}, the next."
