"""Tables of `bench/results/speed.md`."""

from __future__ import annotations

from statistics import fmean
from typing import Any

from ..common.tables import named, paragraph, table


def speed(found: Any) -> list[str]:
    options = found["options"]
    rows = []
    for task in found["rows"]:
        seconds = {method: fmean(run["seconds"] for run in runs) for method, runs in task["runs"].items()}
        for method, runs in task["runs"].items():
            row = task | {"method": method, "seconds": seconds[method], "peak": max(run["peak"] for run in runs)}
            rows.append(row | {"ratio": seconds[method] / seconds["ours, trees"]})
    intro = f"""Llama of {options["layers"]} layers, width {options["hidden"]}, vocabulary 32,000 unless stated;
        float32; means over {options["repeats"]} turns. Ratio: the method's seconds divided by those of trees."""
    template = """
        | work | objective | method | seconds a step | ratio | peak GiB |
        ---
        | {task} | {objective} | {method} | {seconds:.2f} | {ratio:.2f} | {peak:.1f} |"""
    return [paragraph(intro), table(rows, template)]


def speed_curves(found: Any) -> list[str]:
    trees, flat, trl = "ours, trees", "ours, flat, TRL's rows", "TRL"
    rows = [
        {"name": name, "value": point["value"], "trees": point[trees], "ratios": [point[flat] / point[trees],
         point[trl] / point[trees]]}
        for name, points in found.items()
        for point in points
    ]  # fmt: skip
    template = """
        | what grows | value | trees, seconds a step | ours, flat, TRL's rows | TRL |
        ---
        | {name} | {value} | {trees:.2f} | {ratios[0]:.2f}x | {ratios[1]:.2f}x |"""
    return [table(rows, template)]


def transport_speed(found: Any) -> list[str]:
    intro = """{items} items, torch with {options[threads]} thread(s), POT {pot}; medians of {options[repeats]} turns,
        ratios of neighbours in time. Ours includes softmax and gradient."""
    template = """
        | loss | labels | ours, float32, s | ours, float64, s | `emd2` loop, s | ratio, float32 | ratio, float64
        | `wasserstein_1d` with gradient, float64, s | largest difference of costs from `emd2`: float64, float32 |
        ---
        | `{loss}` | {labels} | {seconds[float32]:.4f} | {seconds[float64]:.4f} | {seconds[emd2]:.2f}
        | {ratios[float32]:.0f} | {ratios[float64]:.0f} | {seconds[wasserstein_1d]:.4f}
        | {apart[float64]:.1e}, {apart[float32]:.1e} |"""
    return [paragraph(intro.format_map(found)), table(found["rows"], template)]


def audit_speed(found: Any) -> list[str]:
    rows = named(found["rows"])
    for row in rows:
        row["rand"] = f"{row['groups_adjusted_rand']:.2f}" if "groups_adjusted_rand" in row else ""
    times = """
        | data | judgments | annotators | responses | features | seconds, clock | seconds, processor | peak, GiB
        | threads |
        ---
        | {name} | {judgments} | {annotators} | {unique_responses} | {features} | {clock:.1f} | {processor:.1f}
        | {peak:.2f} | {threads} |"""
    answers = """
        | data | types | identification | heterogeneity | Rand index with known groups | sentence |
        ---
        | {name} | {types} | {identification} | {heterogeneity} | {rand} | {sentence} |"""
    return [table(rows, times), table(rows, answers)]


def dprm_step(found: Any) -> list[str]:
    options = found["options"]
    intro = f"""{options["pairs"]} pairs a step, the same {2 * options["pairs"]} responses as items of DPRM; torch with
        {found["threads"]} thread(s); medians of {options["repeats"]} turns, ratios of neighbours in time with their
        quartiles. A step is collation, forward, backward and optimiser."""
    template = """
        | model | tokens a step | objective | labels | seconds | ratio to Bradley-Terry: clock | processor time
        | seconds of collation |
        ---
        | {model} | {tokens} | {name} | {labels} | {seconds:.3f} | {clock[1]:.3f} [{clock[0]:.3f}, {clock[2]:.3f}]
        | {work[1]:.3f} [{work[0]:.3f}, {work[2]:.3f}] | {collation:.4f} |"""
    rows = [{**row, **kind, "labels": kind["labels"] or ""} for row in found["rows"] for kind in row["kinds"]]
    return [paragraph(intro), table(rows, template)]


