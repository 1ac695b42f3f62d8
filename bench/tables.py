"""The tables of bench/README.md from the results that the benchmarks stored."""

from __future__ import annotations

import platform
import re
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from common import OUT, interval
from tables_crowds import TABLES as CROWD_TABLES
from tables_fairness import TABLES as FAIRNESS_TABLES
from tables_language import TABLES as LANGUAGE_TABLES
from tables_matching import TABLES as MATCHING_TABLES
from tables_more import TABLES as MORE_TABLES
from tables_population import TABLES as POPULATION_TABLES
from tables_types import TABLES as TYPE_TABLES
from tables_types import stored
from tables_votes import TABLES as VOTE_TABLES

README = Path(__file__).parent / "README.md"


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


def published() -> list[str]:
    found = stored("published")
    path = found["path"]
    lines = [
        f"LCCM, from the published start: the {path['values']} published log-likelihoods are met within "
        f"{path['deviation']:.1e}, and the published estimates within {path['estimates']:.1e} where EM is stopped "
        "after as many M-steps.",
        "",
        "| data | quantity | published | ours, stopped there | ours, optimum |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        values = (row[key] for key in ("published", "stopped", "optimum"))
        cells = " | ".join("" if value is None else f"{value:.{row['digits']}f}" for value in values)
        lines.append(f"| {row['data']} | {row['quantity']} | {cells} |")
    return lines


def latent_class_biogeme() -> list[str]:
    found = stored("latent_class_biogeme")
    runs, options = found["runs"], found["options"]
    peer = _middle(runs["biogeme"])
    versions = runs["biogeme"][0]["versions"]
    best = max(run["log_likelihood"] for turns in runs.values() for run in turns)
    lines = [
        f"{options['seeds']} random starts, torch with {options['threads']} threads; biogeme {versions['biogeme']} "
        f"with jax {versions['jax']}. Seconds: medians. Best log-likelihood of all: {best:.3f}.",
        "",
        "| fit | model built | first | ratio | again | ratio | log-likelihood, best to worst | best reached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, turns in runs.items():
        own = _middle(turns)
        reached = [run["log_likelihood"] for run in turns]
        times = (f"{own[key]:.3f} | {peer[key] / own[key]:.1f}" for key in ("first", "again"))
        at_best = sum(value > best - 0.01 for value in reached)
        lines.append(
            f"| {name} | {own['build']:.3f} | {' | '.join(times)} | {max(reached):.3f} to {min(reached):.3f} "
            f"| {at_best} of {len(turns)} |"
        )
    return lines


def _middle(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: median(run[key] for run in runs) for key in ("build", "first", "again")}


def latent_class_choix() -> list[str]:
    found = stored("latent_class_choix")
    options, seconds = found["options"], found["seconds"]
    ours, theirs = median(seconds["ours"]), median(seconds["choix"])
    return [
        "| rankings of 4 | responses | ours, seconds | choix, seconds | ratio | worths differ by at most |",
        "|---|---|---|---|---|---|",
        f"| {options['rankings']} | {found['responses']} | {_spread(seconds['ours'], 3)} "
        f"| {_spread(seconds['choix'], 3)} | {theirs / ours:.1f} | {found['difference']:.1e} |",
    ]


def _spread(values: list[float], digits: int) -> str:
    """Median, lowest and highest."""
    return f"{median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def latent_class_scaling() -> list[str]:
    rows = stored("latent_class_scaling")["rows"]
    sizes = {int(size): turns for size, turns in rows.items()}
    smallest = min(sizes)
    unit = median(run["seconds"] for run in sizes[smallest]) / smallest
    lines = [
        "| judgments | seconds | microseconds a judgment | relative | data, GiB | peak, GiB | iterations | "
        "adjusted Rand index |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for size, turns in sizes.items():
        each = median(run["seconds"] for run in turns) / size
        memory = " | ".join(f"{max(run[key] for run in turns):.2f}" for key in ("data", "peak"))
        one = turns[0]
        lines.append(
            f"| {size} | {_spread([run['seconds'] for run in turns], 1)} | {1e6 * each:.1f} | {each / unit:.2f} "
            f"| {memory} | {one['iterations']} | {one['adjusted_rand']:.3f} |"
        )
    return lines


def types_identification() -> list[str]:
    found = stored("types_identification")
    options = found["options"]
    lines = [
        f"{options['judgments']} judgments in each row, {options['seeds']} seeds. Median [lowest, highest].",
        "",
        "| collected | parameter error | share of information left | confidence that the types differ | verdict |",
        "|---|---|---|---|---|",
    ]
    for name, runs in found["rows"].items():
        cells = [_spread([run[key] for run in runs], 3) for key in ("error", "left", "separation")]
        lines.append(f"| {name} a person | {' | '.join(cells)} | {_counted(run['verdict'] for run in runs)} |")
    return lines


def _counted(values: Any) -> str:
    """How often each value occurs, the most frequent first."""
    return ", ".join(f"{value}: {count}" for value, count in Counter(values).most_common())


def types_recovery() -> list[str]:
    found = stored("types_recovery")
    options = found["options"]
    lines = [
        f"{options['annotators']} annotators, 12 rankings of 3 each, 4 features; {options['seeds']} seeds a row.",
        "",
        "| planted | chosen, held out | right: held out | right: BIC | right: k-means, silhouette |",
        "|---|---|---|---|---|",
    ]
    for kinds, runs in found["rows"].items():
        right = (
            f"{sum(run[rule] == int(kinds) for run in runs)} of {len(runs)}"
            for rule in ("held_out", "bic", "silhouette")
        )
        lines.append(f"| {kinds} | {_counted(run['held_out'] for run in runs)} | {' | '.join(right)} |")
    lines += [
        "",
        "Adjusted Rand index with the planted types: mean [lowest]; and the smallest share found by the planted: "
        "lowest [median].",
        "",
        "| planted | ours, chosen | ours, planted number | k-means, silhouette | k-means, planted number "
        "| true parameters known | smallest share |",
        "|---|---|---|---|---|---|---|",
    ]
    for kinds, runs in found["rows"].items():
        keys = ("chosen", "true", "silhouette", "kmeans", "known")
        cells = (f"{_mean(runs, f'index_{key}'):.3f} [{min(run[f'index_{key}'] for run in runs):.3f}]" for key in keys)
        shares = [run["smallest_share"] for run in runs]
        lines.append(f"| {kinds} | {' | '.join(cells)} | {min(shares):.2f} [{median(shares):.2f}] |")
    return lines


def types_power() -> list[str]:
    found = stored("types_power")
    lines = [
        f"{found['options']['replicates']} simulations a point. Accuracy: mean [lowest, highest]. The study's own "
        f"fit has an adjusted Rand index of {found['index']:.3f} with the planted types.",
        "",
        "| collected | judgments a person | foretold by the study | true | best possible, foretold "
        "| best possible, true |",
        "|---|---|---|---|---|---|",
    ]
    for foretold, true in zip(*(found["curves"][name] for name in ("foretold", "true")), strict=True):
        both = (foretold, true)
        kind = "pairs" if foretold["length"] is None else f"rankings of {foretold['length']}"
        cells = [f"{point['accuracy']:.2f} [{point['low']:.2f}, {point['high']:.2f}]" for point in both]
        cells += [f"{point['ceiling']:.2f}" for point in both]
        lines.append(f"| {kind} | {foretold['judgments']} | {' | '.join(cells)} |")
    return lines


def types_polis() -> list[str]:
    lines = [
        "| conversation | votes | people | statements | alpha | opinion groups | types | gain in nats a vote "
        "| verdict | Rand: types | Rand: as many types as groups | Rand: k-means | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in stored("types_polis")["rows"].items():
        indices = " | ".join(f"{row[key]:.2f}" for key in ("index", "index_same", "index_kmeans"))
        lines.append(
            f"| {name} | {row['judgments']} | {row['annotators']} | {row['responses']} | {row['alpha']:.2f} "
            f"| {row['groups']} | {row['types']} | {_gain_at(row, row['types'])} | {row['verdict']} | {indices} "
            f"| {row['seconds']:.0f} |"
        )
    return lines


def types_convarg() -> list[str]:
    return _by_features("types_convarg")


def types_qa() -> list[str]:
    return _by_features("types_qa")


def _by_features(name: str) -> list[str]:
    rows = stored(name)["rows"]
    one = next(iter(rows.values()))
    most = max(point["types"] for row in rows.values() for point in row["curve"])
    numbers = range(2, most + 1)
    lines = [
        f"{one['judgments']} judgments by {one['annotators']} annotators on {one['responses']} responses.",
        "",
        "| features | chosen | verdict | held out, one type | "
        + " | ".join(f"gain of {number}" for number in numbers)
        + " | seconds |",
        "|" + "---|" * (len(numbers) + 5),
    ]
    for features, row in rows.items():
        gains = " | ".join(_gain_at(row, number) for number in numbers)
        lines.append(
            f"| {features} | {row['types']} | {row['verdict']} | {row['curve'][0]['held_out']:.4f} | {gains} "
            f"| {row['seconds']:.0f} |"
        )
    return lines


def _gain_at(row: dict[str, Any], number: int) -> str:
    """Gain of so many types over one, with its interval; empty where it was not tried."""
    for point in row["curve"]:
        if point["types"] == number:
            return f"{point['gain']:+.4f} [{point['low']:+.4f}, {point['high']:+.4f}]"
    return ""


TABLES = (
    convarg, real_data, small_language_model, speed, speed_curves, dpo, crowd, published,
    latent_class_biogeme, latent_class_choix, latent_class_scaling,
    types_identification, types_recovery, types_power, types_polis, types_convarg, types_qa,
    *TYPE_TABLES, *FAIRNESS_TABLES, *MORE_TABLES, *CROWD_TABLES, *VOTE_TABLES,
    *MATCHING_TABLES, *LANGUAGE_TABLES, *POPULATION_TABLES,
)  # fmt: skip
"""Each is named like its block in the README and its file of results."""


def main() -> None:
    text = README.read_text()
    for make in TABLES:
        name = make.__name__
        if not (OUT / f"{name}.json").exists():
            continue
        block = "\n".join([f"<!-- {name} -->", *make(), f"<!-- end {name} -->"])
        text = re.sub(rf"<!-- {name} -->.*?<!-- end {name} -->", lambda _, b=block: b, text, flags=re.DOTALL)
    README.write_text(text)
    print(f"tables written to {README} on {platform.processor() or platform.machine()}")


if __name__ == "__main__":
    main()
