"""The tables of bench/README.md from the results that the benchmarks stored."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path
from typing import Any

from common import OUT, interval

README = Path(__file__).parent / "README.md"


def stored(name: str) -> dict[str, Any]:
    return json.loads((OUT / f"{name}.json").read_text())


def convarg() -> list[str]:
    found = stored("convarg")
    options = found["options"]
    lines = [
        f"Import: {found['said'][0].split(';')[0]}; {found['said'][-1].split(';')[0]}.",
        f"{found['topics']} topics held out ({found['pairs']} pairs with a majority); seed {options['seed']}; "
        f"tuned models see {options['votes']} votes in batches of {options['batch']}, one epoch, learning rate "
        f"{options['learning_rate']}, {options['max_length']} tokens. Intervals: 95 %, bootstrap over topics.",
        "",
        "| reward | accuracy | log-loss (nats) | ECE | Spearman with gold |",
        "|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        cells = [interval(row, key) for key in ("accuracy", "log_loss", "ece")]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['gold_spearman']:.3f} |")
    return lines


def real_data() -> list[str]:
    found = stored("real_data")
    options = found["options"]
    lines = [
        f"Held out: 30 % of the prompts (of the people where there is one prompt). Tuned: MiniLM, Plackett-Luce, "
        f"one epoch over at most {options['judgments']} judgments, learning rate {options['learning_rate']}, "
        f"{options['max_length']} tokens. Accuracy with 95 % intervals over prompts.",
        "",
        "| data | judgments | length | TF-IDF | MiniLM frozen | MiniLM tuned | log-loss, tuned | ECE, tuned |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in found["sets"].items():
        if "MiniLM tuned" not in entry:
            lines.append(
                f"| {name} | {entry['said'][0].split()[0]} labels | - | - | - | not trained: no ranks | - | - |"
            )
            continue
        tuned = entry["MiniLM tuned"]
        cells = [interval(entry[key], "accuracy") for key in ("length", "TF-IDF", "MiniLM frozen")]
        cells += [interval(tuned, key) for key in ("accuracy", "log_loss", "ece")]
        lines.append(f"| {name} | {entry['judgments']} | {' | '.join(cells)} |")
    lines += ["", "Imports, as the command said:", ""]
    for name, entry in found["sets"].items():
        said = "; ".join(re.sub(r"; written to .*", "", line) for line in entry["said"])
        lines.append(f"- {name}: {said}")
    return lines


def small_language_model() -> list[str]:
    found = stored("small_language_model")
    return [
        f"{found['parameters'] / 1e6:.2f} million parameters, {found['steps']} steps: "
        f"held-out loss {found['eval_loss']:.3f} nats a token (a uniform guess: {found['uniform_loss']:.3f}).",
    ]


def speed() -> list[str]:
    found = stored("speed")
    options = found["options"]
    lines = [
        f"Llama of {options['layers']} layers, width {options['hidden']}, vocabulary 32,000 unless said; float32; "
        f"means over {options['repeats']} turns. Ratio: the method's seconds by those of trees.",
        "",
        "| work | objective | method | seconds a step | ratio | peak GiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        means = {method: _mean(runs, "seconds") for method, runs in row["runs"].items()}
        trees = means["ours, trees"]
        for method, runs in row["runs"].items():
            peak = max(run["peak"] for run in runs)
            cells = f"{method} | {means[method]:.2f} | {means[method] / trees:.2f} | {peak:.1f}"
            lines.append(f"| {row['task']} | {row['objective']} | {cells} |")
    return lines


def _mean(runs: list[dict[str, float]], key: str) -> float:
    return sum(run[key] for run in runs) / len(runs)


def speed_curves() -> list[str]:
    lines = [
        "| what grows | value | trees, seconds a step | ours, flat, TRL's rows | TRL |",
        "|---|---|---|---|---|",
    ]
    for name, points in stored("speed_curves").items():
        for point in points:
            trees = point["ours, trees"]
            ratios = " | ".join(f"{point[method] / trees:.2f}x" for method in ("ours, flat, TRL's rows", "TRL"))
            lines.append(f"| {name} | {point['value']} | {trees:.2f} | {ratios} |")
    return lines


def dpo() -> list[str]:
    found = stored("dpo")
    options = found["options"]
    lines = [
        f"beta {options['beta']}, learning rate {options['learning_rate']}, {options['batch']} judgments a step, "
        f"seed {options['seed']}; HH one epoch of pairs of at most {options['max_length']} tokens, QA-feedback "
        "three epochs at 512. Held-out prompts; 95 % intervals over prompts.",
        "",
        "| policy | trained on | steps | first loss | last loss | accuracy | log-loss | ECE | seconds |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        losses = f"{row['first_loss']:.6f} | {row['last_loss']:.3f}"
        cells = " | ".join(interval(row, key) for key in ("accuracy", "log_loss", "ece"))
        lines.append(f"| {name} | {row['train']} | {row['steps']} | {losses} | {cells} | {row['seconds']:.0f} |")
    return lines


def crowd() -> list[str]:
    found = stored("crowd")
    options = found["options"]
    lines = [
        f"{found['votes']} votes on {found['arguments']} arguments, {options['topics']} topics; held out: 8 topics "
        f"({found['pairs']} pairs with a majority). {options['max_length']} tokens, learning rate "
        f"{options['learning_rate']} (twice that where a step holds four times the votes), seed {options['seed']}. "
        "Intervals: 95 %, bootstrap over topics.",
        "",
        "| training | votes in a step | epochs | seconds | accuracy | log-loss | ECE |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in found["rows"].items():
        cells = " | ".join(interval(row, key) for key in ("accuracy", "log_loss", "ece"))
        lines.append(f"| {name} | {row['batch']} | {row['epochs']} | {row['seconds']:.0f} | {cells} |")
    return lines


def main() -> None:
    text = README.read_text()
    for make in (convarg, real_data, small_language_model, speed, speed_curves, dpo, crowd):
        name = make.__name__
        if not (OUT / f"{name}.json").exists():
            continue
        block = "\n".join([f"<!-- {name} -->", *make(), f"<!-- end {name} -->"])
        text = re.sub(rf"<!-- {name} -->.*?<!-- end {name} -->", lambda _, b=block: b, text, flags=re.DOTALL)
    README.write_text(text)
    print(f"tables written to {README} on {platform.processor() or platform.machine()}")


if __name__ == "__main__":
    main()
