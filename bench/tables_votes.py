"""The tables of crowd votes and of a step of DPRM for bench/README.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tables_types import stored

MEASURES = ("total_variation", "transport_cost", "coverage")


def _share(value: float) -> str:
    return f"{value:.3f}".lstrip("0") if value < 1 else f"{value:.2f}"


def _signed(ends: list[float]) -> str:
    return "[" + ", ".join(f"{end:+.3f}".replace("0.", ".") for end in ends) + "]"


def _of_measures(row: dict[str, Any], place: int) -> str:
    """Total variation, transport cost and coverage; no coverage where there is no prior."""
    cells = [_share(row[key][place]) for key in MEASURES if row[key][place] == row[key][place]]
    return ", ".join(cells)


def crowd_votes_needed() -> list[str]:
    found = stored("crowd_votes_needed")
    lines = [
        f"Means over {found['options']['seeds']} draws. Each cell: total variation, transport cost, share of "
        "labels in their 95 % credible interval.",
    ]
    for data in found["data"]:
        lines += [
            "",
            f"{data['data']}: {data['items']} items of {data['votes']} votes on {data['labels']} labels; standard "
            f"errors over items at most {data['error']:.3f}; {data['unvoted']:.0%} of all (item, label) unvoted.",
            "",
            "| prior, strength | kappa | " + " | ".join(f"n = {size}" for size in data["sizes"]) + " |",
            "|" + "---|" * (2 + len(data["sizes"])),
        ]
        for name, row in data["rows"].items():
            kappa = " to ".join(f"{value:g}" for value in sorted({row["kappa"][0], row["kappa"][-1]}))
            cells = (_of_measures(row, place) for place in range(len(data["sizes"])))
            lines.append(f"| {name} | {kappa} | {' | '.join(cells)} |")
    return lines


def crowd_votes_drift() -> list[str]:
    found = stored("crowd_votes_drift")
    options, rows = found["options"], found["rows"]
    decays = list(rows[0]["errors"])
    lines = [
        f"{options['items']} items, {options['windows']} windows, 3 labels, {options['seeds']} draws; standard "
        f"errors at most {max(row['standard_error'] for row in rows):.3f}. Cells: total variation, transport cost.",
        "",
        "| opinions change | votes of a window | " + " | ".join(f"decay {float(one):g}" for one in decays) + " |",
        "|" + "---|" * (2 + len(decays)),
    ]
    for row in rows:
        cells = (", ".join(_share(value) for value in row["errors"][decay]) for decay in decays)
        lines.append(f"| {row['change']} | {row['votes']} | {' | '.join(cells)} |")
    return lines


def crowd_votes_groups() -> list[str]:
    found = stored("crowd_votes_groups")
    sizes = [str(size) for size in found["sizes"]]
    told = sizes[2:]
    lines = [
        f"Means over statements and {found['options']['seeds']} draws; total variation of plain and of corrected "
        "shares, and the 95 % interval of the difference (bootstrap over statements). Coverage of the 95 % "
        "credible intervals, plain and corrected.",
        "",
        "| votes drawn | conversation | statements | smaller group | groups apart | "
        + " | ".join(f"n = {size}" for size in sizes)
        + " | "
        + " | ".join(f"coverage, votes that n = {size} is worth" for size in told)
        + " |",
        "|" + "---|" * (5 + len(sizes) + len(told)),
    ]
    for row in found["rows"]:
        cells = [
            f"{_share(cell['plain'][0])}, {_share(cell['corrected'][0])} {_signed(cell['difference'])}"
            for cell in (row["cells"][size] for size in sizes)
        ]
        cells += [
            f"{_share(cell['plain'][2])}, {_share(cell['corrected'][2])}; {cell['worth']:.0f}"
            for cell in (row["cells"][size] for size in told)
        ]
        lines.append(
            f"| {row['sample']} | {row['conversation']} | {row['statements']} | {row['smaller']:.0%} "
            f"| {_share(row['apart'])} | {' | '.join(cells)} |"
        )
    return lines


def dprm_step() -> list[str]:
    found = stored("dprm_step")
    options, rows = found["options"], found["rows"]
    lines = [
        f"{options['pairs']} pairs a step, the same {2 * options['pairs']} responses as items of DPRM; torch with "
        f"{found['threads']} thread(s); medians of {options['repeats']} turns, ratios of neighbours in time with "
        "their quartiles. A step is collation, forward, backward and the optimiser's.",
        "",
        "| model | tokens of a step | objective | labels | seconds | by Bradley-Terry's: clock | processor time "
        "| seconds of collation |",
        "|" + "---|" * 8,
    ]
    for row in rows:
        for kind in row["kinds"]:
            own = " | ".join(
                f"{middle:.3f} [{low:.3f}, {high:.3f}]" for low, middle, high in (kind["clock"], kind["work"])
            )
            lines.append(
                f"| {row['model']} | {row['tokens']} | {kind['name']} | {kind['labels'] or ''} "
                f"| {kind['seconds']:.3f} | {own} | {kind['collation']:.4f} |"
            )
    return lines


TABLES: tuple[Callable[[], list[str]], ...] = (
    crowd_votes_needed,
    crowd_votes_drift,
    crowd_votes_groups,
    dprm_step,
)
