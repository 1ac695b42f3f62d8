"""Tables of `bench/results/reward_models.md`."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..common.tables import named, paragraph, table
from .interval_coverage import CROWD


def convarg(found: Any) -> list[str]:
    messages = "; ".join(found["import"][place].split(";")[0] for place in (0, -1))
    intro = """{topics} topics held out ({pairs} pairs with a majority); seed {options[seed]}; tuned models train on
        {options[votes]} votes in batches of {options[batch]}, one epoch, learning rate {options[learning_rate]},
        {options[max_length]} tokens. Intervals: 95 %, bootstrap over topics."""
    template = """
        | reward | accuracy | log-loss (nats) | ECE | Spearman with gold |
        ---
        | {name} | {accuracy.ci:.3f} | {log_loss.ci:.3f} | {ece.ci:.3f} | {gold_spearman:.3f} |"""
    return [paragraph(f"Import: {messages}. {intro.format_map(found)}"), table(named(found["rows"]), template)]


def real_data(found: Any) -> list[str]:
    intro = """Held out: 30 % of the prompts (of the annotators where there is one prompt). Tuned: MiniLM,
        Plackett-Luce, one epoch over at most {judgments} judgments, learning rate {learning_rate}, {max_length}
        tokens. Accuracy with 95 % intervals over prompts."""
    template = """
        | data | judgments | length | TF-IDF | MiniLM frozen | MiniLM tuned | log-loss, tuned | ECE, tuned |
        ---
        | {name} | {judgments} | {length[accuracy].ci:.3f} | {TF-IDF[accuracy].ci:.3f}
        | {MiniLM frozen[accuracy].ci:.3f} | {MiniLM tuned[accuracy].ci:.3f} | {MiniLM tuned[log_loss].ci:.3f}
        | {MiniLM tuned[ece].ci:.3f} |"""
    imports = [
        f"- {name}: {'; '.join(re.sub(r'; written to .*', '', line) for line in entry['import'])}"
        for name, entry in found["sets"].items()
    ]
    rows = named(found["sets"])
    for row in rows:
        row.setdefault("judgments", f"{row['import'][0].split()[0]} labels, not trained: no ranks")
    return [
        paragraph(intro.format_map(found["options"])), table(rows, template), "Messages of the imports:",
        "\n".join(imports),
    ]  # fmt: skip


def more_sources(found: Any) -> list[str]:
    rows, weights = named(found["rows"]), found["weights"]
    for row in rows:
        if row["name"].endswith("temperature"):
            fitted = [value for value in row["temperature"] if value < 1e6]
            without = len(row["temperature"]) - len(fitted)
            mean = f"{np.mean(fitted):.2f}" if fitted else ""
            row["fitted"] = mean + (f" ({without} without)" if without else "")
        if not row["name"].startswith("MultiTask"):
            row["gaps"] = {"mean": row["mean_less_multitask"], "pooled": row["pooled_less_multitask"]}
    pairs = ", ".join(f"{name} {count}" for name, count in found["pairs"].items())
    intro = """{seeds} seeds; a step of {options[batch]} judgments, {options[train]} of each source,
        {options[epochs]:g} epoch(s) at {options[learning_rate]:g}; test pairs of seed 0: {counts}. Mean cosine of two
        sources' gradients: {cosine:.2f}."""
    metrics = """
        | method | accuracy, mean of five | ECE, mean of five | ECE minus MultiTask's | log-loss, mean of five
        | log-loss minus MultiTask's | ECE, pooled | pooled ECE minus MultiTask's | temperature |
        ---
        | {name} | {sources[mean][0]:.3f} | {sources[mean][2]:.3f} | [{gaps[mean][2]:+.3f}] | {sources[mean][1]:.3f}
        | [{gaps[mean][1]:+.3f}] | {sources[pooled][2]:.3f} | [{gaps[pooled][2]:+.3f}] | {fitted} |"""
    by_source = {name: f"{{sources[{name}][0]:.3f}} / {{sources[{name}][2]:.3f}}" for name in found["pairs"]}
    by_weight = {name: f"{{{name}:.3f}}" for name in weights["MultiTask"]}
    return [
        paragraph(intro.format(counts=pairs, **found)),
        table(rows, metrics),
        table(rows, "\n| accuracy / ECE | ... |\n---\n| {name} | ... |", by_source),
        table(named(weights), "\n| mean weight | ... |\n---\n| {name} | ... |", by_weight),
    ]


