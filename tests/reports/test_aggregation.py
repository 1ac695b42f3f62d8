"""The page of an aggregation: whole, safe with any text, whatever is missing."""

import copy
import re

import pytest

from pluralign.core.errors import PluralignError
from pluralign.reports.aggregation import SHAPE, aggregation_page
from pluralign.reports.comparison import runs_page
from pluralign.reports.heat import heat
from pluralign.reports.runs import Run
from reports.conftest import HOSTILE
from reports.test_page import check, nulls

NAMES = [
    "type-1",
    "type-2",
    "base",
    "population",
    "utilitarian",
    "egalitarian",
    "max-min-reward",
    "plain",
    "distilled",
]


def make_story():
    policies = []
    for place, name in enumerate(NAMES):
        kind = "own" if place < 2 else "base" if place == 2 else "mixture" if place < 7 else "further"
        types = [
            {
                "utility": 2.0 - place, "utility_se": 0.1, "regret": 0.5 * abs(place - one), "regret_se": 0.05,
                "win_rate": 0.5, "low": 0.4, "high": 0.6,
            }
            for one in range(2)
        ]  # fmt: skip
        weights = [0.6, 0.4] if kind == "mixture" else None
        policies.append(
            {
                "name": name, "kind": kind, "weights": weights, "max_regret": 0.5 * place, "low": 0.4 * place,
                "high": 0.6 * place, "mean_length": 12.0, "unfinished": 0.2, "types": types,
            }
        )  # fmt: skip
    return {
        "run": "runs/people", "prompts": 80, "samples": 4, "max_new_tokens": 32,
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
                "policies": [{"name": "egalitarian", "regret": 0.75, "low": 0.7, "high": 0.8, "win_rate": 0.5}],
            }
            for name in ("old", "young")
        ],
        "against": [
            {"policy": "egalitarian", "against": "plain", "type": kind, "win_rate": 0.7, "low": 0.65, "high": 0.75}
            for kind in ("1", "2")
        ],
        "examples": [{"prompt": "Tea?", "policy": "type-1", "response": "Yes, please.", "utilities": [1.5, -0.5]}],
        "warnings": ["20 % of the answers of base were cut."],
    }  # fmt: skip


@pytest.fixture
def story():
    return copy.deepcopy(make_story())


def test_the_page_is_whole_and_needs_nothing(story):
    page = aggregation_page(story, {"distill_draws": 1200})
    assert aggregation_page(story, {"distill_draws": 1200}) == page
    words = check(page)
    for expected in (
        "No type's regret times its priority is more than 2.5 nats per answer", "type 1 (70\xa0%)", "max-min-reward", "Yes, please.",
        "0.25 (0.2 to 0.31); by linear programme", "distilled from 1,200 draws", "cut.", "± 0.05", "0.5 (0.4 to 0.6)",
        "Win rate against plain", "young (12 people)", "0.75 (0.7 to 0.8)", "0.7 (0.65 to 0.75)",
    ):  # fmt: skip
        assert expected in words, expected
    assert "default-src 'none'" in page
    story["types"][1]["priority"] = 1.0
    assert "No type gives up more than 2.5 nats per answer" in check(aggregation_page(story, {}))


def test_hostile_texts_stay_texts(story):
    texts = list(HOSTILE.values())
    story["run"], story["warnings"] = texts[0], texts
    for policy, text in zip(story["policies"], texts, strict=False):
        policy["name"] = text
    for one, text in zip(story["types"], texts, strict=False):
        one["type"] = text
    story["game"]["solver"] = texts[1]
    story["examples"] = [{"prompt": t, "policy": t, "response": t, "utilities": [1.0, None]} for t in texts]
    page = aggregation_page(story, {})
    words = check(page)
    for name in ("script", "attribute", "mathematics", "template", "closing", "letters"):
        assert HOSTILE[name] in words, name
    assert "<script" not in page
    assert "<img" not in page


@pytest.mark.parametrize("block", SHAPE)
def test_any_block_may_be_missing_or_null(block, story):
    check(aggregation_page({key: value for key, value in story.items() if key != block}, {}))
    check(aggregation_page({**story, block: None}, {}))
    check(aggregation_page({**story, block: nulls(story[block])}, {}))


def test_an_empty_story_says_so_and_another_shape_is_named():
    assert "holds no result" in check(aggregation_page({}, {}))
    check(aggregation_page(nulls(make_story()), {}))
    with pytest.raises(PluralignError, match=r"aggregate\.json, policies\[0\]\.max_regret: found 'much'"):
        aggregation_page({"policies": [{"max_regret": "much"}]}, {})


def test_an_aggregation_stands_beside_other_runs(story):
    own = Run("aggregated", {"game_value": 0.25}, {"command": "aggregate", "run": "runs/people"}, aggregate=story)
    assert "Everything stored" in check(runs_page([own]))
    words = check(runs_page([own, Run("other", {"accuracy": 0.6})]))
    assert "Aggregation of runs/people." in words


def test_cells_are_darker_for_larger_numbers_and_empty_ones_are_drawn():
    svg = str(heat(["a", "b"], [("one", [(4.0, None), (-1.0, 0.2)]), ("two", [(None, None), (2.0, 0.1)])], "Heat"))
    shades = {float(shade) for shade in re.findall(r"opacity: ?([\d.]+)", svg)}
    assert {0.75, 0.38, 0.0} <= shades, "of 4, 2 and of less than nothing"
    assert ">± 0.2<" in svg
    heat([], [], "Nothing")
    heat([str(n) for n in range(8)], [("x", [(0.0, 0.0)] * 8)], "Many")
