"""Vote counts and their slices: by hand, and what they show of drift."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.crowds.distributions import evaluate_distributions
from pluralign.evaluation.crowds.vote_slices import sliced_votes, time_names, vote_counts


def voted(seed=0, votes=400, items=30, labels=3):
    draw = np.random.default_rng(seed)
    item, label = draw.integers(items, size=votes), draw.integers(labels, size=votes)
    names = np.array(["old", "young", None], dtype=object)
    time = np.datetime64("2025-01-10") + draw.integers(0, 60, size=votes)
    return item, label, names[draw.integers(3, size=votes)].tolist(), time, draw.choice([0.5, 1.0, 2.0], size=votes)


def test_a_slice_is_judged_by_its_own_votes():
    item, label, group, time, reliability = voted()
    mu = np.random.default_rng(1).dirichlet(np.ones(3), size=30)
    prompt, weight, kappa = np.arange(30) // 3, np.linspace(1, 2, 30), np.linspace(3, 9, 30)
    columns = {"group": group, "time": time_names(time)}
    common = {
        "rewards": [1.0, 0.0, -2.0],
        "prompt": prompt,
        "weight": weight,
        "concentration": kappa,
        "replicates": 0,
    }
    found = evaluate_distributions(
        mu, vote_counts(item, label, 30, 3, reliability),
        slices=sliced_votes(item, label, 30, 3, columns, reliability), **common,
    )  # fmt: skip
    names = {key.split("/")[1] for key in found if "/" in key}
    assert names == {"group=old", "group=young", "time=2025-01", "time=2025-02", "time=2025-03"}
    for column, value in (name.split("=") for name in names):
        own = np.array([v == value for v in columns[column]])
        counts = vote_counts(item[own], label[own], 30, 3, reliability[own])
        alone = evaluate_distributions(mu, counts, **common)
        assert alone.pop("left_out") == (counts.sum(1) == 0).sum()
        sliced = {key.split("/")[0]: v for key, v in found.items() if key.endswith(f"/{column}={value}")}
        assert sliced == pytest.approx(alone, abs=1e-12)


def test_counts_by_hand_and_slices_add_up():
    item, label, _, time, reliability = voted(2)
    counts = vote_counts(item, label, 30, 3, reliability)
    expected = np.zeros((30, 3))
    for i, k, w in zip(item, label, reliability, strict=True):
        expected[i, k] += w
    np.testing.assert_allclose(counts, expected, atol=1e-12)
    total = np.zeros((30, 3))
    for one in sliced_votes(item, label, 30, 3, {"time": time_names(time, "day")}, reliability):
        total[one.items] += one.votes
    np.testing.assert_allclose(total, counts, atol=1e-12)
    silent = sliced_votes([0, 1], [0, 0], 2, 2, {"group": ["heard", "silent"]}, weight=[1.0, 0.0])
    assert [one.name for one in silent] == ["group=heard"]


def test_windows_of_time_are_named_in_order():
    times = np.array(["2024-12-31T23:59:59", "NaT", "2025-01-01"], dtype="datetime64[us]")
    assert time_names(times) == ["2024-12", None, "2025-01"]
    assert time_names(times, "year") == ["2024", None, "2025"]
    assert time_names(times, "day") == ["2024-12-31", None, "2025-01-01"]
    with pytest.raises(PluralignError, match="window is 'months', expected one of year.*'month'"):
        time_names(times, "months")
    with pytest.raises(PluralignError, match="times: .*expected datetime64 or ISO 8601"):
        time_names(["yesterday"])


def test_drift_shows_in_the_slices_of_time():
    """A prediction that fits January; in March the crowd has changed its mind."""
    draw = np.random.default_rng(3)
    before, after = draw.dirichlet(np.ones(3), size=(2, 40))
    item = np.repeat(np.arange(40), 50)
    labels = [np.concatenate([draw.choice(3, 50, p=p) for p in shares]) for shares in (before, after)]
    times = ["2025-01-05"] * 2000 + ["2025-03-05"] * 2000
    all_items, all_labels = np.tile(item, 2), np.concatenate(labels)
    found = evaluate_distributions(
        before, vote_counts(all_items, all_labels, 40, 3), [1, 0, -1], np.arange(40), replicates=0,
        slices=sliced_votes(all_items, all_labels, 40, 3, {"time": time_names(times)}),
    )  # fmt: skip
    assert found["transport_cost/time=2025-01"] < 0.15 < 0.4 < found["transport_cost/time=2025-03"]


def test_votes_that_do_not_fit_are_refused():
    for match, call in {
        r"label\[1\] is 3, expected 0 to 2": lambda: vote_counts([0, 0], [0, 3], 1, 3),
        r"item\[0\] is -1, expected 0 to 0": lambda: vote_counts([-1], [0], 1, 3),
        "label: 1 values, expected 2": lambda: vote_counts([0, 0], [0], 1, 3),
        r"weight\[0\] is -1.0": lambda: vote_counts([0], [0], 1, 3, [-1.0]),
        "group: 1 values, expected 2": lambda: list(sliced_votes([0, 0], [0, 0], 1, 3, {"group": ["a"]})),
    }.items():
        with pytest.raises(PluralignError, match=match):
            call()
