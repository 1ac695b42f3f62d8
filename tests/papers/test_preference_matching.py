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
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    set_seed,
)

from matching_setup import COMMON, LORA, REFERENCE, between, logged, offline_trainer, prompts, token_model, tuned, words
from pluralign.choice.preference_matching import Penalty, charged, inside, inside_mask, matched_log_probs
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
            takes = {"kl": own, "pm": torch.zeros_like(own), "conditional": own.masked_fill(likely, 0.0)}
            after = torch.stack([value((*prefix, token)) for token in range(SYMBOLS)])
            gain = takes[penalty.mode] + after
            policy[prefix] = gain.log_softmax(-1)
            return gain.logsumexp(-1)

        value(())
        return torch.stack(
            [sum(policy[response[:place]][token] for place, token in enumerate(response)) for response in self.reward]
        )


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    "penalty",
    [Penalty("kl"), Penalty("pm"), Penalty("conditional", 0.05), Penalty("conditional", 0.3)],
    ids=str,
)
def test_the_optimum_over_responses_is_that_of_backward_induction(penalty, beta):
    for seed in range(5):
        tree = Tree(seed)
        log_probs, mask, rewards = tree.padded()
        found = matched_log_probs(rewards, charged(log_probs, mask, penalty).sum(-1), beta)
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
    assert inside_mask(log_probs, torch.ones(1, 3), Penalty(alpha=0.5)).tolist() == [[False, True, False]]


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
        ({"mode": "rlhf"}, "mode: found 'rlhf', expected one of kl, pm, conditional"),
        ({"gate": "word"}, "gate: found 'word', expected one of token"),
        ({"alpha": 0}, "alpha: found 0, expected a number above 0"),
        ({"alpha": True}, "alpha: found True"),
        ({"alpha": "0.1"}, "alpha: found '0.1'"),
        ({"alpha": math.nan}, "alpha: found nan"),
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


@pytest.mark.parametrize("values", [{"mode": "kl"}, {"mode": "conditional", "alpha": 1.0}])
@pytest.mark.parametrize("precompute", [True, False])
@pytest.mark.parametrize("lora", [True, False])
def test_with_nothing_inside_it_is_dpo_to_the_bit(lora, precompute, values, judgments, base, tmp_path):
    common = {"beta": 0.3, "max_steps": 3, "precompute_ref_log_probs": precompute, "lora": lora}
    plain = losses_and_weights(offline_trainer(base, judgments, tmp_path, DPOConfig, DPOTrainer, **common))
    ours = losses_and_weights(offline_trainer(base, judgments, tmp_path, **common, **values))
    assert ours[0] == plain[0]
    assert torch.equal(ours[1], plain[1])


LETTERS = [*"abcdefghij"]


def letters_model(folder, reference):
    """A model whose log-probabilities of the ten letters after the prompt `p` are given, summing to 1, in a folder."""
    words = ["[PAD]", "[UNK]", "p", *LETTERS]
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    fast.model_max_length = 8
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=8, tie_word_embeddings=False, bos_token_id=None,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        state = model.model(torch.tensor([[words.index("p")]])).last_hidden_state[0, -1]
        logits = torch.full((len(words),), -30.0)  # the prompt and special tokens: almost impossible
        logits[3:] = reference.float()
        model.lm_head.weight.copy_(logits.outer(state / state.square().sum()))
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def expected_judgments(rewards, shown=2):
    """Every ranking of `shown` responses, weighted by its Plackett-Luce probability under the rewards."""
    rows = []
    for order in itertools.permutations(range(len(rewards)), shown):
        utilities = rewards[list(order)]
        log_p = sum(utilities[place] - np.logaddexp.reduce(utilities[place:]) for place in range(shown))
        texts = [LETTERS[place] for place in order]
        rows.append({"prompt": "p", "responses": texts, "ranks": [*range(1, shown + 1)], "weight": math.exp(log_p)})
    return Judgments.from_rows(rows)


@pytest.fixture(scope="module")
def world():
    draw = np.random.default_rng(0)
    rewards = draw.normal(size=10)
    reference = torch.log_softmax(torch.from_numpy(2 * draw.normal(size=10)), -1)
    return rewards, reference


@pytest.mark.parametrize(
    ("mode", "beta", "shown"),
    [("kl", 0.5, 2), ("pm", 1.0, 2), ("pm", 2.0, 2), ("conditional", 1.0, 2), ("conditional", 1.0, 3)],
)
def test_the_minimum_is_the_closed_form_optimum(mode, beta, shown, world, tmp_path):
    """Of one-token answers whose judgments are Plackett-Luce: online's optimum, over the judged answers."""
    rewards, reference = world
    folder = letters_model(tmp_path / "bandit", reference)
    alpha = between(reference.numpy())
    charged = [0.0 if mode == "pm" or (mode != "kl" and own > math.log(alpha)) else own for own in reference.tolist()]
    table = expected_judgments(rewards, shown) if shown == 2 else expected_judgments(rewards[:6], shown)
    trainer = offline_trainer(
        folder, table, tmp_path, mode=mode, alpha=alpha, beta=beta, max_steps=150, learning_rate=0.05,
        per_device_train_batch_size=len(table), layout="flat", lr_scheduler_type="cosine", logging_steps=1000,
    )  # fmt: skip
    trainer.train()
    policy = load_policy_in_memory(trainer)
    judged = sorted({text for row in table.rows() for text in row["responses"]})
    count = len(judged)
    expected = matched_log_probs(torch.from_numpy(rewards)[:count], torch.tensor(charged)[:count].double(), beta)
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
    ],
)
def test_a_bandit_reaches_the_optimum(penalty, beta, tmp_path):
    model, tokenizer = token_model()
    trainer = tuned(
        model, tmp_path, lambda completion_ids, **_: [float(REWARDS[ids[0]]) for ids in completion_ids],
        tokenizer=tokenizer, data=Dataset.from_list([{"prompt": "w0"}]), mode=penalty.mode, alpha=penalty.alpha,
        beta=beta, per_device_train_batch_size=64, num_generations=64, max_completion_length=1, max_steps=80,
        learning_rate=3e-3,
    )  # fmt: skip
    with torch.no_grad():
        found = trainer.model(input_ids=torch.tensor([[0]])).logits[0, -1].softmax(-1)
    reference = charged(REFERENCE.log().unsqueeze(-1), torch.ones(4, 1), penalty).sum(-1)
    optimum = matched_log_probs(REWARDS, reference, beta).exp()
    # At the optimum every answer's advantage is 0, so that noise vanishes with it: 80 steps leave under .002.
    assert float((found - optimum).abs().sum() / 2) < 0.01
    others = [Penalty("kl"), Penalty("pm"), Penalty("conditional", 0.08)]
    apart = [
        matched_log_probs(REWARDS, charged(REFERENCE.log().unsqueeze(-1), torch.ones(4, 1), other).sum(-1), beta)
        for other in others
        if other != penalty
    ]
    assert all(float((found - other.exp()).abs().sum() / 2) > 0.05 for other in apart)


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