def more_conflict(found: Any) -> list[str]:
    places: dict[tuple[str, float], dict[str, Any]] = {}
    for row in found["rows"]:
        place = places.setdefault((row["case"], row["drift"]), {"case": row["case"], "drift": row["drift"]})
        values = [row[key] for key in ("drift_taken", "shared_error", "ece")]
        place.setdefault(row["method"], []).append(values)
    methods = list(dict.fromkeys(row["method"] for row in found["rows"]))
    for place in places.values():
        place |= {method: np.mean(place[method], axis=0).tolist() for method in methods}
    intro = """{seeds} seeds, {pairs} pairs of a source; each cell: drift taken up, error in the other directions, ECE
        (means over the seeds)."""
    cells = {name: f"{{{name}[0]:+.2f}}, {{{name}[1]:.2f}}, {{{name}[2]:.3f}}" for name in methods}
    template = "\n| sources | drift | ... |\n---\n| {case} | {drift:g} | ... |"
    return [paragraph(intro.format_map(found["options"])), table(places.values(), template, cells)]


def more_study(found: Any) -> list[str]:
    rows = []
    for setting in dict.fromkeys(row["setting"] for row in found["rows"]):
        own = {
            method: [row for row in found["rows"] if (row["setting"], row["method"]) == (setting, method)]
            for method in ("uniform", "l2", "none")
        }
        values = {method: np.array([row["mean"] for row in runs])[:, [0, 2]] for method, runs in own.items()}
        row: dict[str, Any] = {"setting": setting, "uniform": values["uniform"].mean(0).tolist()}
        for method in ("l2", "none"):
            gap = values[method] - values["uniform"]
            row[method] = list(zip(gap.mean(0), gap.std(0, ddof=1) / np.sqrt(len(gap)), strict=True))
        row["tempered"] = [np.mean([run["mean, temperature"][2] for run in runs]) for runs in own.values()]
        weights = [run["weights"] for run in own["l2"]]
        rows.append(row | {"weights": [np.mean([weight[name] for weight in weights]) for name in weights[0]]})
    pairs = ", ".join(f"{name} {count}" for name, count in found["pairs"].items())
    intro = f"""{found["options"]["seeds"]} splits; strict pairs: {pairs}. Means over the sources; differences to
        uniform weights: mean and standard error over the splits."""
    template = """
        | setting | uniform: accuracy, ECE | l2 minus uniform: accuracy | l2 minus uniform: ECE
        | none minus uniform: accuracy | none minus uniform: ECE | ECE with temperature: uniform, l2, none
        | l2's weights |
        ---
        | {setting} | {uniform:.3f} | {l2[0][0]:+.3f} ± {l2[0][1]:.3f} | {l2[1][0]:+.3f} ± {l2[1][1]:.3f}
        | {none[0][0]:+.3f} ± {none[0][1]:.3f} | {none[1][0]:+.3f} ± {none[1][1]:.3f} | {tempered:.3f}
        | {weights:.2f} |"""
    return [paragraph(intro), table(rows, template)]


def interval_coverage(found: Any) -> list[str]:
    rows: dict[str, dict[str, Any]] = {}
    for row in found["rows"]:
        rows.setdefault(row["design"], {"design": row["design"]})[row["metric"]] = row["covered"]
    intro = """{simulations} simulated data sets of each design, {replicates} bootstrap draws. Each cell: share of the
        95 % intervals that hold the truth, over prompts alone / over prompts and annotators."""
    metrics = next(iter(rows.values())).keys() - {"design"}
    template = "\n| design | ... |\n---\n| {design} | ... |"
    called = """How often a model that is calibrated on average over prompts and annotators has an `ece_p_value` of .05
        or less; .05 is right. Over prompts alone / over prompts and annotators: {calls}."""
    shown = "; ".join(
        "{called_miscalibrated[prompts]:.2f} / {called_miscalibrated[both]:.2f} ({design})".format_map(row)
        for row in rows.values()
    )
    tables = []
    for keys in (("win_rate", "accuracy", "log_loss", "brier_reliability", "ece_smooth"), CROWD):
        cells = {key: f"{{{key}[prompts]:.2f}} / {{{key}[both]:.2f}}" for key in keys if key in metrics}
        tables.append(table(rows.values(), template, cells))
    return [paragraph(intro.format_map(found["options"])), *tables, paragraph(called.format(calls=shown))]


