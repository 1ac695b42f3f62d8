"""Tables of `bench/results/em_dpo.md`."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ..common.tables import between, counted, paragraph, table
from .cost import RUNS, TRL

METHODS = (
    "true utilities", "latent class", "EM-DPO", "EM-DPO, start only", "EM-DPO, four rounds", "EM-DPO, random start",
    "paper", "paper, our rate", "cluster-dpo", "DPO",
)  # fmt: skip
"""The order of the rows."""

CURVES = {
    "type_accuracy": "Share of annotators in the right type, best matching",
    "accuracy": "Held-out pairs that the policy of the annotator's own type orders right",
    "mixture_log_loss": """Held-out log-loss of a ranking of three in nats (chance: ln 6 = 1.792), policies weighted by
        the annotator's posterior""",
    "own_log_loss": "The same under the policy of the annotator's most probable type alone",
    "cpu_seconds": "Processor seconds of the training, without the start",
}


def em_town_curve(found: Any) -> list[str]:
    rows = found["rows"]
    intro = """{annotators} annotators, {held_out} held-out rankings of each; number of seeds: {seeds}. Mean [lowest,
        highest] over seeds; columns: training judgments per annotator."""
    blocks = [paragraph(intro.format(seeds=len({row["seed"] for row in rows}), **found["settings"]))]
    sizes = sorted({row["judgments"] for row in rows})
    template = "\n| responses | method | ... |\n---\n| {responses} | {method} | ... |"
    for key, title in CURVES.items():
        places: dict[tuple[int, str], dict[str, Any]] = {}
        for row in rows:
            if key in row:
                place = {"responses": row["responses"], "method": row["method"]}
                place = places.setdefault((row["responses"], row["method"]), place)
                place.setdefault(str(row["judgments"]), []).append(row[key])
        if not places:
            continue
        order = itertools.product(sorted({row["responses"] for row in rows}), METHODS)
        digits = 0 if key == "cpu_seconds" else 3
        # A heading of digits alone would be a position in the template, so it gets a name.
        cells = {str(size): f"{{n{size}:seeds .{digits}f}}" for size in sizes}
        ordered = [{f"n{name}" if name.isdigit() else name: value for name, value in places[at].items()} for at in order
                   if at in places]  # fmt: skip
        blocks += [paragraph(f"{title}:"), table(ordered, template, cells)]
    return blocks


