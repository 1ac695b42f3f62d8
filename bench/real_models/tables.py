"""Tables of `bench/results/real_models.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pluralign.evaluation.intervals import Resampling

from ..common.tables import interval, paragraph, table
from ..crowds.tables import crowds
from ..matching.tables import pm_polis
from .llm_crowd import LENGTH, OTHERS, TUNED

Predicted = Mapping[str, Mapping[str, float]]


def real_model_scores(found: Any) -> list[str]:
    rows = [
        row
        | {"trees": "yes" if row["tree"] else "no", "window": row["window"] or "none"}
        | {"pad": row["pad"].replace("|", "\\|")}
        for row in found["rows"]
    ]
    largest = max(row["trees_alone"] for row in rows)
    intro = """{prompts} prompts, the longest of {words} words, with {responses} answers each. Largest absolute
        differences between log-probabilities of a whole answer, in nats; rewards are those of a random head, trees
        against flat rows, relative to the largest reward. `pad` is the token that pads a reward model, `rows` how many
        rows that adds to the embeddings."""
    reading = f"""Both models read prompt trees; a tree and transformers alone differ by at most {largest:.0e} nats an
        answer, also where a text is longer than the sliding window of most layers."""
    template = """
        | model | form | trees | window | longest | trees - flat | trees - alone | flat - alone | rewards | pad | rows
        | seconds |
        ---
        | {model} | {form} | {trees} | {window} | {longest} | {trees_flat:.1e} | {trees_alone:.1e} | {flat_alone:.1e}
        | {rewards:.1e} | `{pad}` | {added_rows} | {seconds:.0f} |"""
    return [paragraph(intro.format_map(found)), table(rows, template), paragraph(reading)]


def _sums(predicted: Predicted, groups: Mapping[str, str], group: str | None) -> dict[str, tuple[float, float]]:
    """Pairs ordered right and all pairs of each annotator of a group, or of everybody."""
    return {
        name: (own["ordered"], own["pairs"])
        for name, own in predicted.items()
        if group is None or groups.get(name) == group
    }


def _ratios(one: dict[str, tuple[float, float]], types: dict[str, tuple[float, float]]) -> dict[str, float]:
    """Shares of pairs ordered right and their difference, with intervals over annotators."""
    mine, other = (np.array([values[name] for name in one]) for values in (types, one))
    resampling = Resampling(np.arange(len(one)))
    pairs = other[:, 1]
    return resampling.mean_intervals(
        {"one": (other[:, 0], pairs), "types": (mine[:, 0], pairs), "gain": (mine[:, 0] - other[:, 0], pairs)}
    )


def _polis_rows(every: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row for everybody in a conversation, and one for each opinion group."""
    rows = []
    for place, seed in dict.fromkeys((row["place"], row["seed"]) for row in every.values()):
        one, types = (every.get(f"{place}, {seed}, {method}") for method in ("one type", "types"))
        if one is None or types is None or "latent_class" not in types:
            continue
        for group in (None, *types["group_sizes"]):
            mine = [_sums(row["predicted"], types["groups"], group) for row in (one, types)]
            if len(mine[0]) < 2:
                continue
            worths = [_sums(row["latent_class"]["predicted"], types["groups"], group) for row in (one, types)]
            row = {
                "conversation": place,
                "group": "everybody" if group is None else f"group {group.rpartition('/')[2]}",
            }
            row |= {"annotators": len(mine[0]), "statements": types["responses"], "kinds": types["types"]}
            row |= {"shares": types["shares"], "seconds": [one["seconds"], types["seconds"]]}
            row |= _ratios(*mine)
            row |= {f"worths_{key}": value for key, value in _ratios(*worths).items()}
            rows.append(row)
    return rows


