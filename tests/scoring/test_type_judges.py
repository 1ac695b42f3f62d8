"""Judges of types: they order responses as the town's types do, are stored whole, and weigh annotators."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.judgments.population import PROMPTS, Town, compose, simulate
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.type_judges import ScorerJudges, fit_feature_judge, read_feature_judge


@pytest.fixture(scope="module")
def town():
    return simulate(Town(annotators=30, judgments_per_annotator=12, seed=3))


@pytest.fixture(scope="module")
def judge(town):
    names = [kind.name for kind in town.town.types]
    posteriors = {who: np.eye(3)[names.index(group)] for who, group in town.types.items()}
    shares = {kind.name: kind.share for kind in town.town.types}
    return fit_feature_judge(town.judgments, posteriors, shares, dimensions=32)


def test_new_responses_are_ordered_as_their_type_does(town, judge):
    rng = np.random.default_rng(0)
    texts = [compose(PROMPTS[0], rng).text for _ in range(200)]
    found = judge.utilities(items_of_texts([PROMPTS[0]], [texts]))
    true = np.array([town.utilities(text) for text in texts]).T
    agreement = np.array([[spearmanr(own, other).statistic for other in true] for own in found])
    assert (np.diag(agreement) > 0.6).all()
    assert (agreement.argmax(1) == np.arange(3)).all(), "and not as another type"


def test_a_stored_judge_is_the_same(judge, tmp_path):
    judge.write(tmp_path)
    items = items_of_texts(["Tea?"], [["Thank you, it takes 5 minutes.", "Perhaps.", ""]])
    np.testing.assert_array_equal(read_feature_judge(tmp_path).utilities(items), judge.utilities(items))
    (tmp_path / "judges.json").write_text('{"types": []}')
    with pytest.raises(PluralignError, match="judges.json: is not valid"):
        read_feature_judge(tmp_path)


def test_only_the_annotators_of_a_type_speak_for_it():
    """Ann and Bo say the opposite; the third annotator has no posterior and counts by the shares."""
    rows = [
        {"prompt": "?", "responses": ["red hat", "blue hat"], "ranks": ranks, "annotator": who}
        for who, ranks in (("ann", [1, 2]), ("bo", [2, 1]), (None, [1, 2]))
        for _ in range(5)
    ]
    posteriors = {"ann": np.array([1.0, 0.0]), "bo": np.array([0.0, 1.0])}
    judge = fit_feature_judge(Judgments.from_rows(rows), posteriors, {"a": 0.75, "b": 0.25})
    values = judge.utilities(items_of_texts(["?"], [["red", "blue"]]))
    margins = values[:, 0] - values[:, 1]
    assert margins[0] > 0 > margins[1]
    assert margins[0] > -margins[1], "the third says the same as the first, and little of it in the second type"


def test_responses_without_words_or_differences_are_refused():
    def table(*responses):
        rows = [{"prompt": "?", "responses": list(responses), "ranks": [1, 2], "annotator": "ann"}]
        return Judgments.from_rows(rows)

    with pytest.raises(PluralignError, match="hold no words"):
        fit_feature_judge(table("!", "?"), {}, {"a": 1.0})


def test_reward_models_may_judge():
    class Length:
        def score_items(self, items):
            return np.array([float(len(text)) for text in items.responses])

    items = items_of_texts(["?"], [["a", "bbb"]])
    assert ScorerJudges([Length(), Length()]).utilities(items).tolist() == [[1.0, 3.0], [1.0, 3.0]]
