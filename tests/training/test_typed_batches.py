"""Routing judgments to types: row weights by hand, draws that are right on average, steps of one type each."""

import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pluralign.judgments import Judgments
from pluralign.scoring.items import items_of
from pluralign.training.batches import JudgmentSampler
from pluralign.training.em_dpo.typed_batches import TypedCollator, TypedSampler, typed_rows


def table(seed, annotators=9, types=3, judgments=60):
    """Responsibilities `(annotators, K)`, who made each judgment, and its reliability."""
    draw = np.random.default_rng(seed)
    gamma = draw.dirichlet(np.full(types, 0.6), annotators)
    return gamma, draw.integers(annotators, size=judgments), draw.choice([0.5, 1.0, 2.0], judgments)


def routed(gamma, annotator, reliability, routing, rows=None, skip_below=0.05, seed=0):
    rows = np.arange(len(annotator)) if rows is None else rows
    return typed_rows(gamma, annotator, reliability, rows, routing, skip_below, np.random.default_rng(seed))


def test_dense_weights_by_hand():
    """Three annotators with 2, 1 and 1 judgments; only the first three judgments train."""
    gamma = np.array([[0.8, 0.2], [0.4, 0.6], [0.0, 1.0]])
    annotator, reliability = np.array([0, 0, 1, 2]), np.array([1.0, 3.0, 2.0, 5.0])
    found = routed(gamma, annotator, reliability, "dense", rows=np.array([0, 1, 2]))
    first, second = (0.8 + 3 * 0.8 + 2 * 0.4) / 6, (0.2 + 3 * 0.2 + 2 * 0.6) / 6
    assert [members.tolist() for members in found.members] == [[0, 1, 2]] * 2
    expected = [[0.8 / first, 0.8 / first, 0.4 / first, 0], [0.2 / second, 0.2 / second, 0.6 / second, 0]]
    np.testing.assert_allclose(found.weights, expected, rtol=1e-6)
    everyone = routed(gamma, annotator, reliability, "dense")
    assert everyone.members[0].tolist() == [0, 1, 2], "who is certainly of another type is not read for nothing"
    assert everyone.members[1].tolist() == [0, 1, 2, 3]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["dense", "sparse", "sampled"]))
def test_factors_average_to_one(seed, routing):
    """Over a type's members, by reliability: the loss of a whole M-step is then a mean."""
    gamma, annotator, reliability = table(seed)
    rows = np.flatnonzero(np.random.default_rng(seed).random(len(annotator)) < 0.6)
    found = routed(gamma, annotator, reliability, routing, rows, seed=seed)
    for kind, members in enumerate(found.members):
        assert set(members.tolist()) <= set(rows.tolist())
        if len(members):
            mean = np.average(found.weights[kind, members], weights=reliability[members])
            assert mean == pytest.approx(1, rel=1e-5)
        others = np.setdiff1d(np.arange(len(annotator)), members)
        assert not found.weights[kind, others].any()


def test_sparse_is_dense_without_what_is_too_small():
    gamma, annotator, reliability = table(1)
    dense = routed(gamma, annotator, reliability, "dense")
    tiny = routed(gamma, annotator, reliability, "sparse", skip_below=1e-300)
    np.testing.assert_array_equal(tiny.weights, dense.weights)
    for kind in range(3):
        np.testing.assert_array_equal(tiny.members[kind], dense.members[kind])
    some = routed(gamma, annotator, reliability, "sparse", skip_below=0.2)
    for kind in range(3):
        enough = np.flatnonzero(gamma[annotator, kind] >= 0.2)
        assert 0 < len(enough) < len(annotator)
        np.testing.assert_array_equal(some.members[kind], enough)
        ratio = some.weights[kind, enough] / dense.weights[kind, enough]
        np.testing.assert_allclose(ratio, ratio[0], rtol=1e-5)


def test_a_draw_gives_an_annotator_to_one_type():
    gamma, annotator, reliability = table(2)
    found = routed(gamma, annotator, reliability, "sampled")
    assert sorted(np.concatenate(found.members).tolist()) == list(range(len(annotator))), "each is read once"
    for person in range(9):
        mine = set(np.flatnonzero(annotator == person).tolist())
        assert sum(bool(mine & set(members.tolist())) for members in found.members) == 1
    for kind, members in enumerate(found.members):
        np.testing.assert_array_equal(found.weights[kind, members], 1)
    again = routed(gamma, annotator, reliability, "sampled")
    np.testing.assert_array_equal(again.weights, found.weights)
    others = [routed(gamma, annotator, reliability, "sampled", seed=seed).weights for seed in range(1, 6)]
    assert any(not np.array_equal(other, found.weights) for other in others)
    state = np.random.get_state()[1].copy(), random.getstate(), torch.random.get_rng_state()
    routed(gamma, annotator, reliability, "sampled")
    assert np.array_equal(np.random.get_state()[1], state[0])
    assert random.getstate() == state[1]
    assert torch.equal(torch.random.get_rng_state(), state[2])


