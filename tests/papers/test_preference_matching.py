"""Truth tests of preference matching, arXiv 2405.16455.

"On the Algorithmic Bias of Aligning LLMs with RLHF: Preference Collapse and Matching Regularization": optima by soft
backward induction on trees, the ends that are KL-RLHF (TRL's RLOO to the bit) and DPO, and fixed points on bandits,
online and offline.
"""

import itertools
import math

import numpy as np
import peft
import pytest
import torch
import trl
from datasets import Dataset
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    set_seed,
)

from matching_setup import (
    COMMON,
    LORA,
    REFERENCE,
    between,
    expected_judgments,
    letters_model,
    logged,
    offline_trainer,
    prompts,
    token_model,
    tuned,
    words,
)
from pluralign.choice.preference_matching import (
    Penalty,
    charged,
    flattened,
    inside,
    inside_mask,
    matched_log_probs,
    with_shares,
)
from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.training.dpo import DPOConfig, DPOTrainer

pytestmark = pytest.mark.usefixtures("reference_cache")

END, SYMBOLS, DEPTH = 2, 3, 3


class Tree:
    """All responses of three symbols up to three tokens, the last of which may end one early."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.reference: dict[tuple[int, ...], Tensor] = {}
        self.reward: dict[tuple[int, ...], float] = {}
        for length in range(DEPTH + 1):
            for prefix in itertools.product(range(SYMBOLS), repeat=length):
                if END in prefix[:-1]:
                    continue
                if prefix[-1:] == (END,) or length == DEPTH:
                    self.reward[prefix] = float(torch.randn((), generator=generator, dtype=torch.float64))
                else:
                    logits = 2 * torch.randn(SYMBOLS, generator=generator, dtype=torch.float64)
                    self.reference[prefix] = logits.log_softmax(-1)

    def padded(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the reference `(responses, tokens)` with rubbish as padding, mask, rewards."""
        responses = list(self.reward)
        log_probs = torch.full((len(responses), DEPTH), math.nan, dtype=torch.float64)
        mask = torch.zeros(len(responses), DEPTH)
        for row, response in enumerate(responses):
            for place, token in enumerate(response):
                log_probs[row, place] = self.reference[response[:place]][token]
                mask[row, place] = 1
        return log_probs, mask, torch.tensor(list(self.reward.values()), dtype=torch.float64)

    def charged(self, penalty: Penalty) -> Tensor:
        """What a penalty charges of each response, from the reference's logits: `(responses,)`."""
        log_probs, mask, _ = self.padded()
        steps = [(row, place) for row, place in zip(*np.nonzero(mask.numpy()), strict=True)]
        responses = list(self.reward)
        logits = torch.stack([self.reference[responses[row][:place]] for row, place in steps])
        targets = torch.tensor([responses[row][place] for row, place in steps])
        found, own = with_shares(logits + 3, targets, penalty.alpha, [END])
        torch.testing.assert_close(found, log_probs[mask.bool()], rtol=0, atol=1e-12)
        shares = torch.full_like(log_probs, math.nan).masked_scatter(mask.bool(), own)
        return charged(log_probs, mask, penalty, shares).sum(-1)

    def induced(self, penalty: Penalty, beta: float) -> Tensor:
        """The optimum token by token, from the leaves to the root: what no formula over responses enters.

        V(leaf) = r / beta, Q(s, a) = charged(s, a) + V(s a), V(s) = log sum exp Q, pi(a|s) = exp(Q - V).
        """
        policy: dict[tuple[int, ...], Tensor] = {}

        def value(prefix: tuple[int, ...]) -> Tensor:
            if prefix in self.reward:
                return torch.tensor(self.reward[prefix] / beta, dtype=torch.float64)
            own = self.reference[prefix]
            likely = own.exp() > penalty.alpha
            takes = {
                "kl": own,
                "pm": torch.zeros_like(own),
                "conditional": own.masked_fill(likely, 0.0),
                "tempered": penalty.reference_weight * own,
                "flattened": flat_by_hand(own, penalty.alpha),
            }
            after = torch.stack([value((*prefix, token)) for token in range(SYMBOLS)])
            gain = takes[penalty.mode] + after
            policy[prefix] = gain.log_softmax(-1)
            return gain.logsumexp(-1)

        value(())
        return torch.stack(
            [sum(policy[response[:place]][token] for place, token in enumerate(response)) for response in self.reward]
        )