def more_averages(found: Any) -> list[str]:
    template = """
        | design | method | share of d taken up | distance from theta | ECE | mean accuracy | worst source |
        weight of the third |
        ---
        | {design} | {method} | {taken:.2f} | {rest:.2f} | {ece:.3f} | {accuracy:.3f} | {worst:.3f} | {weight:.2f} |"""
    return [f"{found['options']['seeds']} seeds.", table(found["rows"], template)]


def more_averages_real(found: Any) -> list[str]:
    template = """
        | method | accuracy, mean of five | worst source | log-loss, mean of five | unbiased squared calibration error |
        weight of each source |
        ---
        | {method} | {accuracy:.4f} | {worst:.4f} | {log_loss:.4f} | {ece_squared:+.5f} | {weights:.2f} |"""
    names = [name for name, value in found["rows"][0].items() if isinstance(value, dict)]
    each = "\n| method | ... |\n---\n| {method} | ... |"
    gains = {name: f"{{{name}[log_loss_gain].ci:+.4f}}" for name in names}
    return [
        f"{found['options']['seeds']} seeds. 20 judgments of each source in a step, 160 steps:",
        table(found["rows"], template),
        "Gain in log-loss (nats per pair) of each source over uniform weights, with 95 % intervals over prompts; the "
        "last row is what sharing costs the source, its own model against the shared one:",
        table([row for row in found["rows"] if row["method"] != "uniform"], each, gains),
    ]


def more_averages_minilm(found: Any) -> list[str]:
    return more_averages_real(found)


def ties(found: Any) -> list[str]:
    rows = [
        {
            "source": f"{name.split(',')[0]} ({own['judgments']} judgments, {own['ties']:.0%} ties)",
            "held": f"{own['held_out']} ({own['units']})",
            **row,
        }
        for name, own in found["sources"].items()
        for row in own["rows"]
    ]
    template = """
        | source | held out | row | nu | log-loss of three outcomes | davidson's gain | predicted share of ties |
        accuracy on strict pairs |
        ---
        | {source} | {held} | {row} | {nu:.2f} | {log_loss.ci:.4f} | {davidson_gain.ci:+.4f} | {predicted_ties:.3f}
        | {accuracy.ci:.3f} |"""
    intro = """{seeds} seeds. Log-loss in nats per judgment; the gain is the paired difference to `davidson`; 95 %
        intervals over what is held out and annotators."""
    return [paragraph(intro.format_map(found["options"])), table(rows, template)]


def strengths(found: Any) -> list[str]:
    intro = """{options[seeds]} seeds, {pairs} pairs, {ties:.0%} of equal helpfulness. Accuracy and log-loss (nats) of
        strict pairs; gains over `bradley-terry`, and of the ordered outcome over `constant`; 95 % intervals over
        prompts."""
    template = """
        | row | accuracy | gain | log-loss | gain | log-loss of the ordered outcome | gain |
        ---
        | {row} | {accuracy.ci:.3f} | {accuracy_gain.ci:+.3f} | {log_loss.ci:.4f} | {log_loss_gain.ci:+.4f}
        | {ordered.ci:.4f} | {ordered_gain.ci:+.4f} |"""
    return [paragraph(intro.format_map(found)), table(found["rows"], template)]


TABLES = {
    make.__name__: make
    for make in (
        convarg,
        real_data,
        more_sources,
        more_study,
        more_conflict,
        more_averages,
        more_averages_real,
        more_averages_minilm,
        ties,
        strengths,
        interval_coverage,
    )
}
