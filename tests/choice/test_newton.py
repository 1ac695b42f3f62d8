"""Newton's method and conjugate gradients: solutions known in closed form, and one fit by both."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pluralign.choice.latent_class import em
from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.newton import Local, conjugate_gradients, maximise


def definite(batch, size, seed=0):
    rows = torch.randn(batch, size, size + 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return rows @ rows.mT


def test_a_parabola_is_maximised_by_one_step():
    matrix, target = definite(4, 5), torch.arange(20, dtype=torch.float64).view(4, 5)

    def local(x):
        gradient = ((target - x).unsqueeze(1) @ matrix)[:, 0]
        value = -((target - x) * gradient).sum(-1) / 2
        return Local(value, gradient, lambda right: torch.linalg.solve(matrix, right))

    found, value = maximise(local, torch.zeros(4, 5, dtype=torch.float64), steps=1)
    torch.testing.assert_close(found, target, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(value, torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)


def test_steps_that_would_overshoot_are_halved():
    """Newton on -log cosh(x) runs away from where |x| > 1.09; halving brings every start home."""

    def local(x):
        curvature = 1 / x.cosh().square()
        return Local(-x.cosh().log().sum(-1), -x.tanh(), lambda right: right / curvature)

    start = torch.tensor([[0.0], [1.0], [2.0], [-5.0], [9.0]], dtype=torch.float64)
    found, value = maximise(local, start)
    torch.testing.assert_close(found, torch.zeros_like(start), rtol=0, atol=1e-6)
    assert (value >= local(start).value).all()


def test_conjugate_gradients_solve_a_batch():
    matrix = definite(3, 12)
    right = torch.randn(3, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    right[1] = 0
    found = conjugate_gradients(
        lambda x: (matrix @ x.unsqueeze(-1))[..., 0],
        right,
        lambda x: x / matrix.diagonal(dim1=-2, dim2=-1),
        tolerance=1e-13,
    )
    torch.testing.assert_close(found, torch.linalg.solve(matrix, right), rtol=1e-8, atol=1e-10)
    assert (found[1] == 0).all()


@pytest.mark.parametrize("types", [1, 2])
@pytest.mark.parametrize("kind", ["features", "own features", "shared worths", "worths in parts"])
def test_every_way_to_a_newton_step_gives_the_same_fit(types, kind, simulate, monkeypatch):
    """By whole Hessians and by conjugate gradients; by expectation maximisation and by Newton's method."""
    truth = np.array([[1.5, -1.0, 0.5, 0.2], [-1.0, 1.0, 0.5, -0.8]])[:types]
    panel, _ = simulate(truth, worths="worths" in kind)
    settings = {"types": types, "max_iterations": 12, "ridge": 1e-4, "polish": False}
    if kind == "worths in parts":
        odd = np.arange(panel.judgments)[:, None] % 2
        panel = replace(panel, responses=panel.response_ids + 4 * odd, response_total=9)
        truth = np.concatenate((truth, truth, truth[:, :1]), 1)
        settings["fixed"] = np.where(np.arange(9) == 5, 0.3, np.nan) * np.ones((types, 1))
    elif kind != "own features":
        settings["shared"] = [2]
    else:
        settings["common_ridge"] = 1e-5
    settings["coefficients_init"] = truth / 2
    used = []
    monkeypatch.setattr(
        em,
        "conjugate_gradients",
        lambda *given, **_: used.append(1) or conjugate_gradients(*given, tolerance=1e-12),
    )
    fits = [LatentClassPlackettLuce(**settings).fit(panel)]
    assert not used
    for name in ("DENSE_PARAMETERS", "DENSE_ALONE"):
        monkeypatch.setattr(em, name, 0)
    fits.append(LatentClassPlackettLuce(**settings).fit(panel))
    assert used
    for polish in (False, True):
        fits.append(LatentClassPlackettLuce(**settings | {"polish": polish, "max_iterations": 500}).fit(panel))
    np.testing.assert_allclose(fits[1].coefficients_, fits[0].coefficients_, atol=1e-6)
    np.testing.assert_allclose(fits[1].log_likelihood_, fits[0].log_likelihood_, rtol=1e-9)
    np.testing.assert_allclose(fits[3].log_likelihood_, fits[2].log_likelihood_, rtol=1e-6)
