"""Post-stratification: plain counts where the sample has the population's shares, and hand-computed weights."""

import numpy as np
import pytest

from pluralign.choice.post_stratification import crowd_counts


def annotator_by_annotator(stratum, label, shares, labels):
    """Counts, used shares and dropped strata of one item, from the weights w_h = W_s / n_s of its annotators."""
    voters = np.bincount(stratum, minlength=len(shares))
    used = np.where(voters > 0, shares, 0)
    used = used / used.sum()
    weights = used[stratum] / voters[stratum]
    effective_size = weights.sum() ** 2 / (weights**2).sum()
    counts = effective_size * np.bincount(label, weights, labels) / weights.sum()
    return counts, used, (voters == 0) & (shares > 0)


def test_shares_of_the_sample_give_the_plain_counts():
    draw = np.random.default_rng(0)
    counts = draw.integers(1, 9, (3, 5)).astype(float)  # strata, labels
    shares = counts.sum(1) / counts.sum()
    np.testing.assert_allclose(crowd_counts(counts, shares).counts, counts.sum(0), rtol=1e-12)
    # Fractions of votes too: a reliability, or votes that faded.
    part = counts * 0.37
    np.testing.assert_allclose(crowd_counts(part, shares).counts, part.sum(0), rtol=1e-12)


def test_by_hand():
    """Three of stratum 0 (two say A), one of stratum 1 (B), each stratum half of the population.

    w = 1/6, 1/6, 1/6, 1/2; sum 1; sum of squares 3/36 + 9/36 = 1/3; n_eff 3; c_A = 3 * 2/6 = 1, c_B = 2.
    """
    found = crowd_counts([[2.0, 1.0], [0.0, 1.0]], [0.5, 0.5])
    np.testing.assert_allclose(found.counts, [1.0, 2.0], rtol=1e-14)
    assert found.counts.sum() == pytest.approx(3, rel=1e-14)


def test_items_at_once_are_those_of_annotators_one_by_one():
    draw = np.random.default_rng(1)
    shares = np.array([0.2, 0.5, 0.3])
    stratum, label, item = draw.integers(0, 3, 90), draw.integers(0, 4, 90), draw.integers(0, 12, 90)
    counts = np.zeros((12, 3, 4))
    np.add.at(counts, (item, stratum, label), 1.0)
    found = crowd_counts(counts, shares)
    for one in range(12):
        own = item == one
        expected, used, dropped = annotator_by_annotator(stratum[own], label[own], shares, 4)
        np.testing.assert_allclose(found.counts[one], expected, rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(found.shares[one], used, rtol=1e-12)
        np.testing.assert_array_equal(found.dropped[one], dropped)
    assert (found.counts.sum(1) <= counts.sum((1, 2)) + 1e-12).all()


def test_empty_strata_are_dropped_and_the_others_rescaled():
    found = crowd_counts([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]], [1.0, 5.0, 3.0])
    np.testing.assert_allclose(found.shares, [0.25, 0, 0.75])
    # w = 0.25, 0.375, 0.375: n_eff = 1 / (0.0625 + 0.28125).
    np.testing.assert_allclose(found.counts, np.array([0.25, 0.75]) / 0.34375)
    assert found.dropped.tolist() == [False, True, False]
    empty = crowd_counts(np.zeros((2, 3)), [0.5, 0.5])
    assert empty.counts.tolist() == [0, 0, 0]
    assert empty.shares.tolist() == [0, 0]
    # A stratum of share 0 has no weight, and alone no voice.
    assert crowd_counts([[4.0, 0.0], [0.0, 4.0]], [0.0, 1.0]).counts.tolist() == [0, 4]
    assert crowd_counts([[4.0, 0.0], [0.0, 0.0]], [0.0, 1.0]).counts.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: crowd_counts([[1.0, 1.0]] * 2, [-1.0, 2.0]), "shares: found"),
        (lambda: crowd_counts([[1.0, 1.0]] * 2, [np.nan, 2.0]), "shares: found"),
        (lambda: crowd_counts([[1.0, 1.0]], [0.0]), "not all 0"),
        (lambda: crowd_counts([[1.0, 1.0]], [0.5, 0.5]), "2 strata"),
    ],
)
def test_what_does_not_fit_is_refused(call, expected):
    with pytest.raises(ValueError, match=expected):
        call()
