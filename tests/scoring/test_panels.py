"""People: tables as panels of choices."""

import numpy as np
import pytest

from pluralign.choice.latent_class.identification import design
from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import BUILT_IN_SCALES, LabelScale
from pluralign.judgments.table import Judgments
from pluralign.scoring.annotator_types import PRIOR, with_features
from pluralign.scoring.features import text_features
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


def test_a_closed_list_of_responses_has_no_direction_that_choices_cannot_show():
    """Six statements have at most five directions of differences; utilities keep their prior."""
    texts = [
        "raise taxes now",
        "lower all taxes",
        "build more homes",
        "keep the park",
        "more buses",
        "no new roads at all",
    ]
    rng = np.random.default_rng(0)
    rows = [
        {
            "prompt": "What now?",
            "responses": texts,
            "ranks": (rng.permutation(6) + 1).tolist(),
            "annotator": f"h{number % 9}",
        }
        for number in range(27)
    ]
    people = people_of(Judgments.from_rows(rows))
    found, ridge = with_features(people, "tfidf", 64, 0)
    raw = text_features(people.items, "tfidf", dimensions=64).astype(np.float64)
    raw = raw[:, raw.std(0) > 0]
    plain = (raw - raw.mean(0)) / raw.std(0)
    features = np.asarray(found.panel.features)
    assert plain.shape[1] > features.shape[1] == 5
    np.testing.assert_allclose(features @ features.T, plain @ plain.T, atol=1e-9)
    assert ridge == plain.shape[1] / PRIOR**2
    collected = design(found.panel, people.prompt)
    assert collected.rank == collected.features == 5