def flat_by_hand(log_probs: Tensor, alpha: float) -> Tensor:
    """One distribution with its likely tokens, the end token excepted, equally likely."""
    probs = log_probs.exp().tolist()
    likely = [token for token, prob in enumerate(probs) if prob > alpha and token != END]
    mass = sum(probs[token] for token in likely)
    flat = [mass / len(likely) if token in likely else prob for token, prob in enumerate(probs)]
    return torch.tensor(flat, dtype=torch.float64).log()


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    "penalty",
    [
        Penalty("kl"),
        Penalty("pm"),
        *(Penalty("conditional", alpha) for alpha in (0.05, 0.3)),
        *(Penalty("flattened", alpha) for alpha in (1e-6, 0.05, 0.3)),
        *(Penalty("tempered", reference_weight=weight) for weight in (0.25, 0.75)),
    ],
    ids=str,
)
def test_the_optimum_over_responses_is_that_of_backward_induction(penalty, beta):
    for seed in range(5):
        tree = Tree(seed)
        rewards = tree.padded()[2]
        found = matched_log_probs(rewards, tree.charged(penalty), beta)
        torch.testing.assert_close(found, tree.induced(penalty, beta), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("gate", ["token", "sequence", "sequence-minimum"])
def test_no_policy_does_better_than_the_optimum(gate):
    """The value of the optimum is log sum exp(r / beta + charged), and every other policy's is less by its KL."""
    log_probs, mask, rewards = Tree(3).padded()
    beta, taken = 0.7, charged(log_probs, mask, Penalty("conditional", 0.2, gate)).sum(-1)
    best = matched_log_probs(rewards, taken, beta)

    def value(policy: Tensor) -> Tensor:
        return (policy.exp() * (rewards - beta * (policy - taken))).sum()

    most = beta * torch.logsumexp(rewards / beta + taken, -1)
    torch.testing.assert_close(value(best), most, rtol=1e-12, atol=0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        other = (best + torch.randn(best.shape, generator=generator, dtype=torch.float64)).log_softmax(-1)
        gap = beta * (other.exp() * (other - best)).sum()
        torch.testing.assert_close(value(other), most - gap, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("alpha", [1e-9, 0.01, 0.05, 0.2, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("vocabulary", [2, 3, 50, 4000])
@pytest.mark.parametrize("ends", [[], [0], [1, 0]])
def test_the_weights_of_a_flattened_step_sum_to_one(ends, vocabulary, alpha):
    generator = torch.Generator().manual_seed(vocabulary)
    own = (3 * torch.randn(20, vocabulary, generator=generator, dtype=torch.float64)).log_softmax(-1)
    flat = flattened(own, alpha, ends)
    torch.testing.assert_close(flat.logsumexp(-1), torch.zeros(20, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(flat[:, ends], own[:, ends])
    likely = own.exp() > alpha
    assert torch.equal(flat[~likely], own[~likely])
    for target in (0, vocabulary - 1):  # the reduction over targets is this distribution
        log_probs, shares = with_shares(own.clone(), torch.full((20,), target), alpha, ends)
        torch.testing.assert_close(torch.where(shares.isnan(), log_probs, shares), flat[:, target], rtol=0, atol=1e-12)


def lengths_of(steps: Tensor, end_mass: Tensor) -> Tensor:
    """The distribution of lengths of responses whose step t has the weight `steps` and ends with `end_mass`."""
    before = torch.cat([torch.ones(1, dtype=torch.float64), steps.cumprod(0)[:-1]])
    weights = before * end_mass
    return weights / weights.sum()


def test_without_a_reward_flattened_keeps_the_length_and_conditional_does_not():
    """A reference that ends with a probability of its own at each step: exact distributions of the length."""
    generator = torch.Generator().manual_seed(0)
    cap, vocabulary = 64, 30
    ends = 0.02 + 0.08 * torch.rand(cap, generator=generator, dtype=torch.float64)
    ends[-1] = 1.0
    words = (1.5 * torch.randn(cap, vocabulary, generator=generator, dtype=torch.float64)).log_softmax(-1)
    own = torch.cat([ends.log()[:, None], (1 - ends).log()[:, None] + words], -1)
    said = lengths_of(1 - ends, ends)
    number = torch.arange(1, cap + 1, dtype=torch.float64)
    for alpha in (0.3, 0.1, 0.01, 1e-9):
        flat = flattened(own, alpha, [0]).exp()
        torch.testing.assert_close(lengths_of(flat[:, 1:].sum(-1), flat[:, 0]), said, rtol=0, atol=1e-12)
        taken = torch.where(own.exp() > alpha, torch.ones_like(own), own.exp())
        assert lengths_of(taken[:, 1:].sum(-1), taken[:, 0]) @ number > said @ number + 5


def test_the_ends_of_reference_weight_are_the_other_modes():
    log_probs, mask, _ = Tree(2).padded()
    for weight, mode in ((1, "kl"), (0, "pm")):
        penalty = Penalty("tempered", reference_weight=weight)
        assert torch.equal(charged(log_probs, mask, penalty), charged(log_probs, mask, Penalty(mode)))
        assert (penalty.charges_all, penalty.charges_none) == (mode == "kl", mode == "pm")


@pytest.mark.parametrize("gate", ["sequence", "sequence-minimum"])
def test_gates_of_responses_flatten_whole_responses(gate):
    """The mass of both kinds is that of two proper distributions, so at most 2: no weight of long responses."""
    tree = Tree(1)
    flat, own = tree.charged(Penalty("flattened", 0.2)), tree.charged(Penalty("kl"))
    found = tree.charged(Penalty("flattened", 0.2, gate))
    assert bool(((found == flat) | (found == own)).all())
    assert bool((found != flat).any())
    assert bool((found != own).any())
    assert float(found.exp().sum()) <= 2


def test_odds_of_responses_wholly_inside_are_those_of_the_reward():
    log_probs, mask, rewards = Tree(1).padded()
    penalty = Penalty("conditional", 0.2)
    whole = (inside_mask(log_probs, mask, penalty) == mask.bool()).all(-1)
    assert 2 <= whole.sum() < len(whole)
    found = matched_log_probs(rewards, charged(log_probs, mask, penalty).sum(-1))
    shift = (found - rewards)[whole]
    torch.testing.assert_close(shift, shift[:1].expand_as(shift), rtol=0, atol=1e-12)


def test_the_ends_of_alpha_are_the_other_modes():
    log_probs, mask, _ = Tree(2).padded()
    for alpha in (1.0, 7.0):
        assert torch.equal(Tree(2).charged(Penalty("flattened", alpha)), Tree(2).charged(Penalty("kl")))
    least = float(log_probs[mask.bool()].min().exp())
    for gate in ("token", "sequence", "sequence-minimum"):
        nothing = charged(log_probs, mask, Penalty("conditional", least / 2, gate))
        assert torch.equal(nothing, charged(log_probs, mask, Penalty("pm")))
        for alpha in (1.0, 7.0):
            all_of_it = charged(log_probs, mask, Penalty("conditional", alpha, gate))
            assert torch.equal(all_of_it, charged(log_probs, mask, Penalty("kl")))
    assert torch.equal(charged(log_probs, mask, Penalty("pm")), torch.zeros_like(log_probs))
    own = torch.where(mask.bool(), log_probs, torch.zeros_like(log_probs))
    assert torch.equal(charged(log_probs, mask, Penalty("kl")), own)


def test_a_token_at_the_threshold_is_outside():
    """The authors' code asks for more than alpha; float32 numbers are asked in float64."""
    log_probs = torch.tensor([[0.5, 0.5000001, 0.4999999]], dtype=torch.float64).log()
    assert inside_mask(log_probs, torch.ones(1, 3), Penalty("conditional", alpha=0.5)).tolist() == [
        [False, True, False]
    ]


def test_padded_and_flat_agree_whatever_the_order():
    log_probs, mask, _ = Tree(4).padded()
    there = mask.bool()
    owner = torch.arange(len(mask)).unsqueeze(-1).expand_as(there)[there]
    order = torch.randperm(len(owner), generator=torch.Generator().manual_seed(0))
    for gate in ("token", "sequence", "sequence-minimum"):
        penalty = Penalty("conditional", 0.25, gate)
        flat = inside(log_probs[there][order], owner[order], len(mask), penalty)
        assert torch.equal(flat, inside_mask(log_probs, mask, penalty)[there][order])
        if gate != "token":  # one answer to a response
            for response in range(len(mask)):
                assert len(set(flat[owner[order] == response].tolist())) == 1


def test_a_response_without_tokens_is_charged_nothing():
    log_probs, mask = torch.zeros(2, 2), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    for mode in ("kl", "pm", "conditional"):
        assert charged(log_probs, mask, Penalty(mode)).tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "rlhf"}, "mode: found 'rlhf', expected one of flattened, tempered, conditional, kl, pm"),
        ({"gate": "word"}, "gate: found 'word', expected one of token"),
        ({"alpha": 0}, "alpha: found 0, expected a number above 0"),
        ({"alpha": True}, "alpha: found True"),
        ({"alpha": "0.1"}, "alpha: found '0.1'"),
        ({"alpha": math.nan}, "alpha: found nan"),
        ({"reference_weight": 1.1}, "reference_weight: found 1.1, expected 0 to 1"),
        ({"reference_weight": "1"}, "reference_weight: found '1'"),
    ],
    ids=str,
)
def test_what_is_no_penalty_is_said(values, message):
    with pytest.raises(PluralignError, match=message):
        Penalty(**values)


# Offline: PM-DPO.


@pytest.fixture(scope="module")
def judgments(town_rows):
    return Judgments.from_rows(town_rows[:24])


def losses_and_weights(trainer):
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, torch.cat([weight.detach().flatten() for weight in trainer.model.parameters()])


@pytest.mark.parametrize(
    "values",
    [
        {"mode": "kl"},
        {"mode": "conditional", "alpha": 1.0},
        {"alpha": 1.0},
        {"mode": "tempered", "reference_weight": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("precompute", [True, False])
@pytest.mark.parametrize("lora", [True, False])
def test_with_nothing_inside_it_is_dpo_to_the_bit(lora, precompute, values, judgments, base, tmp_path):
    common = {"beta": 0.3, "max_steps": 3, "precompute_ref_log_probs": precompute, "lora": lora}
    plain = losses_and_weights(offline_trainer(base, judgments, tmp_path, DPOConfig, DPOTrainer, **common))
    ours = losses_and_weights(offline_trainer(base, judgments, tmp_path, **common, **values))
    assert ours[0] == plain[0]
    assert torch.equal(ours[1], plain[1])


@pytest.fixture(scope="module")
def world():
    draw = np.random.default_rng(0)
    rewards = draw.normal(size=10)
    reference = torch.log_softmax(torch.from_numpy(2 * draw.normal(size=10)), -1)
    return rewards, reference


@pytest.mark.parametrize(
    ("mode", "beta", "shown"),
    [
        ("kl", 0.5, 2),
        ("pm", 1.0, 2),
        ("pm", 2.0, 2),
        ("conditional", 1.0, 2),
        ("conditional", 1.0, 3),
        ("flattened", 1.0, 2),
        ("flattened", 2.0, 3),
        ("tempered", 1.0, 2),
    ],
)
def test_the_minimum_is_the_closed_form_optimum(mode, beta, shown, world, tmp_path):
    """Of one-token answers whose judgments are Plackett-Luce: online's optimum, over the judged answers."""
    rewards, reference = world
    folder = letters_model(tmp_path / "bandit", reference)
    alpha = between(reference.numpy())
    likely = reference > math.log(alpha)
    charged = {
        "kl": reference, "pm": 0 * reference, "conditional": reference.masked_fill(likely, 0.0),
        "flattened": torch.where(likely, reference[likely].exp().mean().log(), reference),
        "tempered": 0.5 * reference,
    }[mode]  # fmt: skip
    table = expected_judgments(rewards, shown) if shown == 2 else expected_judgments(rewards[:6], shown)
    trainer = offline_trainer(
        folder, table, tmp_path, mode=mode, alpha=alpha, beta=beta, max_steps=150, learning_rate=0.05,
        per_device_train_batch_size=len(table), layout="flat", lr_scheduler_type="cosine", logging_steps=1000,
    )  # fmt: skip
    trainer.train()
    policy = load_policy_in_memory(trainer)
    judged = sorted({text for row in table.rows() for text in row["responses"]})
    count = len(judged)
    expected = matched_log_probs(torch.from_numpy(rewards)[:count], charged[:count], beta)
    found = torch.log_softmax(policy[:count], -1)
    before = torch.log_softmax(reference[:count], -1)
    variation = (found.exp() - expected.exp()).abs().sum() / 2
    assert variation < 5e-3  # Adam with a cosine to 0; the step's rounding and the last steps leave this much
    assert (before.exp() - expected.exp()).abs().sum() / 2 > 0.05


def load_policy_in_memory(trainer):
    """log pi of the ten letters after the prompt."""
    trainer.model.eval()
    with torch.no_grad():
        logits = trainer.model(input_ids=torch.tensor([[2]])).logits[0, -1].double()
    return torch.log_softmax(logits, -1)[3:]


# Online: PM-RLHF.

REWARDS = torch.tensor([0.0, 0.5, 1.0, 1.5])


@pytest.mark.parametrize(
    ("penalty", "beta"),
    [
        (Penalty("kl"), 1.0),
        (Penalty("pm"), 1.0),
        (Penalty("pm"), 0.5),
        (Penalty("conditional", 0.08), 1.0),
        (Penalty("flattened", 0.08), 1.0),
        (Penalty("tempered", reference_weight=0.5), 1.0),
    ],
)
def test_a_bandit_reaches_the_optimum(penalty, beta, tmp_path):
    model, tokenizer = token_model()
    trainer = tuned(
        model, tmp_path, lambda completion_ids, **_: [float(REWARDS[ids[0]]) for ids in completion_ids],
        tokenizer=tokenizer, data=Dataset.from_list([{"prompt": "w0"}]), **vars(penalty),
        beta=beta, per_device_train_batch_size=64, num_generations=64, max_completion_length=1, max_steps=80,
        learning_rate=3e-3,
    )  # fmt: skip
    with torch.no_grad():
        found = trainer.model(input_ids=torch.tensor([[0]])).logits[0, -1].softmax(-1)
    optimum = matched_log_probs(REWARDS, one_token(penalty), beta).exp()
    # At the optimum every answer's advantage is 0, so that noise vanishes with it: 80 steps leave under .002.
    assert float((found - optimum).abs().sum() / 2) < 0.01
    others = [Penalty("kl"), Penalty("pm"), Penalty("conditional", 0.08), Penalty("flattened", 0.08)]
    apart = [matched_log_probs(REWARDS, one_token(other), beta) for other in others if other != penalty]
    assert all(float((found - other.exp()).abs().sum() / 2) > 0.05 for other in apart)


def one_token(penalty):
    """What a penalty charges of the four one-token responses of `token_model`, whose end token is the last."""
    _, shares = with_shares(REFERENCE.log().repeat(4, 1), torch.arange(4), penalty.alpha, ends=[3])
    return charged(REFERENCE.log().unsqueeze(-1), torch.ones(4, 1), penalty, shares.unsqueeze(-1)).sum(-1)


def given(kind, folder):
    """A model as a trainer takes it, and a config of an adapter; the same at every call."""
    if kind != "trained on":
        return str(folder), peft.LoraConfig(**LORA) if kind == "adapter" else None
    set_seed(1)
    config = peft.LoraConfig(**LORA, init_lora_weights=False)  # an adapter that has learned something
    return peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config), None


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        ("full", {"mode": "kl"}),
        ("adapter", {"mode": "kl"}),
        ("full", {"mode": "conditional", "alpha": 1.0}),
        ("trained on", {"mode": "conditional", "alpha": 1.0}),
        ("full", {"mode": "flattened", "alpha": 1.0}),
        ("adapter", {"mode": "flattened", "alpha": 1.0}),
        ("full", {"mode": "tempered", "reference_weight": 1}),
    ],
    ids=str,
)
def test_without_tokens_inside_it_is_trl_to_the_bit(kind, mode, tiny_model, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model, config = given(kind, tiny_model)
    ours = tuned(model, tmp_path / "ours", peft_config=config, tokenizer=tokenizer, beta=0.3, **mode)
    model, config = given(kind, tiny_model)
    plain = trl.RLOOConfig(
        str(tmp_path / "trl"), beta=0.3, gradient_checkpointing=None, bf16=False, disable_dropout=True, **COMMON
    )
    theirs = trl.RLOOTrainer(model, words, plain, prompts(), None, tokenizer, peft_config=config)
    theirs.train()
    found, expected = dict(ours.model.named_parameters()), dict(theirs.model.named_parameters())
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name
    for name in ("reward", "loss", "entropy"):
        assert logged(ours, name) == logged(theirs, name)
    assert logged(ours, "penalty" if mode["mode"] != "kl" else "kl") == logged(theirs, "kl")
    assert len(set(logged(theirs, "kl"))) == 3  # the policy moved
