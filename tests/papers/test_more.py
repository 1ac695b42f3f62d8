"""Truth tests of MORE, "On Diversified Preferences of Large Language Model Alignment", arXiv 2312.07401.

The weights meet the conditions of the min-norm point and agree with TorchJD's Frank-Wolfe solver (MGDA); gradients in
closed form equal autograd, also in the trainer; uniform and proportional weights are the plain mean.
"""

import numpy as np
import pytest
import torch
from torchjd.aggregation import MGDAWeighting

from more_setup import NAMES, head_gradients, make, rows
from pluralign.choice import min_norm
from pluralign.choice.min_norm import (
    NO_GRADIENT,
    SmoothedGramian,
    gradient_sums,
    gramian,
    min_norm_weights,
    residuals,
)
from pluralign.choice.plackett_luce import log_likelihood, pair_log_likelihood
from pluralign.judgments import Judgments
from pluralign.training.reward_trainer import (
    BradleyTerryConfig,
    BradleyTerryTrainer,
    PlackettLuceConfig,
    PlackettLuceTrainer,
)

SOURCES = (1, 2, 3, 5, 8, 17, 64)
NORMALIZE = ("l2", "none")


def duality_gap(inner, weights):
    """lambda' G lambda - min_k (G lambda)_k, which is 0 exactly at the min-norm point (its KKT conditions)."""
    return float(weights @ inner @ weights - (inner @ weights).min())


def gradients(kind, sources, seed):
    """`(sources, d)` of some shape."""
    draw = np.random.default_rng([seed, sources])
    width = int(draw.integers(1, 3 * sources + 2))
    found = draw.normal(size=(sources, width))
    one = draw.normal(size=width)
    match kind:
        case "random":
            return found
        case "same direction":
            return found + 5 * one
        case "opposed":
            return np.where(np.arange(sources)[:, None] % 2, -1, 1) * one + 1e-9 * found
        case "collinear":
            return draw.uniform(0.1, 10, size=(sources, 1)) * one
        case "nearly collinear":
            return draw.uniform(0.5, 2, size=(sources, 1)) * one + 10.0 ** -draw.integers(4, 9) * found
        case "wildly scaled":
            return 10.0 ** draw.uniform(-6, 6, size=(sources, 1)) * found
        case "some zero":
            return found * (draw.random((sources, 1)) < 0.5)
        case "zero":
            return 0 * found
        case "repeated":
            return found[draw.integers(sources, size=sources)]
    raise AssertionError(kind)


KINDS = (
    "random", "same direction", "opposed", "collinear", "nearly collinear", "wildly scaled", "some zero", "zero",
    "repeated",
)  # fmt: skip


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("kind", KINDS)
def test_the_weights_fulfil_the_conditions_of_the_min_norm_point(kind, normalize):
    """lambda' G lambda <= (G lambda)_k for every source with a gradient, to 1e-6 of the largest square."""
    for sources in SOURCES:
        for seed in range(6):
            inner = (found := gradients(kind, sources, seed)) @ found.T
            weights = min_norm_weights(inner, normalize=normalize)
            assert weights.min() >= 0
            assert weights.sum() == pytest.approx(1, abs=1e-12)
            lengths = np.sqrt(inner.diagonal())
            live = lengths > NO_GRADIENT * lengths.max()
            if not live.any():
                np.testing.assert_allclose(weights, 1 / sources)
                continue
            assert not weights[~live].any()
            chosen = inner[np.ix_(live, live)]
            if normalize == "l2":
                chosen = chosen / np.outer(lengths[live], lengths[live])
            assert duality_gap(chosen, weights[live]) <= 1e-6 * chosen.diagonal().max()


@pytest.mark.parametrize("kind", ["random", "same direction", "wildly scaled", "nearly collinear"])
def test_no_other_point_of_the_simplex_is_shorter(kind):
    draw = np.random.default_rng(0)
    for sources in (2, 3, 8):
        found = gradients(kind, sources, 1)
        weights = min_norm_weights(found @ found.T, normalize="none")
        others = np.concatenate((np.eye(sources), draw.dirichlet(np.full(sources, 0.5), size=500)))
        others = np.concatenate((others, 0.999 * weights + 0.001 * others))
        shortest = np.linalg.norm(others @ found, axis=1).min()
        assert np.linalg.norm(weights @ found) <= shortest + 1e-9 * np.linalg.norm(found, axis=1).max()