def smollm2_polis(found: Any) -> list[str]:
    rows = _polis_rows(found["rows"])
    whole = [row for row in rows if row["group"] == "everybody"]
    better = sum(row["gain_low"] > 0 for row in whole)
    blind = sum(row["worths_types"] > row["types"] for row in whole)
    above = sum(row["types_low"] > 0.5 for row in whole)
    intro = """Held-out pairs of statements that are ordered right by the policy of an annotator's most probable type,
        with 95 % intervals over annotators. {max_steps} steps of {per_device_train_batch_size} rankings in all,
        learning rate {learning_rate:g}, beta {beta:g}, {share:.0%} of everybody's rankings held out, one seed. Worths:
        the latent-class model that EM-DPO starts from, of one type and of the same number of types. Seconds of both
        trainings on a processor that other jobs used too."""
    reading = f"""Types beat one policy, with an interval above zero, in {better} of {len(whole)} conversations, and
        order more pairs than chance, with an interval above one half, in {above}. The worths of statements, which know
        nothing of their words, order more pairs than the tuned types in {blind} of {len(whole)}: after so few steps the
        policies know less of a statement than other people's votes on it do, and every held-out statement has such
        votes in training."""
    template = """
        | conversation | annotators' group | annotators | statements | types | shares | one policy | types' policies
        | difference | worths, one | worths, types | seconds |
        ---
        | {conversation} | {group} | {annotators} | {statements} | {kinds} | {shares:.2f} | {one.ci:.3f}
        | {types.ci:.3f} | {gain.ci:+.3f} | {worths_one:.3f} | {worths_types:.3f} | {seconds:.0f} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template), paragraph(reading)]


def smollm2_polis_new(found: Any) -> list[str]:
    rows = _polis_rows(found["rows"])
    whole = [row for row in rows if row["group"] == "everybody"]
    better = sum(row["gain_low"] > 0 for row in whole)
    above = [sum(row[f"{key}_low"] > 0.5 for row in whole) for key in ("one", "types")]
    intro = """As above, with {share:.0%} of the statements held out: nobody ranks them in training. One half is chance,
        which is also what worths of statements give. Intervals are over annotators, given these statements."""
    reading = f"""On new statements one policy orders more pairs than chance, with an interval above one half, in
        {above[0]} of {len(whole)} conversations, the types' policies in {above[1]}; types beat one policy, with an
        interval above zero, in {better}."""
    template = """
        | conversation | annotators' group | annotators | types | one policy | types' policies | difference | seconds |
        ---
        | {conversation} | {group} | {annotators} | {kinds} | {one.ci:.3f} | {types.ci:.3f} | {gain.ci:+.3f}
        | {seconds:.0f} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template), paragraph(reading)]


def smollm2_llm_crowd(found: Any) -> list[str]:
    results = found["rows"].get("table", {})
    rows = [{"method": name, **row} for name, row in results.items()]
    for row in rows:
        if row["method"] == OTHERS:
            row["method"] = "other people's votes on the pair"
    over = [name for name, row in results.items() if name not in (OTHERS, LENGTH) and row["over_length_low"] > 0]
    intro = """{votes} votes of {people} people on {answers} answers to {prompts} prompts, {folds} folds of prompts.
        Tuned: {max_steps} steps of {per_device_train_batch_size} votes, learning rate {learning_rate:g}, one seed.
        Accuracy on strict votes, and its difference to the length, with 95 % intervals over prompts and people;
        log-loss of strict votes in nats a vote (chance: ln 2 = 0.693)."""
    beat = f"{' and '.join(over)} beat the length of an answer" if over else "no method beats the length of an answer"
    reading = f"On new prompts {beat} with an interval above zero. Thirteen prompts leave wide intervals."
    if TUNED in results:
        tuned = results[TUNED]
        verdict = (
            "better than" if tuned["over_length_low"] > 0
            else "worse than" if tuned["over_length_high"] < 0
            else "not told apart from"
        )  # fmt: skip
        reading += f" The tuned model is {verdict} the length of an answer ({interval(tuned, 'over_length')})."
    template = """
        | rewards | accuracy | difference to the length | log-loss | seconds |
        ---
        | {method} | {accuracy.ci:.3f} | {over_length.ci:+.3f} | {log_loss.ci:.3f} | {seconds:.0f} |"""
    return [paragraph(intro.format_map(found["settings"])), table(rows, template), paragraph(reading)]


TABLES = {make.__name__: make for make in (real_model_scores, smollm2_polis, smollm2_polis_new, smollm2_llm_crowd)}
TABLES |= {"smollm2_crowds": crowds, "smollm2_pm_polis": pm_polis}
