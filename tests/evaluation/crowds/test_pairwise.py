"""Pairwise calibration of label distributions: unbiased under vote noise, 0 for the truth."""

import numpy as np
import pytest

from pluralign.evaluation.crowds.pairwise import pairwise_calibration

REWARDS = [1.0, 0.0, -1.0]


def test_shares_by_counting_pairs_of_votes():
    counts = np.array([[3, 1, 2], [1, 4, 0], [2, 2, 2]])
    mu = np.random.default_rng(0).dirichlet(np.ones(3), size=3)

    def share(a, b):
        return sum(
            p * q * (1.0 if x > y else 0.5 if x == y else 0.0)
            for p, x in zip(a, REWARDS, strict=True)
            for q, y in zip(b, REWARDS, strict=True)
        )

    s = counts / counts.sum(1, keepdims=True)
    squares = [(share(mu[i], mu[j]) - share(s[i], s[j])) ** 2 for i, j in ((0, 1), (0, 2), (1, 2))]
    found = pairwise_calibration(mu, counts, REWARDS, [7, 7, 7], replicates=0)
    assert found["pairwise_pairs"] == 3
    assert found["pairwise_calibration"] + found["pairwise_noise"] == pytest.approx(np.mean(squares), rel=1e-12)


def test_the_truth_has_an_error_of_zero_and_a_wrong_model_its_own():
    draw = np.random.default_rng(0)
    truth = draw.dirichlet(np.ones(3), size=2000)
    sizes = draw.integers(2, 8, size=2000)
    counts = np.stack([draw.multinomial(n, row) for n, row in zip(sizes, truth, strict=True)])
    prompt = np.arange(2000) // 2
    right = pairwise_calibration(truth, counts, REWARDS, prompt)
    assert right["pairwise_calibration_low"] < 0 < right["pairwise_calibration_high"]
    flat = np.full((2000, 3), 1 / 3)
    many = np.stack([draw.multinomial(100_000, row) for row in truth])
    expected = pairwise_calibration(flat, many, REWARDS, prompt, replicates=0)["pairwise_calibration"]
    found = pairwise_calibration(flat, counts, REWARDS, prompt)
    assert found["pairwise_calibration_low"] < expected < found["pairwise_calibration_high"]
    assert found["pairwise_calibration"] == pytest.approx(expected, abs=0.012)


def test_single_votes_and_prompts_of_one_response_take_no_part():
    assert pairwise_calibration(np.eye(3), np.eye(3), REWARDS, [0, 0, 0]) == {}
    assert pairwise_calibration(np.eye(3), 5 * np.eye(3), REWARDS, [0, 1, 2]) == {}