@pytest.mark.parametrize("kind", ["random", "same direction", "opposed", "nearly collinear", "collinear", "repeated"])
@pytest.mark.parametrize("sources", [2, 3, 5, 8])
def test_the_weights_agree_with_torchjd(kind, sources):
    """TorchJD's MGDA solves the same problem by Frank-Wolfe, whose excess after t steps is of the order 1 / t.

    The weights themselves need not be unique, but the weighted sum of gradients is. By convexity the squared distance
    between the two sums is at most the difference of their squared lengths.
    """
    found = gradients(kind, sources, 1)
    inner = found @ found.T
    scale = inner.diagonal().max()
    weights = min_norm_weights(inner, normalize="none")
    theirs = MGDAWeighting(epsilon=1e-12, max_iters=1000)(torch.from_numpy(inner)).numpy()
    excess = theirs @ inner @ theirs - weights @ inner @ weights
    assert -1e-12 * scale <= excess <= 1e-3 * scale
    assert np.square((weights - theirs) @ found).sum() <= excess + 1e-9 * scale


@pytest.mark.parametrize("sources", SOURCES)
def test_orthogonal_gradients(sources):
    """Without normalising in proportion to 1 / ||g_k||^2, with it 1 / K."""
    lengths = np.random.default_rng(sources).uniform(0.2, 5, sources)
    inner = np.diag(lengths**2)
    expected = lengths**-2.0 / (lengths**-2.0).sum()
    np.testing.assert_allclose(min_norm_weights(inner, normalize="none"), expected, rtol=1e-9)
    np.testing.assert_allclose(min_norm_weights(inner), 1 / sources, rtol=1e-9)


def test_lengths_that_differ_a_thousandfold_keep_their_small_weights():
    lengths = np.array([1.0, 30.0, 1000.0])
    expected = lengths**-2 / (lengths**-2).sum()
    np.testing.assert_allclose(min_norm_weights(np.diag(lengths**2), normalize="none"), expected, rtol=1e-10)


def test_two_gradients_by_hand():
    """lambda_1 = g_2 . (g_2 - g_1) / ||g_1 - g_2||^2 where that is in [0, 1], else the nearer end."""
    for one, two in (([1.0, 0.0], [-0.5, 1.0]), ([1.0, 0.2], [3.0, 0.1]), ([2.0, 0.0], [-1.0, 0.0])):
        g, h = np.array(one), np.array(two)
        first = np.clip(h @ (h - g) / ((g - h) @ (g - h)), 0, 1)
        stacked = np.stack((g, h))
        np.testing.assert_allclose(
            min_norm_weights(stacked @ stacked.T, normalize="none"), [first, 1 - first], atol=1e-9
        )
        np.testing.assert_allclose(min_norm_weights(stacked @ stacked.T), 0.5, atol=1e-9)


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_one_source_has_all_the_weight(normalize):
    for square in (4.0, 1e-30, 0.0):
        assert min_norm_weights([[square]], normalize=normalize).tolist() == [1.0]


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_the_same_gradient_has_the_same_weight(normalize):
    draw = np.random.default_rng(3)
    one = draw.normal(size=(3, 6))
    np.testing.assert_allclose(
        min_norm_weights(np.full((5, 5), 7.0), normalize=normalize), 1 / 5, rtol=1e-9
    )  # all are one
    found = one[[0, 1, 0, 2, 0]]
    weights = min_norm_weights(found @ found.T, normalize=normalize)
    alone = min_norm_weights(one @ one.T, normalize=normalize)
    np.testing.assert_allclose(weights, [alone[0] / 3, alone[1], alone[0] / 3, alone[2], alone[0] / 3], atol=1e-9)
    # In float32, as training gives them.
    close = torch.from_numpy(found).float()
    assert np.ptp(min_norm_weights(gramian(close), normalize=normalize)[[0, 2, 4]]) == 0


