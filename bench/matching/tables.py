"""Tables of `bench/results/matching.md`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..common.results import stored
from ..common.tables import interval, paragraph, table


def _penalty(row: dict[str, Any]) -> str:
    """The mode and its own settings."""
    if row["mode"] in ("flattened", "conditional"):
        return f"{row['mode']}, {row['alpha']:g}, {row['gate']}"
    return f"tempered, {row['reference_weight']:g}" if row["mode"] == "tempered" else str(row["mode"])


def matching_lengths(found: Any) -> list[str]:
    template = """
        | reference | mode | weights of a step | mean length | cut at the limit | perplexity of words |
        ---
        | {reference} | {penalty} | {step:.3g} | {length:.2f} | {cut:.0%} | {perplexity:.4g} |"""
    rows = [row | {"penalty": _penalty(row).removesuffix(", token")} for row in found["rows"]]
    return [table(rows, template)]


def matching_alpha(found: Any) -> list[str]:
    cells = {tuple(key.split(", ")): row for key, row in found["rows"].items()}
    towns = sorted({place for place, _ in cells if place != "exact"})
    rows = []
    for (place, alpha), exact in cells.items():
        if place == "exact":
            own = [(town, cells[town, alpha]["said"]) for town in towns if (town, alpha) in cells]
            base = [cells[town, "reference"]["said"]["perplexity"] for town, _ in own]
            said = ", ".join(interval(row, "total_variation", 2) for _, row in own)
            fluency = [row["perplexity"] / other for (_, row), other in zip(own, base, strict=True)]
            rows.append(exact | {"said": said, "town": fluency})
    template = """
        | alpha | trees: distance to the people | trees: perplexity | zipf: perplexity | town: distance of what is said
        | town: perplexity |
        ---
        | {alpha:g} | {distance:.3f} | {tree:.2f} | {zipf:.2f} | {said} | {town:.2f} |"""
    intro = f"""{", ".join(towns)}: as in `pm_population`. Perplexities are multiples of the reference's; brackets are
        95 % intervals over prompts, without the noise of drawing."""
    return [paragraph(intro), table(rows, template)]


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
    for row in found["rows"].values():
        every = row["judged"] == row["responses"]
        mass = "all" if every else ", ".join(f"{value:.3f}" for value in row["mass"])
        over_all = "" if every else f"{row['everywhere']:.3f}"
        rows.append({"length": []} | row | {"penalty": _penalty(row), "mass": mass, "over_all": over_all})
    template = """
        | tree | judged | rankings | mode | beta | TV at the start | TV | largest error of log-odds
        | mass of the judged: start, end, optimum | TV over all | mean length: start, end, optimum | s |
        ---
        | {tree} | {judged} of {responses} | {rankings} of {shown} | {penalty} | {beta:g} | {start:.3f}
        | {total_variation:.1e} | {log_odds:.1e} | {mass} | {over_all} | {length:.2f} | {seconds:.0f} |"""
    return [intro.format_map(found["settings"]), table(rows, template)]


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

    def note(method: str, values: dict[str, Any]) -> None:
        row = by_method.setdefault(method, {})
        for key, value in values.items():
            row.setdefault(key, []).append(value)

    for key, row in found["rows"].items():
        method = key.rsplit(", ", 1)[0]
        said = {f"said_{name}": value for name, value in row.get("said", {}).items()}
        note(method, said | {f"listed_{name}": value for name, value in row.get("listed", {}).items()})
        if "listed_by_type" in row:
            drawn = {f"listed_{name}": value for name, value in row["listed_by_type"].items()}
            note(f"{method}, a type drawn first", drawn)
    rows = [
        {"method": method, "seeds": max(len(values) for values in row.values())}
        | {key: np.mean(values, axis=0).tolist() if key.endswith("shares") else values for key, values in row.items()}
        for method, row in by_method.items()
    ]
    intro = """{town[annotators]} annotators, {town[judgments_per_annotator]} rankings of {town[responses]} each, a
        quarter of the prompts held out; {num_train_epochs} epochs, learning rate {learning_rate:g}, beta {beta:g}.
        {prompts} prompts, {samples} responses sampled and {candidates} composed responses listed for each. Means over
        seeds. Of total variations of what is sampled, brackets are each seed's 95 % interval over prompts, without the
        noise of drawing; of the others the lowest and highest seed."""
    said = """
        | policy | seeds | sampled: brief, warm, thorough | total variation to the population | tokens | unfinished
        | perplexity under the base |
        ---
        | {method} | {seeds} | {said_shares:.2f} | {said_distance} | {said_mean_length:seeds .0f}
        | {said_unfinished:seeds .2f} | {said_perplexity:seeds .2f} |"""
    listed = """
        | policy | listed: brief, warm, thorough | total variation to the population | minority mass |
        ---
        | {method} | {listed_shares:.2f} | {listed_total_variation:seeds .2f} | {listed_minority_mass:seeds .2f} |"""
    spoken = [row | {"said_distance": _distances(row)} for row in rows if "said_shares" in row]
    on_lists = [row for row in rows if "listed_shares" in row]
    return [paragraph(intro.format_map(found["settings"])), table(spoken, said), table(on_lists, listed)]


def _distances(row: dict[str, Any]) -> str:
    """The mean distance over seeds, and each seed's interval."""
    values, low, high = (row.get(f"said_total_variation{end}", []) for end in ("", "_low", "_high"))
    ends = ", ".join(f"[{one:.2f}, {other:.2f}]" for one, other in zip(low, high, strict=True))
    return f"{np.mean(values):.2f} {ends}" if values else ""


