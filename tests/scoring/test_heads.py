"""Heads: in one pass or in chunks, the log-probabilities and gradients of the plain log-softmax."""

import pytest
import torch

from pluralign.scoring.heads import token_log_probs


@pytest.mark.parametrize("at_once", [1, 60, 10**9])
@pytest.mark.parametrize("kept", [1, 10**9])
def test_chunks_give_the_plain_values_and_gradients(at_once, kept):
    torch.manual_seed(0)
    head, states = torch.nn.Linear(8, 20), torch.randn(13, 8, requires_grad=True)
    targets, upstream = torch.randint(0, 20, (13,)), torch.randn(13)
    results = []
    for compute in (
        lambda: torch.log_softmax(head(states), -1)[torch.arange(13), targets],
        lambda: token_log_probs(head, states, targets, 20, at_once, kept),
    ):
        head.zero_grad()
        states.grad = None
        values = compute()
        (values * upstream).sum().backward()
        results.append((values.detach(), states.grad, head.weight.grad, head.bias.grad))
    for found, expected in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(token_log_probs(head, states, targets, 20, at_once, kept), results[0][0])


def test_half_precision_states_are_normalised_in_float32():
    head, states = torch.nn.Linear(4, 50).to(torch.bfloat16), torch.randn(3, 4, dtype=torch.bfloat16)
    found = token_log_probs(head, states, torch.tensor([0, 1, 2]), 50)
    assert found.dtype == torch.float32
    expected = torch.log_softmax(head(states).float(), -1)[torch.arange(3), torch.arange(3)]
    torch.testing.assert_close(found, expected)


def test_extreme_logits_are_finite():
    states = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    found = token_log_probs(lambda state: state * torch.tensor([[1.0, 2.0, 0.0]]), states, torch.tensor([0, 1]), 3)
    found.sum().backward()
    torch.testing.assert_close(found.detach(), torch.tensor([-1e4, -2e4]))
    assert torch.isfinite(states.grad).all()
