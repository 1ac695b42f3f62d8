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


def main() -> None:
    text = README.read_text()
    for make in (convarg, real_data, small_language_model):
        name = make.__name__
        if not (OUT / f"{name}.json").exists():
            continue
        block = "\n".join([f"<!-- {name} -->", *make(), f"<!-- end {name} -->"])
        text = re.sub(rf"<!-- {name} -->.*?<!-- end {name} -->", lambda _, b=block: b, text, flags=re.DOTALL)
    README.write_text(text)
    print(f"tables written to {README} on {platform.processor() or platform.machine()}")


if __name__ == "__main__":
    main()
