"""Items hold every judgment and every text once."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments
from pluralign.scoring.items import items_of


def test_items_give_every_judgment_back(town_rows):
    rows = town_rows + town_rows[:50]
    items = items_of(Judgments.from_rows(rows))
    assert items.judgments == len(rows)
    assert len(items.prompts) == 20
    assert len(items.responses) == len({(row["prompt"], text) for row in rows for text in row["responses"]})
    for judgment, row in enumerate(rows):
        shown = items.shown(judgment)
        assert [items.responses[index] for index in items.response[shown]] == row["responses"]
        assert items.ranks[shown].tolist() == row["ranks"]
        assert items.prompts[items.prompt[judgment]] == row["prompt"]
        assert {items.item[index] for index in items.response[shown]} == {items.prompt[judgment]}
    assert (np.diff(items.item) >= 0).all()


def test_the_same_text_under_two_prompts_is_two_responses():
    rows = [{"prompt": prompt, "responses": ["yes", "no"], "ranks": [1, 2]} for prompt in ("A?", "B?")]
    items = items_of(Judgments.from_rows(rows))
    assert items.responses == ["yes", "no", "yes", "no"]


def test_labels_rank_by_their_rewards_and_unranked_stays_zero():
    rows = [
        {"prompt": "", "responses": ["a", "b", "c"], "labels": ["disagree", "agree", None]},
        {"prompt": "", "responses": ["a", "b", "c"], "labels": ["pass", "pass", "agree"]},
    ]
    items = items_of(Judgments.from_rows(rows, BUILT_IN_SCALES["agree-pass-disagree"]))
    assert items.ranks.tolist() == [2, 1, 0, 2, 2, 1]


def test_rows_that_rank_nothing_are_left_out_and_counted():
    rows = [
        {"prompt": "", "responses": ["a"], "ranks": [1]},
        {"prompt": "", "responses": ["a", "b"], "ranks": [1, 2]},
    ]
    judgments = Judgments.from_rows(rows)
    items = items_of(judgments)
    assert (items.judgments, items.left_out, items.row.tolist()) == (1, 1, [1])
    assert len(items_of(judgments, keep_all=True).row) == 2
    with pytest.raises(PluralignError, match="no judgment is left: 1 row"):
        items_of(judgments.select([0]))


def test_messages_are_told_apart_by_content():
    def message(role, text):
        return [{"role": role, "content": text}]

    rows = [
        {
            "prompt": message("user", "Tea?"),
            "responses": [message("assistant", "Yes"), message("assistant", "No")],
            "ranks": [1, 2],
        }
    ] * 2
    items = items_of(Judgments.from_rows(rows))
    assert (len(items.prompts), len(items.responses)) == (1, 2)
