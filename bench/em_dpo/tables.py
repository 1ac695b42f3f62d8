"""Tables of `bench/results/em_dpo.md`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..common.tables import between, counted, named, paragraph, table

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


OURS, TRL = "our dpo, an epoch", "TRL DPO, an epoch"


def _cost(found: Any) -> list[str]:
    """One row for each E-step that was measured after an M-step; ratios of neighbours in time."""
    runs = found["rows"]
    epochs = {run: [turn["seconds"] for turn in runs.get(run, [])] for run in (OURS, TRL)}
    rows: list[dict[str, Any]] = [{"run": run, "round": seconds} for run, seconds in epochs.items() if seconds]
    for run in runs.keys() - epochs.keys():
        turns, possible = runs[run], runs[run][0]["possible"]
        for variant in turns[0]["e_steps"] if possible else ["default"]:
            m_steps, e_steps = [turn["m_step"] for turn in turns], [turn["e_steps"][variant] for turn in turns]
            seconds, values = [step["seconds"] for step in e_steps], e_steps[0]["values"]
            rows.append({
                "run": run, "variant": variant if possible else "none", "m_step": m_steps, "e_step": seconds,
                "round": [m + e for m, e in zip(m_steps, seconds, strict=True)], "values": values,
                "part": f"{values / possible:.0%}" if possible else "", "start": turns[0]["start"],
            })  # fmt: skip
    order = list(runs)
    rows.sort(key=lambda row: (row["run"] not in epochs, order.index(row["run"])))
    for row in rows:
        for name, seconds in (("ours", epochs[OURS]), ("trl", epochs[TRL])):
            row[name] = [own / other for own, other in zip(row["round"], seconds, strict=False)]
    intro = """{annotators} annotators, {each} rankings of three each; model {model}, LoRA of rank {r},
        {per_device_train_batch_size} judgments a step; threads: {threads}. Median [lowest, highest] of the
        repetitions."""
    template = """
        | run | E-step | M-step, seconds | E-step, seconds | round, seconds | ratio to our epoch | ratio to TRL's epoch
        | values scored | of all possible | start, seconds |
        ---
        | {run} | {variant} | {m_step:range .1f} | {e_step:range .1f} | {round:range .1f} | {ours:range .2f}
        | {trl:range .2f} | {values} | {part} | {start:.1f} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template)]


def em_cost_memory(found: Any) -> list[str]:
    rows = named(found["rows"])
    for row in rows:
        row |= {key: row[f"{key}_bytes"] / 2**20 for key in ("base", "adapter", "optimizer")}
    template = """
        | types | peak in the start, GiB | in an M-step | in an E-step | base, MiB | an adapter, MiB
        | its optimiser's state, MiB |
        ---
        | {name} | {start:.2f} | {m_step:.2f} | {e_step:.2f} | {base:.2f} | {adapter:.2f} | {optimizer:.2f} |"""
    return [table(rows, template)]


def _mean(values: Iterable[float], sign: str = "") -> str:
    """Mean with its normal 95 % interval."""
    every = np.array(list(values))
    mean, error = float(every.mean()), 1.96 * float(every.std(ddof=1)) / math.sqrt(len(every))
    return between(mean, mean - error, mean + error, f"{sign}.4f")


def em_real_convarg(found: Any) -> list[str]:
    chance = f"{math.log(2):.4f}"
    rows: list[dict[str, Any]] = [
        {"method": "chance", "types": "", "own": chance, "mixture": chance, "shares": [], "verdict": ""}
    ]
    every = found["rows"]
    for row in sorted(every.values(), key=lambda row: (row["method"] != "latent class", row["types"])):
        losses = {kind: _mean(row[kind].values()) for kind in ("own", "mixture")}
        one = every.get(f"{row['method']}, 1")
        if one is not None and one is not row:
            for kind in ("own", "mixture"):
                losses[f"{kind}_gap"] = _mean((row[kind][name] - one[kind][name] for name in one[kind]), "+")
        rows.append(row | losses)
    intro = """{annotators} annotators of {least} strict votes or more, {topics} topics and sides, {arguments}
        arguments; {votes} votes to train on, {held_out} on pairs that no annotator judged in training.
        {num_train_epochs} epochs in an M-step, {per_device_train_batch_size} votes a step, learning rate
        {learning_rate:g}, beta {beta:g}. Log-loss in nats a vote (less is better), mean over annotators with a 95 %
        interval over them; differences are paired by annotator."""
    template = """
        | model | types | most probable type alone | its difference to one type | weighted by posterior
        | difference to one type, weighted | shares | identification | seconds |
        ---
        | {method} | {types} | {own} | {own_gap} | {mixture} | {mixture_gap} | {shares:.2f} | {verdict}
        | {seconds:.0f} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template)]


def em_real_polis(found: Any) -> list[str]:
    every = found["rows"].values()
    seeds = sorted({row["seed"] for row in every})
    places = dict.fromkeys(row["conversation"] for row in every)
    recovery, prediction = [], []
    for place in places:
        runs = {(row["method"], row["seed"]): row for row in every if row["conversation"] == place}
        for method in POLIS_METHODS:
            own = [runs[method, seed] for seed in seeds if (method, seed) in runs]
            if own and method == "default":
                recovery.append({
                    "conversation": place, "annotators": own[0]["people"], "rankings": own[0]["train_rankings"],
                    "statements": own[0]["statements"],
                    "groups": list(own[0]["group_sizes"].values()), "types": [row["types"] for row in own],
                    "verdict": counted(row["verdict"] for row in own), "shares": own[0]["shares"],
                    "rand": [row["recovered"]["rand"] for row in own],
                    "right": [row["recovered"]["right"] for row in own],
                })  # fmt: skip
        groups = next(iter(runs.values()))["groups"]
        for group in [None, *sorted(set(groups.values()))]:
            for method in POLIS_METHODS:
                taken = [seed for seed in seeds if (method, seed) in runs]
                if not taken:
                    continue
                mine = [_of_group(runs[method, seed], group) for seed in taken]
                row = {
                    "conversation": place, "group": "everyone" if group is None else group.removeprefix(f"{place}/"),
                    "method": method, "annotators": [float(len(own)) for own in mine],
                    "accuracy": [_ratio(own, "ordered", "pairs") for own in mine],
                    "log_loss": [_ratio(own, "log_loss", "rankings") for own in mine],
                }  # fmt: skip
                if method != POLIS_METHODS[0]:
                    one = [_of_group(runs[POLIS_METHODS[0], seed], group) for seed in taken]
                    for key, top, bottom in (("gain", "ordered", "pairs"), ("gap", "log_loss", "rankings")):
                        row[key] = _paired(mine, one, top, bottom)
                prediction.append(row)
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
        | {conversation} | {annotators} | {rankings} | {statements} | {groups:.0f} | {types:.0f} | {verdict}
        | {shares:.2f} | {rand:seeds .2f} | {right:seeds .2f} |"""),
        table(prediction, """
        | conversation | group | annotators | policies | pairs | difference to one type | log-loss
        | difference to one type |
        ---
        | {conversation} | {group} | {annotators:seeds .0f} | {method} | {accuracy:seeds .3f} | {gain}
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


_MAKERS = (em_town_curve, em_town_blind, em_cost_memory, em_real_convarg, em_real_polis)
TABLES = {make.__name__: make for make in _MAKERS} | {f"em_cost_{part}": _cost for part in ("town", "crowd", "large")}