def em_town_blind(found: Any) -> list[str]:
    rows = sorted(found["rows"], key=lambda row: (METHODS.index(row["method"]), row["seed"]))
    for row in rows:
        if row.get("gain") is not None:
            row["gained"] = f"{row['gain']:+.4f} ± {row['gain_error']:.4f}"
        if "kept" in row:
            row["kept"] = f"round {row['kept']}" if row["kept"] else "start"
    intro = """{annotators} annotators, {most} rankings of three of each to train on and {held_out} held out. Gain: of
        the best round over the start's types tuned as long, in nats a judgment of the half that a set never saw, with
        its standard error over annotators. Log-loss of a ranking of three in nats (chance: ln 6 = 1.792), policies
        weighted by the annotator's posterior."""
    template = """
        | method | seed | identification by text features | rounds taken | kept | gain | right type | accuracy of pairs
        | log-loss | processor seconds |
        ---
        | {method} | {seed} | {verdict} | {rounds} | {kept} | {gained} | {type_accuracy:.3f} | {accuracy:.3f}
        | {mixture_log_loss:.3f} | {cpu_seconds:.0f} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template)]


def em_cost(found: Any) -> list[str]:
    runs = found["rows"]
    rows = [
        {"run": run} | {key: [turn[key] for turn in turns] for key in turns[0] if turns[0][key] is not None}
        for run, turns in sorted(runs.items(), key=lambda item: list(RUNS).index(item[0]))
    ]
    for row in rows:
        row["ratio"] = [own / trl["seconds"] for own, trl in zip(row["seconds"], runs[TRL], strict=False)]
    intro = """{annotators} annotators, {each} rankings of three each; town-language-model, LoRA of rank {r},
        {per_device_train_batch_size} judgments a step. Mean [lowest, highest] of the repetitions.
        Processor seconds of one thread; the start's are a part of them."""
    template = """
        | run | seconds | ratio to an epoch of TRL's | start, seconds | rounds taken | peak memory, GiB
        | an adapter, MiB | base, MiB |
        ---
        | {run} | {seconds:seeds .0f} | {ratio:seeds .2f} | {start:seeds .1f} | {rounds[0]} | {peak:seeds .2f}
        | {adapter[0]:.2f} | {base[0]:.2f} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template)]


def em_real_crowds(found: Any) -> list[str]:
    every = found["rows"].values()
    rows = []
    for place in dict.fromkeys(row["place"] for row in every):
        runs = {(row["method"], row["seed"]): row for row in every if row["place"] == place}
        for method in dict.fromkeys(method for method, _ in runs):
            row = _predicted(runs, method)
            own = [run for (name, _), run in runs.items() if name == method]
            row |= {"place": place, "types": [run["types"] for run in own], "shares": own[0]["shares"]}
            row |= {"verdict": counted(run["verdict"] for run in own), "train": own[0]["train"]}
            row |= {"responses": own[0]["responses"], "test": own[0]["test"], "seeds": len(own)}
            rows.append(row)
    intro = """Annotators of {least} strict votes or more; {share:.0%} of the pairs of texts held out,
        which no annotator judged in training. {num_train_epochs} epochs of the votes in an M-step,
        {per_device_train_batch_size} votes a step, learning rate {learning_rate:g}, beta {beta:g}. Pairs: held-out
        votes ordered right by the policy of the annotator's most probable type. Log-loss in nats a vote (chance: ln 2 =
        0.693), policies weighted by the annotator's posterior. Mean over seeds [lowest, highest]; differences to one
        type are paired by annotator, with a 95 % interval over annotators (of all seeds)."""
    template = """
        | crowd | seeds | annotators | texts | votes: train, test | policies | types | identification | shares | pairs
        | difference to one type | log-loss | difference to one type |
        ---
        | {place} | {seeds} | {annotators:seeds .0f} | {responses} | {train}, {test} | {method} | {types:.0f}
        | {verdict} | {shares:.2f} | {accuracy:seeds .3f} | {gain} | {log_loss:seeds .3f} | {gap} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template)]


def _predicted(runs: dict[tuple[str, int], dict[str, Any]], method: str, group: str | None = None) -> dict[str, Any]:
    """Accuracy and log-loss of a method over its seeds, and their differences to one type, for a group or everyone."""
    taken = [seed for name, seed in runs if name == method]
    mine = [_of_group(runs[method, seed], group) for seed in taken]
    row: dict[str, Any] = {
        "method": method, "annotators": [float(len(own)) for own in mine],
        "accuracy": [_ratio(own, "ordered", "pairs") for own in mine],
        "log_loss": [_ratio(own, "log_loss", "rankings") for own in mine],
    }  # fmt: skip
    if method != POLIS_METHODS[0]:
        one = [_of_group(runs[POLIS_METHODS[0], seed], group) for seed in taken]
        for key, top, bottom in (("gain", "ordered", "pairs"), ("gap", "log_loss", "rankings")):
            row[key] = _paired(mine, one, top, bottom)
    return row


