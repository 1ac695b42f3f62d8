"""Tables of `bench/results/annotator_types.md`."""

from __future__ import annotations

from statistics import fmean, median
from typing import Any

from ..common.tables import between, counted, named, paragraph, table


def published(found: Any) -> list[str]:
    intro = """LCCM, from the published start: the {values} published log-likelihoods are reproduced within
        {deviation:.1e}, and the published estimates within {estimates:.1e} when EM stops after the same number of
        M-steps."""
    template = """
        | data | quantity | published | ours, stopped there | ours, optimum |
        ---
        | {data} | {quantity} | {published:.{digits}f} | {stopped:.{digits}f} | {optimum:.{digits}f} |"""
    return [paragraph(intro.format_map(found["path"])), table(found["rows"], template)]


def latent_class_biogeme(found: Any) -> list[str]:
    runs, keys = found["runs"], ("build", "first", "again")
    peer = {key: median(run[key] for run in runs["biogeme"]) for key in keys}
    best = max(run["log_likelihood"] for turns in runs.values() for run in turns)
    rows = []
    for name, turns in runs.items():
        own: dict[str, Any] = {key: median(run[key] for run in turns) for key in keys}
        reached = [run["log_likelihood"] for run in turns]
        own["ratio"] = {key: peer[key] / own[key] for key in keys[1:]}
        own["reached"] = f"{sum(value > best - 0.01 for value in reached)} of {len(turns)}"
        rows.append(own | {"name": name, "high": max(reached), "low": min(reached)})
    intro = """{options[seeds]} random starts, torch with {options[threads]} threads; biogeme {versions[biogeme]} with
        jax {versions[jax]}. Seconds: medians. Best log-likelihood of all: {best:.3f}."""
    template = """
        | fit | model built, s | first, s | ratio, first | again, s | ratio, again | log-likelihood, best to worst
        | best reached |
        ---
        | {name} | {build:.3f} | {first:.3f} | {ratio[first]:.1f} | {again:.3f} | {ratio[again]:.1f}
        | {high:.3f} to {low:.3f} | {reached} |"""
    versions = runs["biogeme"][0]["versions"]
    return [paragraph(intro.format(versions=versions, best=best, **found)), table(rows, template)]


def latent_class_choix(found: Any) -> list[str]:
    seconds = found["seconds"]
    template = """
        | rankings of 4 | responses | ours, seconds | choix, seconds | ratio | largest difference of utilities |
        ---
        | {options[rankings]} | {responses} | {seconds[ours]:range .3f} | {seconds[choix]:range .3f} | {ratio:.1f}
        | {difference:.1e} |"""
    return [table([found | {"ratio": median(seconds["choix"]) / median(seconds["ours"])}], template)]


def latent_class_scaling(found: Any) -> list[str]:
    rows = []
    for size, turns in found["rows"].items():
        row = turns[0] | {key: max(run[key] for run in turns) for key in ("data", "peak")}
        row |= {"size": int(size), "seconds": [run["seconds"] for run in turns]}
        rows.append(row | {"each": 1e6 * median(row["seconds"]) / int(size)})
    smallest = min(rows, key=lambda row: row["size"])["each"]
    template = """
        | judgments | seconds | microseconds a judgment | relative | data, GiB | peak, GiB | iterations
        | adjusted Rand index |
        ---
        | {size} | {seconds:range .1f} | {each:.1f} | {relative:.2f} | {data:.2f} | {peak:.2f} | {iterations}
        | {adjusted_rand:.3f} |"""
    return [table([row | {"relative": row["each"] / smallest} for row in rows], template)]


def types_identification(found: Any) -> list[str]:
    rows = []
    for name, runs in found["rows"].items():
        row: dict[str, Any] = {key: [run[key] for run in runs] for key in ("error", "left", "separation")}
        rows.append(row | {"name": name, "verdict": counted(run["verdict"] for run in runs)})
    intro = "{judgments} judgments in each row, {seeds} seeds. Median [lowest, highest]."
    template = """
        | collected | parameter error | share of information left | confidence that the types differ | identification |
        ---
        | {name} per annotator | {error:range .3f} | {left:range .3f} | {separation:range .3f} | {verdict} |"""
    return [intro.format_map(found["options"]), table(rows, template)]


