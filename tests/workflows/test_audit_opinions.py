"""What types and groups say about each response: by hand on tiny panels."""

import numpy as np
import pytest
from scipy.special import expit

from pluralign.evaluation.annotators.voted_pairs import voted_pairs
from pluralign.judgments.scales import BUILT_IN_SCALES, LabelScale
from pluralign.judgments.table import Judgments
from pluralign.scoring.panels import people_of
from pluralign.workflows.audit.opinions import example_pairs, group_views, judged_often, type_views

AGREE = BUILT_IN_SCALES["agree-pass-disagree"]


def labels_of(votes, scale=AGREE):
    """A panel of (annotator, statement, label)."""
    rows = [
        {"prompt": "Buses?", "responses": [response], "labels": [label], "annotator": name}
        for name, response, label in votes
    ]
    return people_of(Judgments.from_rows(rows, scale))


def rankings_of(rankings, **columns):
    """A panel of (annotator, {response: rank})."""
    rows = [
        {"prompt": "Tea?", "responses": list(of), "ranks": list(of.values()), "annotator": name, **columns}
        for name, of in rankings
    ]
    return people_of(Judgments.from_rows(rows))


def by_response(views):
    return {viewed.response: viewed for viewed in views.responses}


def test_labels_are_shared_out_by_responsibility():
    people = labels_of(
        [("a", "More", "agree"), ("b", "More", "disagree"), ("c", "More", "pass"), ("a", "Less", "pass")]
    )
    responsibilities = np.array([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0]])
    views = type_views(people, responsibilities, AGREE)
    assert views.answers == ["agree", "pass", "disagree"]
    assert views.viewers == ["type 1", "type 2"]
    more, less = by_response(views)["More"], by_response(views)["Less"]
    assert more.views[0].shares == pytest.approx([1 / 1.25, 0, 0.25 / 1.25])
    assert more.views[0].judgments == pytest.approx(1.25)
    assert more.views[1].shares == pytest.approx([0, 1 / 1.75, 0.75 / 1.75])
    assert less.views[0].shares == [0, 1, 0]
    assert less.views[1].shares == []
    assert less.views[1].judgments == 0
    assert (more.divides, more.agreed) == (0, 0)  # too few judgments to compare


def test_the_most_dividing_response_is_first_and_agreement_names_its_answer():
    votes = []
    for person in range(20):
        first = person < 10
        votes += [(f"p{person}", "apart", "agree" if first else "disagree"), (f"p{person}", "together", "disagree")]
        votes += [(f"p{person}", "middle", "agree" if first else "pass")]
    responsibilities = np.repeat(np.eye(2), 10, axis=0)
    views = type_views(labels_of(votes), responsibilities, AGREE)
    assert [viewed.response for viewed in views.responses] == ["apart", "middle", "together"]
    apart, middle, together = views.responses
    # Ten judgments and five more at the mean of both types: (10 + 2.5) / 15 against 2.5 / 15.
    assert apart.divides == pytest.approx(10 / 15)
    assert middle.divides == pytest.approx(5 / 15)
    assert (together.divides, together.agreed, together.agreed_on) == (0, 1, "disagree")
    assert apart.agreed == pytest.approx(2.5 / 15)


def test_labels_on_one_side_of_the_middle_are_counted_together():
    votes = [("a", "x", "1"), ("b", "x", "2"), ("c", "x", "4"), ("d", "x", "3")]
    views = type_views(labels_of(votes, BUILT_IN_SCALES["1-to-5"]), np.ones((4, 1)), BUILT_IN_SCALES["1-to-5"])
    assert views.answers == ["5 or 4", "3", "2 or 1"]
    assert views.viewers == ["all annotators"]
    assert views.responses[0].views[0].shares == [0.25, 0.25, 0.5]
    binary = LabelScale("yes-no", ("no", "yes"), (0.0, 1.0))
    views = type_views(
        labels_of([("a", "x", "yes"), ("b", "x", "no"), ("b", "x", "no")], binary), np.ones((2, 1)), binary
    )
    assert views.answers == ["yes", "no"]
    assert views.responses[0].views[0].shares == pytest.approx([1 / 3, 2 / 3])