@pytest.mark.parametrize("normalize", NORMALIZE)
def test_who_is_absent_or_has_no_gradient_has_no_weight(normalize):
    found = np.random.default_rng(0).normal(size=(4, 9))
    found[1] *= 0.9e-12 * np.linalg.norm(found[[0, 2, 3]], axis=1).max() / np.linalg.norm(found[1])
    inner = found @ found.T
    weights = min_norm_weights(inner, normalize=normalize)
    assert weights[1] == 0
    np.testing.assert_array_equal(
        weights[[0, 2, 3]], min_norm_weights(inner[np.ix_([0, 2, 3], [0, 2, 3])], normalize=normalize)
    )
    absent = min_norm_weights(inner, normalize=normalize, present=[True, False, True, False])
    assert absent[[1, 3]].tolist() == [0, 0]
    np.testing.assert_array_equal(absent[[0, 2]], min_norm_weights(inner[np.ix_([0, 2], [0, 2])], normalize=normalize))
    # The longest is of those present: where only the short one is, it is not short.
    short = np.diag([1.0, 1e-26, 4e-26, 1.0])
    expected = min_norm_weights(np.diag([1.0, 4.0]), normalize=normalize)
    near = min_norm_weights(short, normalize=normalize, present=[False, True, True, False])
    np.testing.assert_allclose(near, [0, *expected, 0], rtol=1e-9)
    nobody = min_norm_weights(np.zeros((4, 4)), normalize=normalize, present=[True, False, True, True])
    np.testing.assert_allclose(nobody, [1 / 3, 0, 1 / 3, 1 / 3], rtol=1e-12)


@pytest.mark.parametrize("normalize", NORMALIZE)
@pytest.mark.parametrize("kind", ["random", "same direction", "some zero"])
def test_sources_in_another_order_have_the_same_weights(kind, normalize):
    draw = np.random.default_rng(1)
    for sources in (3, 8, 17):
        found = gradients(kind, sources, 2)[:, : 2 * sources]
        found = np.concatenate((found, 0.3 * np.eye(sources) * (np.abs(found).sum(1) > 0)), 1)  # one solution
        order = draw.permutation(sources)
        inner = found @ found.T
        weights = min_norm_weights(inner, normalize=normalize)
        again = min_norm_weights(inner[np.ix_(order, order)], normalize=normalize)
        np.testing.assert_allclose(again, weights[order], atol=1e-9)


@pytest.mark.parametrize("kind", ["random", "same direction", "opposed", "nearly collinear", "collinear"])
def test_without_normalising_the_step_lowers_every_loss(kind):
    """g_k . sum lambda g >= ||sum lambda g||^2 for every source with a gradient."""
    for sources in SOURCES:
        found = gradients(kind, sources, 4)
        weights = min_norm_weights(found @ found.T, normalize="none")
        step = weights @ found
        assert (found @ step).min() >= step @ step - 1e-9 * np.square(found).sum(1).max()


def test_scale_of_all_gradients_does_not_matter():
    found = gradients("random", 8, 0)
    for normalize in NORMALIZE:
        weights = min_norm_weights(found @ found.T, normalize=normalize)
        for scale in (1e-20, 1e20):
            again = min_norm_weights(scale**2 * found @ found.T, normalize=normalize)
            np.testing.assert_allclose(again, weights, atol=1e-9)


def test_what_cannot_be_weighted_is_said():
    for wrong in ([1.0, 2.0], [[1.0, 2.0]], np.zeros((0, 0))):
        with pytest.raises(ValueError, match=r"gramian: expected \(sources, sources\), found"):
            min_norm_weights(wrong)
    for wrong in (np.nan, np.inf):
        with pytest.raises(ValueError, match="gramian: expected finite numbers"):
            min_norm_weights([[1.0, 0.0], [0.0, wrong]])
    with pytest.raises(ValueError, match="no source has a judgment"):
        min_norm_weights(np.eye(2), present=[False, False])
    with pytest.raises(ValueError, match=r"present: expected \(2,\), found \(1,\)"):
        min_norm_weights(np.eye(2), present=[True])