def types_recovery(found: Any) -> list[str]:
    rows = []
    for types, runs in found["rows"].items():
        row: dict[str, Any] = {"types": types, "chosen": counted(run["held_out"] for run in runs)}
        for rule in ("held_out", "bic", "silhouette"):
            row[rule] = f"{sum(run[rule] == int(types) for run in runs)} of {len(runs)}"
        for key in ("chosen", "true", "silhouette", "kmeans", "known"):
            values = [run[f"index_{key}"] for run in runs]
            row[f"index_{key}"] = f"{fmean(values):.3f} [{min(values):.3f}]"
        shares = [run["smallest_share"] for run in runs]
        rows.append(row | {"smallest": f"{min(shares):.2f} [{median(shares):.2f}]"})
    intro = "{annotators} annotators, 12 rankings of 3 each, 4 features; {seeds} seeds a row."
    numbers = """
        | planted | chosen, held out | right: held out | right: BIC | right: k-means, silhouette |
        ---
        | {types} | {chosen} | {held_out} | {bic} | {silhouette} |"""
    between_tables = """Adjusted Rand index with the planted types: mean [lowest]. Last column, the smallest estimated
        share divided by the planted one: lowest [median]."""
    indices = """
        | planted | ours, chosen | ours, planted number | k-means, silhouette | k-means, planted number
        | true parameters known | smallest share |
        ---
        | {types} | {index_chosen} | {index_true} | {index_silhouette} | {index_kmeans} | {index_known}
        | {smallest} |"""
    return [
        intro.format_map(found["options"]), table(rows, numbers), paragraph(between_tables), table(rows, indices),
    ]  # fmt: skip


def types_error_rates(found: Any) -> list[str]:
    rows = []
    for town, runs in found["rows"].items():
        row = {"town": town, "panels": len(runs), "chosen": counted(run["chosen"] for run in runs)}
        row["seconds"] = [run["seconds"] for run in runs]
        row["heterogeneity"] = counted(run["heterogeneity"] for run in runs)
        rows.append(row)
    intro = """TF-IDF features of composed responses. Rankings of three: 60 annotators with 12 each. Pairs: 100
        annotators with 8 each."""
    template = """
        | panel | panels | types chosen | heterogeneity | seconds |
        ---
        | {town} | {panels} | {chosen} | {heterogeneity} | {seconds:range .0f} |"""
    return [paragraph(intro), table(rows, template)]


def types_earlier_rates(found: Any) -> list[str]:
    rows = [
        {"town": town, "panels": len(runs), "chosen": counted(run["chosen"] for run in runs)}
        for town, runs in found["rows"].items()
    ]
    intro = """The panels of the first seeds of the table above. Each of K types is shrunk by ridge / K, and a gain
        of one standard error is enough."""
    template = """
        | panel | panels | types chosen by the earlier rule |
        ---
        | {town} | {panels} | {chosen} |"""
    return [paragraph(intro), table(rows, template)]


def types_power(found: Any) -> list[str]:
    intro = """{options[replicates]} simulations a point. Accuracy: mean [lowest, highest]. The study's own fit has an
        adjusted Rand index of {index:.3f} with the planted types."""
    rows = []
    for predicted, true in zip(*(found["curves"][name] for name in ("predicted", "true")), strict=True):
        kind = "pairs" if true["length"] is None else f"rankings of {true['length']}"
        both = {"predicted": predicted, "true": true}
        accuracies = {
            f"of_{name}": between(*(point[key] for key in ("accuracy", "low", "high")), spec=".2f")
            for name, point in both.items()
        }
        rows.append({"kind": kind, "judgments": true["judgments"], **both, **accuracies})
    template = """
        | collected | judgments per annotator | predicted by the study | true | best possible, predicted
        | best possible, true |
        ---
        | {kind} | {judgments} | {of_predicted} | {of_true} | {predicted[ceiling]:.2f} | {true[ceiling]:.2f} |"""
    return [paragraph(intro.format_map(found)), table(rows, template)]


