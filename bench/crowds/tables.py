"""Tables of `bench/results/crowds.md`."""

from __future__ import annotations

from typing import Any

from ..common.tables import between, named, paragraph, table

METRICS = {
    "transport_cost": "transport cost", "total_variation": "total variation",
    "log_loss_excess": "log-loss above the votes' entropy", "expected_reward_error": "expected-reward error",
    "share_ece": "share ECE", "majority_accuracy": "majority accuracy", "pair_accuracy": "pairs: accuracy",
    "pair_log_loss": "pairs: log-loss",
}  # fmt: skip
NEED_A_CROWD = {"helpsteer2": ("transport_cost", "total_variation", "expected_reward_error")}
"""Distances to a single vote are smallest for an over-confident guess, whatever the crowd: they are left out."""

DIFFERENCES = {
    "marginal": ("logistic", "ce", "ot", "energy", "paper", "bradley-terry"),
    "logistic": ("ce", "ot", "energy", "paper"),
    "ce": ("majority", "ot", "energy", "paper"),
}
"""Rows whose paired differences to another row are shown."""


def crowds(found: Any) -> list[str]:
    options, sources = found["options"], found["sources"]

    def shown(source: str, row: str, metrics: dict[str, list[float]], signed: bool) -> dict[str, str]:
        cells = {"source": source, "row": row}
        for key in METRICS:
            values = None if key in NEED_A_CROWD.get(source, ()) else metrics.get(key)
            cells[key] = "-" if values is None else between(*values, "+.3f") if signed else f"{values[0]:.3f}"
        return cells

    rows = [shown(name, row, metrics, False) for name, own in sources.items() for row, metrics in own["rows"].items()]
    gaps = [
        shown(name, f"{row} - {other}", own["to"][other][row], True)
        for name, own in sources.items()
        for other, compared in DIFFERENCES.items()
        for row in compared
        if row in own["to"].get(other, {})
    ]
    settings = """
        | source | held out: items, pairs | training items | seeds | learning rate, epochs | votes' entropy |
        ---
        | {name} | {test}, {pairs} | {train} | {seeds} | {setting[0]:g}, {setting[1]:g} | {entropy:.3f} |"""
    metrics = {name: f"{{{key}}}" for key, name in METRICS.items()}
    upper = f"Upper {6 - options['frozen']} of six layers trained"
    trained = "LoRA of rank 8" if options.get("model") == "smollm2" else upper
    return [
        f"{trained}, batches of {options['batch']}. Means over seeds.",
        table(named(sources), settings),
        table(rows, "\n| source | row | ... |\n---\n| {source} | {row} | ... |", metrics),
        "Paired differences with 95 % intervals over seeds and items:",
        table(gaps, "\n| source | row - other | ... |\n---\n| {source} | {row} | ... |", metrics),
    ]


def _share(value: float) -> str:
    return f"{value:.3f}".lstrip("0") if value < 1 else f"{value:.2f}"


def _shares(values: Any) -> str:
    """Shares without a leading 0; NaN is left out."""
    return ", ".join(_share(value) for value in values if value == value)


def crowd_defaults(found: Any) -> list[str]:
    rows = [
        {"source": f"{name} ({own['train']} training items)", **row}
        for name, own in found["sources"].items()
        for row in own["rows"]
    ]
    template = """
        | source | row | log-loss | gain over the marginal | transport cost | tuning gain |
        ---
        | {source} | {row} | {log_loss:.4f} | {log_loss_over_marginal.ci:+.4f} | {transport_cost:.4f}
        | {tuning_gain:+.4f} |"""
    intro = """{seeds} seeds. Log-loss in nats per vote, mean over items; the gain is positive where a row is better,
        with its 95 % interval over prompts, paired item by item."""
    return [paragraph(intro.format_map(found["options"])), table(rows, template)]


def crowd_budget(found: Any) -> list[str]:
    intro = """{seeds} draws. Log-loss in nats per vote, mean over held-out items with all of their votes; the gain is
        over the marginal of the same votes, with its 95 % interval over prompts."""
    template = """
        | source | items x votes | marginal | logistic | energy | gain of energy over the marginal |
        ---
        | {source} | {items} x {votes} | {rows[marginal][log_loss]:.4f} | {rows[logistic][log_loss]:.4f}
        | {rows[energy][log_loss]:.4f} | {rows[energy][log_loss_over_marginal].ci:+.4f} |"""
    return [paragraph(intro.format_map(found["options"])), table(found["cells"], template)]