# Gradients in closed form.


def test_the_residuals_of_a_pair_are_what_is_left_to_probability_one():
    u = torch.tensor([[0.3, -0.9], [2.0, 2.5]], dtype=torch.float64, requires_grad=True)
    ranks = torch.tensor([[1, 2], [2, 1]])
    left = torch.sigmoid(-(u[[0, 1], [0, 1]] - u[[0, 1], [1, 0]])).detach()
    expected = torch.tensor([[-left[0], left[0]], [left[1], -left[1]]])
    for like in (log_likelihood, pair_log_likelihood):
        torch.testing.assert_close(residuals(-like(u, ranks), u), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("top", [None, 1, 2, 3])
def test_the_residuals_of_a_ranking_are_summed_over_its_places(top):
    """sum over t <= q of (p_ts - [s = t]), p_t the softmax over those not yet ranked."""
    torch.manual_seed(0)
    u = (2 * torch.randn(6, 5, dtype=torch.float64)).requires_grad_()
    ranks = torch.stack([torch.randperm(5) + 1 for _ in range(6)])
    ranks[0, 1] = -1  # not shown
    ranks[1] = torch.tensor([1, 0, 2, 0, 0])  # two places, the others not ranked
    found = residuals(-log_likelihood(u, ranks, top=top), u)
    expected = np.zeros((6, 5))
    for row, (values, places) in enumerate(zip(u.detach().numpy(), ranks.numpy(), strict=True)):
        left = [s for s in range(5) if places[s] >= 0]
        order = sorted((s for s in left if places[s] > 0), key=lambda s: places[s])
        for t in order[:top]:
            shares = np.exp(values[left]) / np.exp(values[left]).sum()
            expected[row, left] += shares
            expected[row, t] -= 1
            left.remove(t)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-13)


def judged(seed=0, judgments=40, responses=15, width=4, sources=3, types=False):
    """Rankings with ties, padding and weights over shared responses: index, ranks, states, membership."""
    draw = np.random.default_rng(seed)
    index = np.stack([draw.choice(responses, width, replace=False) for _ in range(judgments)])
    ranks = draw.integers(0, 4, size=(judgments, width))
    ranks[ranks.max(1) == 0, 0] = 1
    ranks[draw.random((judgments, width)) < 0.15] = -1
    member = (
        draw.dirichlet(np.ones(sources), judgments)
        if types
        else np.eye(sources)[draw.integers(sources, size=judgments)]
    )
    weight = draw.uniform(0.2, 3, size=(judgments, 1))
    states = torch.from_numpy(draw.normal(size=(responses, 7)))
    return torch.from_numpy(index), torch.from_numpy(ranks), states, torch.from_numpy(member * weight)


LIKELIHOODS = {
    **{ties: (lambda u, r, ties=ties: log_likelihood(u, r, ties=ties)) for ties in ("efron", "breslow")},
    **{ties: (lambda u, r, ties=ties: log_likelihood(u, r.clamp(max=3), ties=ties)) for ties in ("average", "marginal")},
    **{f"pairs, {ties}": (lambda u, r, ties=ties: pair_log_likelihood(u, r, ties=ties))
       for ties in ("efron", "breslow", "average", "marginal")},
    "top 2": lambda u, r: log_likelihood(u, r, top=2),
}  # fmt: skip