def test_rankings_give_the_share_of_the_others_that_a_response_beats():
    people = rankings_of(
        [
            ("a", {"green": 1, "black": 2, "white": 3}),
            ("b", {"green": 2, "black": 1}),
            ("c", {"green": 1, "black": 1}),
            ("c", {"green": 1, "black": None, "white": None}),
        ]
    )
    views = type_views(people, np.ones((3, 1)), None)
    assert views.answers == ["preferred", "not preferred"]
    shares = {
        name: (viewed.views[0].shares[0], viewed.views[0].judgments) for name, viewed in by_response(views).items()
    }
    assert shares["green"] == pytest.approx(((1 + 0 + 0.5 + 1) / 4, 4))
    # Black is compared with green only in the last ranking: both black and white were left unranked.
    assert shares["black"] == pytest.approx(((0.5 + 1 + 0.5 + 0) / 4, 4))
    assert shares["white"] == pytest.approx(((0 + 0) / 2, 2))


def test_a_judgment_counts_by_its_weight():
    people = rankings_of([("a", {"green": 1, "black": 2})], weight=0.5)
    assert type_views(people, np.ones((1, 1)), None).responses[0].views[0].judgments == 0.5


def test_groups_are_seen_by_their_members_the_largest_first():
    people = rankings_of([(name, {"green": 1 + (name == "c"), "black": 2 - (name == "c")}) for name in "abcd"])
    views = group_views(people, ["old", "old", "young", None], None)
    assert views.viewers == ["old", "young"]
    green = by_response(views)["green"]
    assert [view.shares[0] for view in green.views] == [1, 0]
    assert [view.judgments for view in green.views] == [2, 1]
    assert group_views(people, ["old", "old", None, None], None) is None
    many = group_views(
        rankings_of([(f"p{n}", {"x": 1, "y": 2}) for n in range(20)]), [f"g{n}" for n in range(20)], None
    )
    assert len(many.viewers) == 12


def test_responses_judged_often_have_shares():
    assert judged_often(labels_of([(f"p{n}", "x", "agree") for n in range(10)]))
    assert not judged_often(labels_of([(f"p{n}", "x", "agree") for n in range(9)]))
    assert judged_often(rankings_of([(f"p{n}", {"x": 1, "y": 2}) for n in range(10)]))
    assert not judged_often(rankings_of([(f"p{n}", {f"x{n}": 1, "y": 2}) for n in range(30)]))


def pairs_of(people):
    shown = people.panel.rank_values > -1
    offsets = np.concatenate(([0], shown.sum(1).cumsum()))
    return voted_pairs(people.panel.response_ids[shown], people.panel.rank_values[shown], offsets)


def test_example_pairs_are_those_about_which_types_differ_most():
    rows = [
        {"prompt": prompt, "responses": [f"{prompt} long", f"{prompt} short"], "ranks": [1, 2], "annotator": "a"}
        for prompt in ("apart", "same", "slightly")
    ]
    people = people_of(Judgments.from_rows(rows))
    gaps = {"apart": (-2.0, 2.0), "same": (3.0, 2.5), "slightly": (0.5, 0.1)}
    utilities = np.zeros((2, 6))
    for place, response in enumerate(people.items.responses):
        prompt, kind = response.split()
        if kind == "long":
            utilities[:, place] = gaps[prompt]
    examples = example_pairs(people, pairs_of(people), utilities, np.array([0.7, 0.3]))
    assert [pair.prompt for pair in examples.divide] == ["apart", "slightly", "same"]
    # The first response is the choice of the largest type.
    assert (examples.divide[0].first, examples.divide[0].second) == ("apart short", "apart long")
    assert examples.divide[0].probabilities == pytest.approx([expit(2.0), expit(-2.0)])
    assert [pair.prompt for pair in examples.agree] == ["same", "slightly"]
    single = example_pairs(people, pairs_of(people), utilities[:1], np.ones(1))
    assert single.types == ["all annotators"]
    assert single.divide == []
    assert [pair.prompt for pair in single.agree] == ["same", "apart", "slightly"]


def test_an_example_of_a_label_has_one_response():
    people = labels_of([("a", "x", "agree"), ("b", "y", "disagree")])
    utilities = np.array([[1.0, -1.0, 0.0], [-1.0, -2.0, 0.0]])
    examples = example_pairs(people, pairs_of(people), utilities, np.array([0.5, 0.5]))
    assert [(pair.first, pair.second) for pair in examples.divide] == [("x", None), ("y", None)]
    assert examples.divide[0].probabilities == pytest.approx([expit(1.0), expit(-1.0)])
    assert [pair.first for pair in examples.agree] == ["y"]