def em_real_polis(found: Any) -> list[str]:
    every = found["rows"].values()
    seeds = sorted({row["seed"] for row in every})
    places = dict.fromkeys(row["place"] for row in every)
    recovery, prediction = [], []
    for place in places:
        runs = {(row["method"], row["seed"]): row for row in every if row["place"] == place}
        for method in POLIS_METHODS:
            own = [runs[method, seed] for seed in seeds if (method, seed) in runs]
            if own and method == "default":
                recovery.append({
                    "place": place, "annotators": own[0]["people"], "rankings": own[0]["train"],
                    "statements": own[0]["responses"],
                    "groups": list(own[0]["group_sizes"].values()), "types": [row["types"] for row in own],
                    "verdict": counted(row["verdict"] for row in own), "shares": own[0]["shares"],
                    "rand": [row["recovered"]["rand"] for row in own],
                    "right": [row["recovered"]["right"] for row in own],
                })  # fmt: skip
        groups = next(iter(runs.values()))["groups"]
        for group in [None, *sorted(set(groups.values()))]:
            for method in POLIS_METHODS:
                if any(name == method for name, _ in runs):
                    about = {"place": place, "group": "everyone" if group is None else group.removeprefix(f"{place}/")}
                    prediction.append(about | _predicted(runs, method, group))
    intros = (
        """Annotators' statements in rankings of {size} or a few more, {share:.0%} held out; {max_steps} steps of
        {per_device_train_batch_size} rankings in an M-step. Types of the default against Polis' opinion groups: Rand,
        the adjusted index; right, annotators in the group of their type, best matching.""",
        """Held-out rankings. Pairs: the share ordered right by the policy of the annotator's most probable type.
        Log-loss of a ranking in nats, policies weighted by the annotator's posterior. Mean over seeds [lowest,
        highest]. Differences to one type are paired by annotator, with a 95 % interval over annotators (of all
        seeds; the judgments of all seeds come from the same annotators).""",
    )
    tables = (
        table(recovery, """
        | conversation | annotators | rankings | statements | opinion groups | types | identification | shares | Rand
        | right |
        ---
        | {place} | {annotators} | {rankings} | {statements} | {groups:.0f} | {types:.0f} | {verdict}
        | {shares:.2f} | {rand:seeds .2f} | {right:seeds .2f} |"""),
        table(prediction, """
        | conversation | group | annotators | policies | pairs | difference to one type | log-loss
        | difference to one type |
        ---
        | {place} | {group} | {annotators:seeds .0f} | {method} | {accuracy:seeds .3f} | {gain}
        | {log_loss:seeds .3f} | {gap} |"""),
    )  # fmt: skip
    texts = [paragraph(f"{len(seeds)} seed{'s' * (len(seeds) > 1)}. " + intros[0].format_map(found["settings"]))]
    texts.append(paragraph(intros[1]))
    return [block for pair in zip(texts, tables, strict=True) for block in pair]


POLIS_METHODS = ("one type", "default", "opinion groups given")


def _of_group(row: dict[str, Any], group: str | None) -> dict[str, dict[str, float]]:
    """What was predicted for the members of a group, by annotator."""
    return {name: own for name, own in row["predicted"].items() if group is None or row["groups"].get(name) == group}


def _ratio(people: dict[str, dict[str, float]], top: str, bottom: str) -> float:
    return sum(own[top] for own in people.values()) / sum(own[bottom] for own in people.values())


def _paired(
    mine: list[dict[str, dict[str, float]]], other: list[dict[str, dict[str, float]]], top: str, bottom: str
) -> str:
    """The difference of two ratios of sums over annotators with its linearised 95 % interval."""
    sums: dict[str, list[float]] = {}
    for own, their in zip(mine, other, strict=True):
        for name in own:
            pair = sums.setdefault(name, [0.0, 0.0])
            pair[0] += own[name][top] - their[name][top]
            pair[1] += own[name][bottom]
    values = np.array(list(sums.values()))
    gap = values[:, 0].sum() / values[:, 1].sum()
    residual = values[:, 0] - gap * values[:, 1]
    error = 1.96 * math.sqrt(len(values) / max(1, len(values) - 1) * np.square(residual).sum()) / values[:, 1].sum()
    return between(gap, gap - error, gap + error, "+.3f")


_MAKERS = (em_town_curve, em_town_blind, em_cost, em_real_crowds, em_real_polis)
TABLES = {make.__name__: make for make in _MAKERS}