def more_cost(found: Any) -> list[str]:
    template = """
        | sources | judgments a step | micro-batches | uniform weights, s | MORE / uniform | plain / uniform
        | peak memory: plain, uniform, MORE, MiB |
        ---
        | {sources} | {batch} | {parts} | {seconds[uniform]:.2f} | {ratios[more]:.3f} | {ratios[plain]:.3f}
        | {peak[plain]:.0f}, {peak[uniform]:.0f}, {peak[more]:.0f} |"""
    return [table(found["rows"], template)]


def pm_step(found: Any) -> list[str]:
    intro = """{batch} responses of {response} tokens to prompts of {prompt}; {threads} thread(s); processor time,
        medians of {repeats} turns."""
    rows = [
        row | {"name": "TRL `RLOOTrainer`, beta 1" if row["kind"] == "RLOO" else f"`pm-rlhf`, {row['kind']}"}
        for row in found["rows"]
    ]
    template = """
        | trainer | step, s | ratio to RLOO | without sampling, s | ratio to RLOO, without sampling |
        ---
        | {name} | {step:.3f} | {step_ratio:.3f} | {rest:.3f} | {rest_ratio:.3f} |"""
    return [paragraph(intro.format_map(found["options"])), table(rows, template)]


def data_speed(found: Any) -> list[str]:
    rows, one = found["rows"], "; one turn"
    template = """
        | command | s | MiB |
        ---
        | {command} | {now[seconds]:.1f} | {now[mib]:.0f} |"""
    if all("before" in row for row in rows):
        rows = [row | {"ratio": row["before"]["seconds"] / row["now"]["seconds"]} for row in rows]
        one += ", one version after the other"
        template = """
        | command | before, s | now, s | ratio | before, MiB | now, MiB |
        ---
        | {command} | {before[seconds]:.1f} | {now[seconds]:.1f} | {ratio:.1f} | {before[mib]:.0f} | {now[mib]:.0f} |"""
    intro = f"""{found["options"]["judgments"]:,} pairs by 20,000 annotators; one thread{one}. Processor seconds of the
        whole command, with the start of Python, and its peak memory."""
    return [paragraph(intro), table(rows, template)]


def ten_million(found: Any) -> list[str]:
    options, of = found["options"], {}
    for row in found["rows"]:
        of.setdefault(row["command"], []).append(row)
    rows = [{"command": command, "one": runs[0], "last": runs[-1]} for command, runs in of.items()]
    for row in rows:
        row["growth"] = {key: row["last"][key] / row["one"][key] for key in ("processor", "peak", "own")}
    small, large = (f"{number:,}" for number in (options["judgments"][0], options["judgments"][-1]))
    intro = f"""Pairs by {options["annotators"]:,} annotators, {small} and {large} judgments; {options["threads"]}
        thread(s) a process, one turn. Memory is that of the command and its workers together; "own" leaves out mapped
        files, which the system can take back."""
    template = f"""
        | command | {small}: processor, s | peak, GiB | own, GiB | {large}: processor, s | clock, s | peak, GiB
        | own, GiB | growth: processor, peak, own |
        ---
        | {{command}} | {{one[processor]:.1f}} | {{one[peak]:.2f}} | {{one[own]:.2f}} | {{last[processor]:.1f}}
        | {{last[clock]:.0f}} | {{last[peak]:.2f}} | {{last[own]:.2f}}
        | {{growth[processor]:.1f}}, {{growth[peak]:.1f}}, {{growth[own]:.1f}} |"""
    return [paragraph(intro), table(rows, template)]


_MAKERS = (speed, speed_curves, transport_speed, audit_speed, dprm_step, more_cost, pm_step, data_speed, ten_million)
TABLES = {make.__name__: make for make in _MAKERS}
