import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics
from pluralign.evaluation.slices import annotator_table, sliced_metrics

FIVE = ("rewards", "ranks", "offsets", "prompt", "weight")


@pytest.mark.parametrize("seed", range(3))
def test_slices_equal_the_metrics_of_their_judgments(rankings, subset, seed):
    data = rankings(seed)
    rng = np.random.default_rng(seed)
    slices = {
        column: [None if name == "none" else str(name) for name in rng.choice(names, size=60)]
        for column, names in (("source", ["b", "a", "none"]), ("group", ["x=1", "none", "old/new", "z"]))
    }
    metrics = sliced_metrics(pairs_of(*(data[name] for name in FIVE)), slices)
    expected = {}
    for column, values in slices.items():
        for name in {value for value in values if value is not None}:
            part = subset(data, [j for j, value in enumerate(values) if value == name])
            whole = pair_metrics(pairs_of(*(part[key] for key in FIVE)))
            for metric in ("accuracy", "log_loss", "ece", "ece_squared", "brier", "pairs"):
                expected[f"{metric}/{column}={name}"] = whole[metric]
    assert metrics == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_annotator_table_equals_the_metrics_of_their_judgments(rankings, subset):
    data = rankings(5)
    annotator = [None if k == 0 else f"person {k}" for k in np.random.default_rng(5).integers(9, size=60)]
    table = annotator_table(pairs_of(*(data[name] for name in FIVE)), annotator)
    assert table["annotator"] == sorted({name for name in annotator if name is not None})
    for k, name in enumerate(table["annotator"]):
        judgments = [j for j, who in enumerate(annotator) if who == name]
        part = subset(data, judgments)
        whole = pair_metrics(pairs_of(*(part[key] for key in FIVE)))
        assert table["judgments"][k] == len(judgments)
        for column in ("pairs", "accuracy", "log_loss"):
            assert table[column][k] == pytest.approx(whole[column], rel=1e-12, abs=1e-12)


def test_an_empty_slice_has_a_count_only():
    pairs = pairs_of([1.0, 0.0, 1.0, 1.0], [1, 1, 1, 2], [0, 2, 4], [0, 1], [1.0, 1.0])
    metrics = sliced_metrics(pairs, {"source": ["tied", "level"]})
    assert sorted(metrics) == [
        "accuracy/source=level",
        "brier/source=level",
        "log_loss/source=level",
        "pairs/source=level",
        "pairs/source=tied",
    ]
    assert metrics["pairs/source=tied"] == 0
    assert sliced_metrics(pairs, {"source": [None, None]}) == {}
    assert annotator_table(pairs, [None, None]) == {
        name: [] for name in ("annotator", "judgments", "pairs", "accuracy", "log_loss")
    }


def test_errors_name_the_column():
    pairs = pairs_of([1.0, 0.0], [1, 2], [0, 2], [0], [1.0])
    with pytest.raises(PluralignError, match="group: 2 values, expected 1"):
        sliced_metrics(pairs, {"group": ["a", "b"]})
    with pytest.raises(PluralignError, match="annotator: found 7, expected text or None"):
        annotator_table(pairs, [7])