def crowd_groups(found: Any) -> list[str]:
    intro = """{seeds} seeds. Log-loss in nats per vote, mean over held-out cells (question, group); gains are positive
        where a row is better, with 95 % intervals over questions, paired cell by cell."""
    rows = [
        {"split": f"{kind} ({own['cells']} cells, {own['questions']} questions)", **row}
        for kind, own in found["splits"].items()
        for row in own["rows"]
    ]
    for row in rows:
        for base in ("marginal", "group marginal", "logistic", "head"):
            for end in ("", "_low", "_high"):
                row[f"over_{base.replace(' ', '_')}{end}"] = row[f"over_{base}{end}"]
    template = """
        | held out | row | log-loss | gain over the marginal | over the group marginal | over logistic | over head |
        ---
        | {split} | {row} | {log_loss:.4f} | {over_marginal.ci:+.4f} | {over_group_marginal.ci:+.4f}
        | {over_logistic.ci:+.4f} | {over_head.ci:+.4f} |"""
    return [paragraph(intro.format_map(found["options"])), table(rows, template)]


def dprm_policies(found: Any) -> list[str]:
    intro = """{seeds} seeds, {options[prompts]} held-out prompts of each, {options[draws]} responses drawn;
        best of {options[n]}, {options[epochs]:g} epochs of every training. Percent of `helpful+harmless`; gains over
        the reference with 95 % intervals over prompts."""
    template = """
        | reward | own model: reference | tuned | gain | second scorer: reference | tuned | gain |
        ---
        | {row} | {own_reference:.2f} | {own:.2f} | {own_gain.ci:+.2f} | {scorer_reference:.2f} | {scorer:.2f}
        | {scorer_gain.ci:+.2f} |"""
    options = found["options"]
    return [paragraph(intro.format(options=options, seeds=len(options["seeds"]))), table(found["rows"], template)]


def crowd_votes_needed(found: Any) -> list[str]:
    intro = """Means over {seeds} draws. Each cell: total variation, transport cost, fraction of labels in their 95 %
        credible interval."""
    blocks = [paragraph(intro.format_map(found["options"]))]
    about = """{data}: {items} items of {votes} votes on {labels} labels; standard errors over items at most
        {error:.3f}; {unvoted:.0%} of all (item, label) without a vote."""
    for data in found["data"]:
        rows = named(data["rows"])
        for row in rows:
            row["kappa"] = " to ".join(f"{value:g}" for value in sorted({row["kappa"][0], row["kappa"][-1]}))
            measures = zip(row["total_variation"], row["transport_cost"], row["coverage"], strict=True)
            row |= {f"n = {size}": _shares(cell) for size, cell in zip(data["sizes"], measures, strict=True)}
        columns = {f"n = {size}": f"{{n = {size}}}" for size in data["sizes"]}
        template = "\n| prior, strength | kappa | ... |\n---\n| {name} | {kappa} | ... |"
        blocks += [paragraph(about.format_map(data)), table(rows, template, columns)]
    return blocks


def crowd_votes_drift(found: Any) -> list[str]:
    intro = """{items} items, {windows} windows, 3 labels, {seeds} draws; standard errors at most {error:.3f}. Cells:
        total variation, transport cost."""
    error = max(row["standard_error"] for row in found["rows"])
    rows = [
        row | {f"decay {float(decay):g}": _shares(values) for decay, values in row["errors"].items()}
        for row in found["rows"]
    ]
    # A point in a field's name would be read as an attribute.
    names = [name for name in rows[0] if name.startswith("decay")]
    rows = [row | {name.replace(".", "_"): row[name] for name in names} for row in rows]
    template = "\n| opinions change | votes of a window | ... |\n---\n| {change} | {votes} | ... |"
    columns = {name: f"{{{name.replace('.', '_')}}}" for name in names}
    return [paragraph(intro.format(error=error, **found["options"])), table(rows, template, columns)]


def crowd_votes_groups(found: Any) -> list[str]:
    sizes = [str(size) for size in found["sizes"]]
    rows = []
    for row in found["rows"]:
        cells = {}
        for size in sizes:
            own = row["cells"][size]
            plain, corrected = own["plain"], own["corrected"]
            ends = ", ".join(f"{end:+.3f}".replace("0.", ".") for end in own["difference"])
            cells[f"n = {size}"] = f"{_share(plain[0])}, {_share(corrected[0])} [{ends}]"
            cells[f"coverage {size}"] = f"{_share(plain[2])}, {_share(corrected[2])}; {own['worth']:.0f}"
        rows.append(row | cells | {"apart": _share(row["apart"])})
    intro = f"""Means over statements and {found["options"]["seeds"]} draws; total variation of plain and of corrected
        shares, and the 95 % interval of the difference (bootstrap over statements). Coverage of the 95 % credible
        intervals, plain and corrected."""
    template = """
        | votes drawn | conversation | statements | smaller group | groups apart | ... |
        ---
        | {sample} | {conversation} | {statements} | {smaller:.0%} | {apart} | ... |"""
    columns = {f"n = {size}": f"{{n = {size}}}" for size in sizes}
    columns |= {f"coverage, effective votes at n = {size}": f"{{coverage {size}}}" for size in sizes[2:]}
    return [paragraph(intro), table(rows, template, columns)]


TABLES = {
    make.__name__: make
    for make in (
        crowds,
        crowd_defaults,
        crowd_budget,
        crowd_groups,
        dprm_policies,
        crowd_votes_needed,
        crowd_votes_drift,
        crowd_votes_groups,
    )
}