@pytest.mark.parametrize("types", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LIKELIHOODS)
def test_gradients_at_a_linear_head_are_those_of_autograd(name, bias, types):
    """Of each source's weighted mean loss, with respect to the weights of the head; a bias changes nothing."""
    width = 3 if name in ("average", "marginal") else 4
    index, ranks, states, membership = judged(width=width, types=types)
    torch.manual_seed(1)
    head = torch.nn.Linear(7, 1, bias=bias, dtype=torch.float64)

    def losses():
        return -LIKELIHOODS[name](head(states)[:, 0][index], ranks)

    utilities = head(states)[:, 0][index]
    residual = residuals(-LIKELIHOODS[name](utilities, ranks), utilities)
    torch.testing.assert_close(residual.sum(1), torch.zeros(len(index), dtype=torch.float64), rtol=0, atol=1e-13)
    found = gradient_sums(residual, index, states, membership) / membership.sum(0).unsqueeze(-1)
    for source in range(3):
        mine = membership[:, source]
        head.zero_grad()
        ((mine * losses()).sum() / mine.sum()).backward()
        torch.testing.assert_close(found[source], head.weight.grad[0], rtol=1e-11, atol=1e-14)
        if bias:
            assert abs(head.bias.grad.item()) < 1e-13


def test_the_graph_under_the_utilities_is_left_whole():
    """The residuals are had on the way, and the backward pass comes after."""
    u = torch.tensor([[0.5, -0.5]], requires_grad=True)
    middle = 2 * u
    losses = -log_likelihood(middle, torch.tensor([[1, 2]]))
    found = residuals(losses, middle)
    assert not found.requires_grad
    assert u.grad is None
    losses.sum().backward()
    torch.testing.assert_close(u.grad, 2 * found)


def test_inner_products_are_taken_in_float64():
    given = torch.tensor([[1.0, 1e-5], [1.0, 0.0]], dtype=torch.float32)
    found = gramian(given)
    assert found.dtype == np.float64
    assert found[0, 0] - found[0, 1] == pytest.approx(1e-10, rel=1e-5)  # lost in float32


# Over several steps.


def test_a_share_of_one_is_the_gramian_of_the_step():
    smoothed = SmoothedGramian(1.0)
    for seed in range(3):
        own = torch.from_numpy(gradients("random", 5, seed)[:, :1])
        np.testing.assert_allclose(smoothed.add(own[None], torch.ones(1, 5, dtype=torch.bool)), gramian(own))


@pytest.mark.parametrize("kind", ["averaged", "half-batch"])
def test_the_start_is_not_biased(kind):
    """The same gradients in every step give their own Gramian from the first step on, whoever was absent before."""
    own = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 7)))
    smoothed = SmoothedGramian(0.05, kind)
    parts = own.expand(smoothed.halves, 3, 7)
    for step in range(6):
        present = torch.ones(smoothed.halves, 3, dtype=torch.bool)
        present[:, 2] = step > 2
        found = smoothed.add(parts * present.unsqueeze(-1), present)
        known = 3 if step > 2 else 2
        np.testing.assert_allclose(found[:known, :known], gramian(own)[:known, :known], rtol=1e-12)


def test_noise_leaves_a_step_s_weights_uniform_and_not_those_of_many_steps():
    """Two sources that agree and one against them, 16 noisy judgments each: in truth, half of the weight is its."""
    draw = np.random.default_rng(0)
    true = np.array([1.0, 1.0, -1.0])[:, None] * draw.normal(size=100) / 10
    present = torch.ones(2, 3, dtype=torch.bool)
    found = {}
    for share, kind in ((1.0, "averaged"), (0.02, "averaged"), (0.02, "half-batch")):
        smoothed, weights = SmoothedGramian(share, kind), []
        for _ in range(300):
            halves = torch.from_numpy(true + draw.normal(size=(2, 3, 100)) / np.sqrt(8))
            given = halves.mean(0, keepdim=True) if smoothed.halves == 1 else halves
            weights.append(min_norm_weights(smoothed.add(given, present[: smoothed.halves])))
        found[share, kind] = np.mean(weights[100:], 0)[2]
    assert found[1.0, "averaged"] < 0.4
    assert found[0.02, "averaged"] > 0.45
    assert found[0.02, "half-batch"] > 0.45


def test_a_stored_state_continues_to_the_bit():
    for kind in ("averaged", "half-batch"):
        calm = SmoothedGramian(0.1, kind)
        draw = torch.Generator().manual_seed(0)
        for step in range(6):
            parts = torch.randn(calm.halves, 4, 9, generator=draw)
            present = torch.rand(calm.halves, 4, generator=draw) < 0.8
            if step == 3:
                state = {name: tensor.clone() for name, tensor in calm.state.items()}
                resumed = SmoothedGramian(0.1, kind, state)
            expected = calm.add(parts, present)
            if step >= 3:
                np.testing.assert_array_equal(resumed.add(parts, present), expected)


