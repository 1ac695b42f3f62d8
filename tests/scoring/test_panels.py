"""People: tables as panels of choices."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import BUILT_IN_SCALES, LabelScale
from pluralign.judgments.table import Judgments
from pluralign.scoring.panels import bar_of, people_of
from pluralign.scoring.traits import text_traits

VOTES = BUILT_IN_SCALES["agree-pass-disagree"]


def test_rankings_keep_their_ranks_weights_and_annotators():
    rows = [
        {
            "prompt": "Tea?",
            "responses": ["Yes", "No", "Maybe"],
            "ranks": [2, 1, None],
            "annotator": "b",
            "weight": 0.5,
        },
        {"prompt": "Rain?", "responses": ["Yes"], "ranks": [1], "annotator": "c"},
        {"prompt": "Rain?", "responses": ["No", "Yes"], "ranks": [1, 1], "annotator": "a"},
        {"prompt": "Rain?", "responses": ["Yes", "No"], "ranks": [1, 2], "annotator": "b"},
    ]
    people = people_of(Judgments.from_rows(rows))
    assert people.panel.ranks.tolist() == [[2, 1, 0], [1, 1, -1], [1, 2, -1]]
    assert people.panel.reliability.tolist() == [0.5, 1.0, 1.0]
    assert people.names == ["b", "a"]
    assert people.panel.annotator_ids.tolist() == [0, 1, 0]
    assert people.left_out == 1
    assert not people.bars.any()
    texts = [[people.items.responses[one] for one in row[:2]] for row in people.panel.responses[1:]]
    assert texts == [["No", "Yes"], ["Yes", "No"]]


def test_annotators_without_an_id_are_each_their_own():
    rows = [
        {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2], "annotator": name}
        for name in ("a", None, None, "a")
    ]
    people = people_of(Judgments.from_rows(rows))
    assert people.panel.annotator_ids.tolist() == [0, 1, 2, 0]
    assert people.names == ["a", None, None]


def test_a_label_is_a_choice_between_the_response_and_the_bar_of_its_prompt():
    rows = [
        {"prompt": "Buses?", "responses": ["More", "Fewer"], "labels": ["agree", None], "annotator": "a"},
        {"prompt": "Trams?", "responses": ["More"], "labels": ["disagree"], "annotator": "a"},
        {"prompt": "Trams?", "responses": ["None"], "labels": ["pass"], "annotator": "b"},
    ]
    people = people_of(Judgments.from_rows(rows, VOTES))
    names = [*people.items.responses, "bar 0", "bar 1"]
    shown = [[names[one] for one in row] for row in people.panel.responses]
    assert shown == [["More", "bar 0"], ["More", "bar 1"], ["None", "bar 1"]]
    assert people.panel.ranks.tolist() == [[1, 2], [2, 1], [1, 1]]
    assert people.code.tolist() == [2, 0, 1]
    assert people.prompt[people.bars].tolist() == [0, 1]
    assert people.row.tolist() == [0, 1, 2]


def test_the_bar_is_the_zero_or_the_middle_of_a_scale():
    assert bar_of(VOTES) == 0.0
    assert bar_of(LabelScale("stars", ("1", "2", "3", "4"), (1.0, 2.0, 3.0, 4.0))) == 2.5


def test_a_table_that_says_nothing_is_refused():
    with pytest.raises(PluralignError, match="no judgment is left"):
        people_of(Judgments.from_rows([{"prompt": "Tea?", "responses": ["Yes"], "ranks": [1]}]))


def test_traits_are_standardised_and_those_without_variation_are_left_out():
    names, values = text_traits(["I like it!", "Longer words everywhere, 12 of them?", "Short"])
    assert "lists and line breaks" not in names
    assert np.allclose(values.mean(0), 0)
    assert np.allclose(values.std(0), 1)
    assert values[0, names.index("first person")] > 0 > values[2, names.index("first person")]
    assert text_traits(["same", "same"])[0] == []