def _gain(row: Any, number: int) -> str:
    """The gain of so many types over one, with its interval; empty where it was not tried."""
    points = [point for point in row["curve"] if point["types"] == number]
    return between(*(points[0][key] for key in ("gain", "low", "high")), spec="+.4f") if points else ""


def types_polis(found: Any) -> list[str]:
    rows = [row | {"gain": _gain(row, row["types"])} for row in named(found["rows"])]
    template = """
        | conversation | votes | annotators | statements | alpha | opinion groups | types | gain in nats a vote
        | identification | Rand: types | Rand: as many types as groups | Rand: k-means | seconds |
        ---
        | {name} | {judgments} | {annotators} | {responses} | {alpha:.2f} | {groups} | {types} | {gain}
        | {verdict}, {heterogeneity} | {index:.2f} | {index_same:.2f} | {index_kmeans:.2f} | {seconds:.0f} |"""
    return [table(rows, template)]


def _by_features(found: Any) -> list[str]:
    rows = named(found["rows"])
    numbers = range(2, max(point["types"] for row in rows for point in row["curve"]) + 1)
    rows = [row | {f"gain of {number}": _gain(row, number) for number in numbers} for row in rows]
    template = """
        | features | chosen | identification | held out, one type | ... | seconds |
        ---
        | {name} | {types} | {verdict}, {heterogeneity} | {curve[0][held_out]:.4f} | ... | {seconds:.0f} |"""
    counts = "{judgments} judgments by {annotators} annotators on {responses} responses."
    gains = {f"gain of {number}": f"{{gain of {number}}}" for number in numbers}
    return [counts.format_map(rows[0]), table(rows, template, gains)]


def types_travel(found: Any) -> list[str]:
    rows = [row | {"gain": _gain(row, max(2, row["types"]))} for row in named(found["rows"])]
    template = """
        | panel | choices | travellers | types | gain in nats a choice | identification | heterogeneity | seconds
        | sentence |
        ---
        | {name} | {judgments} | {annotators} | {types} | {gain} | {verdict} | {heterogeneity} | {seconds:.0f}
        | {sentence} |"""
    return [table(rows, template)]


def types_ties(found: Any) -> list[str]:
    rows = []
    for name, own in found["rows"].items():
        source = f"{name} ({own['judgments']} judgments by {own['annotators']}, {own['ties']:.0%} ties)"
        for row in own["rows"]:
            nu = " ".join(f"{value:.2g}" for value in sorted(row["nu"][0]))
            rows.append(row | {"source": source, "number": counted(row["types"]), "first": nu})
    intro = """{folds} folds, up to {most} types. Log-loss in nats; gains are `davidson`'s over each row, paired; 95 %
        intervals over annotators. nu: of the first fold's types."""
    template = """
        | source | row | types | nu | all of a new annotator's judgments | gain | a judgment, given half of the others
        | gain | a strict one, given that it is strict | gain |
        ---
        | {source} | {row} | {number} | {first} | {all:.4f} | {all_gain.ci:+.4f} | {single:.4f} | {single_gain.ci:+.4f}
        | {strict:.4f} | {strict_gain.ci:+.4f} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template)]


_MAKERS = (
    published, latent_class_biogeme, latent_class_choix, latent_class_scaling, types_identification, types_recovery,
    types_error_rates, types_earlier_rates, types_power, types_polis, types_ties, types_travel,
)  # fmt: skip
TABLES = {make.__name__: make for make in _MAKERS} | {"types_convarg": _by_features, "types_qa": _by_features}