def test_a_share_or_kind_that_is_none_is_refused():
    for share in (0.0, 1.1):
        with pytest.raises(ValueError, match="share: found"):
            SmoothedGramian(share)
    with pytest.raises(ValueError, match="kind: found 'halves', expected averaged or half-batch"):
        SmoothedGramian(0.5, "halves")


# In the trainer.


@pytest.fixture(scope="module")
def judgments():
    return Judgments.from_rows(rows())


@pytest.mark.parametrize("values", [
    {}, {"loss_type": "bradley-terry"}, {"top": 1}, {"ties": "breslow"}, {"center_rewards_coefficient": 0.3},
    {"normalize": "none"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("folder", ["tiny_model", "tiny_encoder"])
def test_the_weights_are_those_of_the_gradients_by_autograd(folder, values, judgments, tmp_path, request, monkeypatch):
    """And the loss is sum_k lambda_k (mean loss of k), its gradient at the head sum_k lambda_k g_k."""
    trainer = make(request.getfixturevalue(folder), judgments, tmp_path, new_gradient_share=1.0, **values)
    used = []
    monkeypatch.setattr(min_norm, "gramian", lambda gradients: used.append(gradients.float()) or gramian(gradients))
    for start in (0, 37):
        inputs = trainer.data_collator(list(range(start, start + 11)))
        means, expected, counts = head_gradients(trainer, inputs)
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, inputs)
        loss.backward()
        # Float32 sums over some tens of responses.
        scale = expected.abs().max().item()
        torch.testing.assert_close(used[-1], expected, rtol=1e-4, atol=1e-5 * scale)
        weights = min_norm_weights(gramian(expected), normalize=trainer.args.normalize)
        found = trainer.source_logs.taken(trainer.accelerator)
        np.testing.assert_allclose([found[f"weight/source={name}"] for name in NAMES], weights, atol=1e-4)
        np.testing.assert_allclose([found[f"loss/source={name}"] for name in NAMES], means, rtol=1e-5)
        np.testing.assert_allclose(
            [found[f"gradient_norm/source={name}"] for name in NAMES], expected.norm(dim=1), rtol=1e-4
        )
        weights = np.array([found[f"weight/source={name}"] for name in NAMES])
        assert loss.item() == pytest.approx(weights @ means, rel=1e-5)
        step = torch.from_numpy(weights).float() @ expected
        torch.testing.assert_close(trainer.model.score.weight.grad[0], step, rtol=1e-4, atol=1e-5 * scale)
        assert (counts > 0).all()


@pytest.mark.parametrize("weights", ["proportional", "uniform"])
@pytest.mark.parametrize("loss_type", ["plackett-luce", "bradley-terry"])
def test_the_controls_are_the_plain_mean(weights, loss_type, judgments, tiny_model, tmp_path):
    """Loss and every gradient of the plain trainer: `uniform` where the sources weigh the same."""
    kind = (
        (PlackettLuceConfig, PlackettLuceTrainer)
        if loss_type == "plackett-luce"
        else (BradleyTerryConfig, BradleyTerryTrainer)
    )
    plain = make(tiny_model, judgments, tmp_path, kind=kind, ties="efron")
    ours = make(tiny_model, judgments, tmp_path, weights=weights, loss_type=loss_type)
    batch = list(range(12)) if weights == "uniform" else [0, 3, 6, 7, 11, 14, 15]
    counts = ours.data_collator(batch)["weight"] @ ours.data_collator(batch)["membership"]
    assert (counts.max() == counts.min()) == (weights == "uniform")
    losses = []
    for trainer in (plain, ours):
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(batch))
        loss.backward()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for (name, one), other in zip(plain.model.named_parameters(), ours.model.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-6 * one.grad.abs().max(), msg=name)
