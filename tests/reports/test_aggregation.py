"""The page of an aggregation: whole, safe with any text, whatever is missing."""

import re

import pytest

from pluralign.core.errors import PluralignError
from pluralign.core.records import read_record, record_of, write_record
from pluralign.reports.aggregation import AggregationPage, aggregation_page
from pluralign.reports.runs import Run, runs_page
from reports.conftest import HOSTILE
from reports.test_page import check, sparse

KINDS = {
    "type-1": "own", "type-2": "own", "base": "base", "mixture": "offered", "merge": "offered", "best-of": "offered",
    "best-of-distilled": "distilled", "population": "compared", "utilitarian": "compared",
    "max-min-reward": "compared", "plain": "further",
}  # fmt: skip
NAMES = list(KINDS)


def content():
    """The content of an `aggregate.json`."""
    policies = []
    for place, name in enumerate(NAMES):
        types = [
            {
                "utility": 2.0 - place, "utility_se": 0.1, "regret": 0.5 * abs(place - one), "regret_se": 0.05,
                "win_rate": 0.5, "low": 0.4, "high": 0.6,
            }
            for one in range(2)
        ]  # fmt: skip
        weights = [1.2, 0.4] if name == "merge" else [0.6, 0.4] if KINDS[name] in ("offered", "compared") else None
        ends = {"value": 0.62, "low": 0.55, "high": 0.68}
        policies.append(
            {
                "name": name, "kind": KINDS[name], "weights": weights, "max_regret": 0.5 * place, "low": 0.4 * place,
                "high": 0.6 * place, "max_relative_regret": ends, "worst_win_rate": ends, "loss": ends, "mean_length": 12.0, "unfinished": 0.2, "types": types,
            }
        )  # fmt: skip
    return {
        "run": "runs/people", "criterion": "win-rate", "judged_by": "words and traits", "winner": "best-of",
        "tuning_prompts": 48, "prompts": 80, "samples": 4, "max_new_tokens": 32,
        "types": [
            {"type": "1", "policy": "type-1", "share": 0.7, "priority": 1.0},
            {"type": "2", "policy": "type-2", "share": 0.3, "priority": 2.0},
        ],
        "policies": policies,
        "game": {
            "value": 0.25, "low": 0.2, "high": 0.31, "without_abstention": 0.25, "adversary": [0.5, 0.5],
            "solver": "linear programme",
        },
        "groups": [
            {
                "group": name, "annotators": 12, "shares": [0.5, 0.5],
                "policies": [{"name": policy, "regret": 0.75, "low": 0.7, "high": 0.8, "win_rate": 0.5} for policy in NAMES],
            }
            for name in ("old", "young")
        ],
        "against": [
            {"policy": policy, "against": "plain", "type": kind, "win_rate": 0.7, "low": 0.65, "high": 0.75}
            for policy in NAMES[:7]
            for kind in ("1", "2")
        ],
        "examples": [{"prompt": "Tea?", "policy": "type-1", "response": "Yes, please.", "utilities": [1.5, -0.5]}],
        "warnings": ["20 % of the answers of base were cut."],
    }  # fmt: skip


def page_of(content, **metrics):
    return aggregation_page(record_of(content, AggregationPage, "aggregate.json"), metrics)


def test_the_page_is_whole_and_needs_nothing():
    page = page_of(content(), **{"distill_draws/best-of": 1200})
    assert page_of(content(), **{"distill_draws/best-of": 1200}) == page
    words = check(page)
    for expected in (
        "best-of is the best policy by the smallest win rate", "type 1 (70\xa0%)", "0.62 (0.55\xa0to\xa00.68)",
        "The price of best-of for every type", "Judged by words and traits", "1.2", "max-min-reward", "Yes, please.", "linear programme", "1,200",
        "0.25 (0.2\xa0to\xa00.31)", "cut.", "± 0.05", "0.5 (0.4\xa0to\xa00.6)", "against plain",
        "young (12 annotators)", "0.75 (0.7\xa0to\xa00.8)", "0.7 (0.65\xa0to\xa00.75)",
    ):  # fmt: skip
        assert expected in words, expected
    assert "default-src 'none'" in page
    assert "Types count by their priorities" in words
    equal = content()
    equal["types"][1]["priority"] = 1.0
    assert "priorities" not in check(page_of(equal))


def test_hostile_texts_stay_texts():
    hostile, texts = content(), list(HOSTILE.values())
    hostile["run"], hostile["warnings"], hostile["against"] = texts[0], texts, []
    for policy, text in zip(hostile["policies"], texts, strict=False):
        policy["name"] = text
    for kind, text in zip(hostile["types"], texts, strict=False):
        kind["type"] = text
    hostile["game"]["solver"], hostile["criterion"], hostile["judged_by"] = texts[1], texts[2], texts[3]
    hostile["winner"] = hostile["policies"][0]["name"]
    hostile["groups"] = [group | {"group": text} for group, text in zip(hostile["groups"], texts, strict=False)]
    hostile["examples"] = [{"prompt": t, "policy": t, "response": t, "utilities": [1.0, 2.0]} for t in texts]
    page = page_of(hostile)
    words = check(page)
    for name in ("script", "attribute", "mathematics", "template", "closing", "letters"):
        assert HOSTILE[name] in words, name
    assert "<script" not in page
    assert "<img" not in page


def test_everything_that_may_be_missing_is_left_out():
    whole = record_of(content(), AggregationPage, "aggregate.json")
    words = check(aggregation_page(sparse(whole), {}))
    assert not re.search(r"\b(?:nan|inf|None)\b", words)
    check(page_of(content() | {key: [] for key in ("groups", "against", "examples", "warnings")}))


def test_an_aggregation_is_read_back_as_it_was_written(tmp_path):
    whole = record_of(content(), AggregationPage, "aggregate.json")
    write_record(tmp_path / "aggregate.json", whole)
    assert read_record(tmp_path / "aggregate.json", AggregationPage) == whole
    with pytest.raises(PluralignError, match=r"aggregate\.json, game\.value: found 'much', expected a number"):
        page_of(content() | {"game": content()["game"] | {"value": "much"}})


def test_an_aggregation_stands_beside_other_runs():
    own = record_of(content(), AggregationPage, "aggregate.json")
    run = Run("aggregated", {"game_value": 0.25}, {"command": "aggregate", "run": "runs/people"}, aggregation=own)
    check(runs_page([run]))
    assert "runs/people" in check(runs_page([run, Run("other", {"accuracy": 0.6})]))