def test_the_expected_gradient_of_a_draw_is_the_dense_one():
    """Of a logistic regression with a parameter vector for each type, both divided by judgments times eta_k.

    Means of 4,000 draws may miss by four of their standard errors; 9 numbers are compared.
    """
    gamma, annotator, reliability = table(3)
    draw = np.random.default_rng(7)
    features, theta = draw.normal(size=(len(annotator), 3)), draw.normal(size=(3, 3))
    each = -features[None] / (1 + np.exp(theta @ features.T))[..., None]  # (K, judgments, p): of -log sigmoid
    weight = reliability.sum()

    def gradient(found):
        """The weighted sum over a type's members, `(K, p)`."""
        return np.einsum("j,kj,kjp->kp", reliability, found.weights.astype(float), each)

    dense = gradient(routed(gamma, annotator, reliability, "dense")) / weight
    eta = reliability @ gamma[annotator] / weight  # of the judgments
    draws = np.array([gradient(routed(gamma, annotator, reliability, "sampled", seed=seed)) for seed in range(4000)])
    draws /= weight * eta[:, None]
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - dense) < 4 * error).all()
    assert (error < 0.05 * np.abs(dense).max()).all(), "the comparison says something"


def sampler_of(members, step, seed=0, town=None):
    items = items_of(Judgments.from_rows(town))
    parts = [JudgmentSampler(items, 2, (seed, kind), np.array(mine, int)) for kind, mine in enumerate(members)]
    return TypedSampler(parts, items.judgments, step, (seed,))


@pytest.mark.parametrize("step", [1, 4, 8])
def test_steps_are_of_one_type_and_hold_every_judgment_once(step, town_rows):
    members = [range(0, 37), range(20, 60, 3), [], [11]]
    sampler = sampler_of(members, step, town=town_rows)
    sampler.set_epoch(0)
    order = list(sampler)
    assert len(order) == len(sampler) == step * sum(-(-len(mine) // step) for mine in members)
    steps = [order[start : start + step] for start in range(0, len(order), step)]
    kinds = []
    for entries in steps:
        found = {entry // 160 if entry >= 0 else -1 - entry for entry in entries}
        assert len(found) == 1
        kinds += found
        assert sum(entry >= 0 for entry in entries) > 0
    for kind, mine in enumerate(members):
        assert sorted(entry % 160 for entry in order if entry >= 0 and entry // 160 == kind) == list(mine)
        assert Counter(kinds)[kind] == -(-len(mine) // step)
    assert kinds != sorted(kinds), "types are mixed"
    assert list(sampler) == order
    sampler.set_epoch(1)
    assert list(sampler) != order
    assert list(sampler_of(members, step, seed=1, town=town_rows)) != order


def test_a_single_type_keeps_its_sampler_s_order(town_rows):
    sampler = sampler_of([range(5, 30)], 8, town=town_rows)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        alone = JudgmentSampler(sampler.samplers[0].items, 2, (0, 0), np.arange(5, 30))
        alone.set_epoch(epoch)
        assert list(sampler) == list(alone)
    assert len(sampler) == 25


@dataclass(frozen=True)
class Collated:
    """Stands in for `JudgmentCollator`: keeps what it was asked for."""

    def __call__(self, batch):
        return {"batch": batch, "weight": torch.tensor([1.0 + judgment for judgment in batch])}


def test_batches_carry_their_type_and_the_factors_of_its_judgments():
    weights = np.arange(12, dtype=np.float32).reshape(3, 4)
    collate = TypedCollator(Collated(), weights)
    found = collate([4 + 3, 4 + 0, -2])
    assert (found["type"], found["batch"]) == (1, [3, 0])
    assert found["factor"].tolist() == [7, 4]
    assert found["weight"].tolist() == [4, 1]
    filling = collate([-3, -3])
    assert filling["type"] == 2
    assert filling["weight"].tolist() == [0] * len(filling["batch"])
    assert len(filling["factor"]) == len(filling["batch"]) == 1
    with pytest.raises(ValueError, match="unpack"):
        collate([0, 4])
