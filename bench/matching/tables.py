"""Tables of `bench/results/matching.md`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..common.results import stored
from ..common.tables import paragraph, table


def _penalty(row: dict[str, Any]) -> str:
    """The mode and, of `conditional`, threshold and gate."""
    return f"conditional, {row['alpha']:g}, {row['gate']}" if row["mode"] == "conditional" else row["mode"]


def matching_exact(found: Any) -> list[str]:
    intro = """{steps} steps of {batch} responses, learning rate {learning_rate:g} falling to 0, seed {seed}."""
    rows = [row | {"penalty": _penalty(row), "percent": 100 * row["inside"]} for row in found["rows"]]
    template = """
        | responses | mode | beta | tokens inside | TV at the start | TV | smallest probability of the optimum
        | largest error of log-odds | s |
        ---
        | {tree} | {penalty} | {beta:g} | {percent:.0f} % | {start:.3f} | {total_variation:.1e} | {least:.4f}
        | {log_odds:.1e} | {seconds:.0f} |"""
    return [intro.format_map(found["options"]), table(rows, template)]


def matching_offline(found: Any) -> list[str]:
    intro = """{steps} steps of all rankings, learning rate {learning_rate:g} falling to 0, seed {seed}."""
    rows = []
    for row in found["rows"]:
        every = row["judged"] == row["responses"]
        mass = "all" if every else ", ".join(f"{value:.3f}" for value in row["mass"])
        over_all = "" if every else f"{row['everywhere']:.3f}"
        rows.append(row | {"penalty": _penalty(row), "mass": mass, "over_all": over_all})
    template = """
        | tree | judged | rankings | mode | beta | TV at the start | TV | largest error of log-odds
        | mass of the judged: start, end, optimum | TV over all | s |
        ---
        | {tree} | {judged} of {responses} | {rankings} of {shown} | {penalty} | {beta:g} | {start:.3f}
        | {total_variation:.1e} | {log_odds:.1e} | {mass} | {over_all} | {seconds:.0f} |"""
    return [intro.format_map(found["options"]), table(rows, template)]


def matching_first_loss(found: Any) -> list[str]:
    intro = """{pairs} held-out pairs of HH, at most {options[max_length]} tokens; responses of {tokens[median]:.0f}
        tokens in the median, {tokens[cut]} of them truncated; beta 1."""
    template = """
        | mode | first loss, nats | median difference of two rewards, nats | longer response behind |
        ---
        | {penalty} | {loss:.2f} | {margin:.1f} | {longer_behind:.0%} |"""
    rows = [row | {"penalty": _penalty(row)} for row in found["rows"]]
    return [paragraph(intro.format_map(found)), table(rows, template)]


def pm_population(found: Any) -> list[str]:
    by_method: dict[str, dict[str, list[Any]]] = {}

    def note(method: str, listed: dict[str, Any]) -> dict[str, list[Any]]:
        row = by_method.setdefault(method, {"listed": [], "total_variation": [], "minority_mass": []})
        row["listed"].append(listed["shares"])
        for key in ("total_variation", "minority_mass"):
            row[key].append(listed[key])
        return row

    for key, row in found["rows"].items():
        method = key.rsplit(", ", 1)[0]
        own = note(method, row["listed"])
        if "said" in row:
            own.setdefault("sampled", []).append(row["said"]["shares"])
        if "entropy" in row.get("said", {}):
            own.setdefault("entropy", []).append(row["said"]["entropy"])
        if "listed_by_type" in row:
            note(f"{method}, a type drawn first", row["listed_by_type"])
    rows = [
        {"method": method, "seeds": len(row["listed"])}
        | {key: np.mean(row[key], axis=0).tolist() for key in ("listed", "sampled", "entropy") if key in row}
        | {key: row[key] for key in ("total_variation", "minority_mass")}
        for method, row in by_method.items()
    ]
    intro = """{town[annotators]} annotators, {town[judgments_per_annotator]} rankings of {town[responses]} each, a
        quarter of the prompts held out; {num_train_epochs} epochs, learning rate {learning_rate:g}, beta {beta:g}.
        {prompts} prompts, {candidates} composed responses listed and {samples} responses sampled for each. Means over
        seeds; lowest and highest in brackets."""
    template = """
        | policy | seeds | listed: brief, warm, thorough | total variation to the population | minority mass
        | sampled: brief, warm, thorough | entropy of responses, nats |
        ---
        | {method} | {seeds} | {listed:.2f} | {total_variation:seeds .3f} | {minority_mass:seeds .3f} | {sampled:.2f}
        | {entropy:.1f} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template)]


def pm_polis(found: Any) -> list[str]:
    intro = """Rankings of {size} statements or a few more, a fifth held out; {max_steps} steps of
        {per_device_train_batch_size}, learning rate {learning_rate:g}, beta {beta:g}; seed 0."""
    rows = [
        row | dict(zip(("conversation", "name"), key.split(", "), strict=False)) for key, row in found["rows"].items()
    ]
    template = """
        | conversation | who chooses | share of each group's statements | total variation to the annotators
        | minority mass | share of the most probable statement | s |
        ---
        | {conversation} | {name} | {shares:.2f} | {total_variation:.3f} | {minority_mass:.3f} | {largest:.3f}
        | {seconds} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template)]


def pm_language(found: Any) -> list[str]:
    reward, options = stored("pm_language_reward"), found[-1]["options"]
    modes = {"kl": "KL", "pm": "plain", "conditional": "conditional"}
    by_cell: dict[tuple[Any, ...], list[dict[str, float]]] = {}
    for result in found:
        cell = result["cell"]
        mode = list(modes).index(cell.get("mode", "kl"))
        key = (cell["how"] != "reference", -cell.get("beta", 0.0), cell["how"] == "offline", mode, cell.get("alpha", 0))
        by_cell.setdefault(key, []).append(result["metrics"])
    rows = []
    for (tuned, beta, is_offline, mode, alpha), metrics in sorted(by_cell.items()):
        kind = list(modes.values())[mode] + (f", {alpha:g}" if alpha else "")
        name = f"{'offline' if is_offline else 'online'}, {kind}" if tuned else "not (the reference)"
        values = {key: [run[key] for run in metrics] for key in metrics[0]}
        rows.append(values | {"name": name, "beta": f"{-beta:g}" if tuned else "", "seeds": len(metrics)})
    intro = """Reward: accuracy {accuracy:.3f}, log-loss {log_loss:.3f} on held-out pairs, then divided by
        {temperature:.2f}. Online: {steps} steps of {batch} responses, learning rate {online_rate:g}; offline: {pairs}
        pairs, once, {offline_rate:g}. {asked} held-out prompts, two responses each. Means over seeds; lowest and
        highest in brackets."""
    template = """
        | tuned | beta | seeds | PM divergence | Jensen-Shannon of pairs | minority mass | reward
        | entropy, nats a token | perplexity under the reference | distinct 2-grams | truncated |
        ---
        | {name} | {beta} | {seeds} | {pm_divergence:seeds .0f} | {pair_js:seeds .3f} | {minority_mass:seeds .2f}
        | {mean_reward/policy:seeds .2f} | {entropy_per_token:seeds .2f} | {reference_perplexity:seeds .0f}
        | {distinct_2:seeds .2f} | {unfinished:seeds .2f} |"""
    return [paragraph(intro.format(**reward, **options)), table(rows, template)]


_MAKERS = (matching_exact, matching_offline, matching_first_loss, pm_population, pm_polis, pm_language)
TABLES = {make.__name__: make for make in _MAKERS}