def pm_polis(found: Any) -> list[str]:
    intro = """Rankings of {size} statements or a few more, a fifth of them held out, and a fifth of the statements;
        {max_steps} steps of {per_device_train_batch_size}, learning rate {learning_rate:g}, beta {beta:g}. Means over
        seeds. A gain is the total variation of all alike minus the policy's, with a 95 % interval over annotators, its
        ends averaged over seeds: the annotators are the same."""
    by_method: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key, row in found["rows"].items():
        place, method, _ = key.split("; ")
        by_method.setdefault((place, method), []).append(row)
    rows = []
    for (place, method), several in by_method.items():
        out: dict[str, Any] = {"conversation": place, "name": method, "seeds": len(several)}
        for part in ("judged", "held out"):
            if part in several[0]:
                short = part.split()[0]
                out[f"{short}_tv"] = float(np.mean([row[part]["total_variation"] for row in several]))
                gain, low, high = (
                    np.mean([row[part][f"gain{end}"] for row in several]) for end in ("", "_low", "_high")
                )
                out[f"{short}_gain"] = f"{gain:.3f} [{low:.3f}, {high:.3f}]"
                out[f"{short}_mass"] = float(np.mean([row[part]["minority_mass"] for row in several]))
        if "log_loss" in several[0]:
            out["log_loss"] = float(np.mean([row["log_loss"] for row in several]))
            out["accuracy"] = float(np.mean([row["accuracy"] for row in several]))
        rows.append(out)
    template = """
        | conversation | who chooses | seeds | judged: total variation | gain over all alike | minority mass
        | held out: total variation | gain over all alike | held-out rankings: accuracy | log-loss of pairs |
        ---
        | {conversation} | {name} | {seeds} | {judged_tv:.3f} | {judged_gain} | {judged_mass:.2f} | {held_tv:.3f}
        | {held_gain} | {accuracy:.3f} | {log_loss:.3f} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template)]


def pm_language(found: Any) -> list[str]:
    reward, options = stored("pm_language_reward"), found[-1]["options"]
    modes = {
        "kl": "KL", "flattened": "flattened", "tempered": "tempered", "pm": "plain", "conditional": "conditional",
    }  # fmt: skip
    by_cell: dict[tuple[Any, ...], list[dict[str, float]]] = {}
    for result in found:
        cell = result["cell"]
        mode = list(modes).index(cell.get("mode", "kl"))
        key = (
            cell["how"] != "reference",
            -cell.get("beta", 0.0),
            cell["how"] == "offline",
            mode,
            cell.get("alpha", cell.get("reference_weight", 0)),
        )
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


_MAKERS = (
    matching_lengths,
    matching_alpha,
    matching_exact,
    matching_offline,
    matching_first_loss,
    pm_population,
    pm_polis,
    pm_language,
)
TABLES = {make.__name__: make for make in _MAKERS}
