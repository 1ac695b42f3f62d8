"""Shrunk scales of annotators, groups and sources."""

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.group_scales import GroupScales, fit_group_scales, scale_metrics
from pluralign.evaluation.pairs import pairs_of


def crowd(scales, each, seed=0, size=1.0):
    """Pairs judged by people with these scales, and their names; margins are those of a scale of 1."""
    draw = np.random.default_rng(seed)
    who = np.repeat(np.arange(len(scales)), each)
    margin = np.abs(size * draw.normal(size=len(who)))
    right = draw.random(len(who)) < 1 / (1 + np.exp(-np.array(scales)[who] * margin))
    rewards = np.stack((margin, np.zeros(len(who))), 1).ravel()
    ranks = np.where(right[:, None], [1, 2], [2, 1]).ravel()
    pairs = pairs_of(rewards, ranks, np.arange(len(who) + 1) * 2, np.arange(len(who)), np.ones(len(who)), None, who)
    return pairs, [f"a{number}" for number in who]


def test_scales_are_shrunk_and_nearer_to_the_truth_than_one_and_than_single_estimates():
    draw = np.random.default_rng(1)
    true = np.clip(1 + 0.5 * draw.normal(size=200), 0.1, None)
    pairs, names = crowd(true, 40, size=1.5)
    fitted = fit_group_scales(pairs, names, "annotator")
    found = np.array([fitted.scales[f"a{number}"] for number in range(200)])
    assert 0.3 < fitted.spread < 0.7
    error = np.mean((found - true) ** 2)
    assert error < 0.8 * np.mean((1 - true) ** 2)
    assert np.std(found) < np.std(true), "shrunk"
    fresh, others = crowd(true, 40, seed=2, size=1.5)
    gain = scale_metrics(fresh, others, fitted)
    assert gain["gain_of_annotator_scales_low"] > 0
    assert gain["scaled_share"] == 1


def test_people_who_do_not_differ_get_about_the_same_scale():
    pairs, names = crowd(np.ones(300), 10)
    fitted = fit_group_scales(pairs, names, "annotator")
    assert fitted.spread < 0.35
    assert np.std(list(fitted.scales.values())) < 0.1


def test_closed_form_by_hand():
    """Two groups with opposite deviations: d, I, tau and the shrinkage as in the formulas."""
    pairs, names = crowd([3.0, 0.2], 400, size=1.0)
    fitted = fit_group_scales(pairs, names, "group")
    d, information = [], []
    for number in range(2):
        own = np.array(names) == f"a{number}"
        m = pairs.margin[own]
        p = 1 / (1 + np.exp(-m))
        information.append((m**2 * p * (1 - p)).sum())
        d.append((m * (1 - p)).sum() / information[-1])
    d, information = np.array(d), np.array(information)
    tau2 = ((information * d**2).sum() - 2) / information.sum()
    assert fitted.spread == pytest.approx(np.sqrt(tau2))
    expected = 1 + d * tau2 / (tau2 + 1 / information)
    np.testing.assert_allclose(list(fitted.scales.values()), np.maximum(expected, 0.05), rtol=1e-12)
    assert fitted.of(["a1", None, "new"]).tolist() == [fitted.scales["a1"], 1.0, 1.0]
    assert GroupScales.from_dict(fitted.as_dict()) == fitted


def test_what_is_no_set_of_scales_is_refused():
    pairs, names = crowd([1.0], 5)
    with pytest.raises(PluralignError, match="no judgment has a value in the column source"):
        fit_group_scales(pairs, [None] * len(names), "source")
    for wrong in (3, {"scales": {"a": "b"}, "spread": 1.0}, {"scales": {}, "spread": None}):
        with pytest.raises(PluralignError, match="by: found"):
            GroupScales.from_dict(wrong)
