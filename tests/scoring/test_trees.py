"""Prompt trees: the plan holds every response once, a branch sees its prompt and itself, nothing else changes."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from architectures import write_model
from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.scoring import probe
from pluralign.scoring.attention import additive, sees
from pluralign.scoring.causal_models import causal_model, load_causal_model
from pluralign.scoring.forward import block_values, score_tokens
from pluralign.scoring.items import items_of
from pluralign.scoring.reward_models import build_reward_model
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import Layout, blocks_of, lay_out, plan_blocks, plan_rows

ARCHITECTURES = ["llama", "grouped-queries", "qwen2", "qwen3", "gpt2", "neox", "sliding", "windows", "soft-capped"]
ROWS = [
    {"prompt": "Say something about tea:", "responses": ["good", "good cat", "bad dog in the rain", "milk"]},
    {"prompt": "Rain or sun?", "responses": ["sun", "rain and sun and rain and sun and tea"]},
    {"prompt": "cat " * 40, "responses": ["a long prompt is cut", "on the left", "tea"]},
]


def items_with(rows):
    return items_of(Judgments.from_rows([{**row, "ranks": list(range(1, 1 + len(row["responses"])))} for row in rows]))


ITEMS = items_with(ROWS)


@pytest.fixture(scope="module")
def written(tiny_model, tmp_path_factory):
    """Folder of a tiny model of an architecture, written once."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = write_model(name, tiny_model, tmp_path_factory.mktemp(name) / "model")
        return made[name]

    return folder


def by_hand(folder, tokens):
    """log pi(y|x) from the plain model, one response at a time, without padding or masks."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for response, item in enumerate(tokens.item):
        ids = torch.tensor([tokens.sequence(response)])
        start = len(tokens.prompt_ids[item])
        with torch.no_grad():
            log_probs = torch.log_softmax(model(input_ids=ids).logits[0, :-1].double(), -1)
        each = log_probs.gather(-1, ids[0, 1:, None])[:, 0]
        found.append(each[max(start - 1, 0) :].sum().item())
    return np.array(found)


def gradients(model, tokens, layout, weights):
    """Weighted sum of squares of the values, and its gradient for every parameter."""
    model.zero_grad()
    total = 0.0
    for rows in blocks_of(tokens, np.arange(len(tokens.response_ids)), layout):
        block = lay_out(tokens, rows, layout)
        total = total + (block_values(model, block, layout).square() * weights[block["response"]]).sum()
    total.backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


@pytest.mark.parametrize("name", [*ARCHITECTURES, "opt", "state-space"])
@pytest.mark.parametrize("layout", ["auto", "flat"])
def test_log_probs_are_those_of_the_plain_model(name, layout, written):
    policy = load_causal_model(written(name), max_length=48)
    tokens = policy.tokenize(ITEMS)
    assert tokens.cut_prompts == 1
    expected = by_hand(written(name), tokens)
    assert np.ptp(expected) > 1
    # A state-space model carries rounding from token to token, by an amount that depends on the processor.
    tolerance = {"rtol": 1e-6, "atol": 2e-4 if name == "state-space" else 0.0}
    np.testing.assert_allclose(policy.values(tokens, layout), expected, **tolerance)


@pytest.mark.parametrize(
    ("name", "attention"),
    [*itertools.product(ARCHITECTURES[:-1], ("sdpa", "eager")), ("soft-capped", "eager")],
)
def test_trees_give_the_values_and_gradients_of_rows(name, attention, written):
    weights = torch.linspace(-1, 1, len(ITEMS.responses))
    for load, rtol in ((load_causal_model, 1e-6), (build_reward_model, 1e-5)):
        model = load(written(name), max_length=48, attn_implementation=attention)
        model.model.eval()
        tokens = model.tokenize(ITEMS)
        tree = model.layout(tokens)
        assert tree.tree
        assert tree.mask == ("bool" if attention == "sdpa" else "additive")
        # Every item as one tree, however little that pays.
        tree = replace(tree, attention_tokens=math.inf)
        assert len(plan_rows(tokens, np.arange(len(tokens.item)), tree)) == len(ROWS)
        flat = model.layout(tokens, "flat")
        np.testing.assert_allclose(model.values(tokens, tree), model.values(tokens, flat), rtol=rtol, atol=1e-7)
        as_tree, as_rows = (gradients(model.model, tokens, layout, weights) for layout in (tree, flat))
        assert (as_tree - as_rows).norm() <= 1e-5 * as_rows.norm()


def test_models_that_cannot_read_trees_are_caught(written, caplog):
    import transformers

    policy = load_causal_model(written("state-space"))
    tokens = policy.tokenize(ITEMS)
    transformers.utils.logging.enable_propagation()
    try:
        layout = policy.layout(tokens)
        assert not layout.tree
        assert "cannot read prompt trees: " in caplog.text
    finally:
        transformers.utils.logging.disable_propagation()
    with pytest.raises(PluralignError, match="cannot read prompt trees"):
        policy.layout(tokens, "tree")


def test_a_window_that_a_model_takes_its_own_way_is_left_to_the_probe(tiny_model, written, monkeypatch):
    """Without windows in the mask, trees serve texts within the window alone."""
    monkeypatch.setattr(probe, "_with_windows", lambda plain, tree: tree)
    for window, tree in ((96, True), (8, False)):
        model = AutoModelForCausalLM.from_pretrained(written("sliding"), sliding_window=window, dtype=torch.float32)
        policy = causal_model(model, AutoTokenizer.from_pretrained(tiny_model))
        assert policy.layout(policy.tokenize(ITEMS)).tree is tree


@pytest.mark.parametrize(("name", "own"), [("soft-capped", True), ("scaled", True), ("llama", False), ("qwen2", False)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.0, 1.0, 25.0])
def test_heads_that_are_more_than_linear_make_their_own_logits(scale, dtype, name, own, written):
    """However small the logits are, and however coarse the format."""
    policy = load_causal_model(written(name), dtype=dtype)
    policy.model.config.final_logit_softcapping = 30.0
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.mul_(scale)
    assert policy.layout(policy.tokenize(ITEMS)).full_logits is own


@pytest.mark.parametrize("name", ["llama", "windows"])
def test_flex_attention_computes_the_same(name, written, monkeypatch):
    """On a processor, uncompiled: the masks are right; the kernels are the library's."""
    policy = load_causal_model(written(name))
    tokens = policy.tokenize(ITEMS)
    tree = replace(policy.layout(tokens), attention_tokens=math.inf)
    expected = policy.values(tokens, tree)
    policy.model.set_attn_implementation("flex_attention")
    monkeypatch.setattr(torch.nn.attention.flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    flex = replace(tree, mask="blocks")
    with torch.compiler.set_stance("force_eager"):
        found = policy.values(tokens, flex)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    blocks = [lay_out(tokens, rows, flex) for rows in blocks_of(tokens, np.arange(len(tokens.item)), flex)]
    assert {block["branch"].shape[1] % 128 for block in blocks if "position_ids" in block} == {0}


def test_a_process_with_less_to_read_calls_the_model_as_often(written):
    """As it must where processes share the weights, and even if it has nothing to read."""
    policy = load_causal_model(written("llama"))
    tokens = policy.tokenize(ITEMS)
    layout, calls = policy.layout(tokens), []
    policy.model.register_forward_hook(lambda *_: calls.append(1))
    expected = score_tokens(policy.model, tokens, layout)
    alone = len(calls)
    np.testing.assert_array_equal(score_tokens(policy.model, tokens, layout, most=lambda blocks: blocks + 2), expected)
    assert len(calls) == 2 * alone + 2
    nothing = score_tokens(policy.model, tokens, layout, np.arange(0), most=lambda blocks: 3)
    assert (len(calls), nothing.any()) == (2 * alone + 5, False)


def test_bf16_trees_agree_with_rows_as_well_as_bf16_can(written):
    policy = load_causal_model(written("qwen2"), dtype=torch.bfloat16)
    tokens = policy.tokenize(ITEMS)
    layout = policy.layout(tokens)
    assert layout.tree
    np.testing.assert_allclose(policy.values(tokens, layout), policy.values(tokens, "flat"), rtol=0.02)


@pytest.mark.parametrize("tree", [True, False])
def test_no_responses_make_no_blocks(tree):
    """Of several processes that share a few responses, one may have none."""
    tokens = TokenizedItems([[1, 2]], [[3], [4, 5]], np.array([0, 0]), 0, 0)
    layout = Layout("tokens", 0, tree=tree)
    assert blocks_of(tokens, np.arange(0), layout) == []
    assert blocks_of(tokens, np.arange(2), layout)


def test_a_prompt_may_be_empty(written):
    items = items_with([{"prompt": "", "responses": ["good cat", "bad", "tea and milk"]}])
    for name in ("llama", "gpt2"):
        policy = load_causal_model(written(name))
        tokens = policy.tokenize(items)
        assert tokens.prompt_ids == [[]]
        for layout in ("tree", "flat"):
            np.testing.assert_allclose(policy.values(tokens, layout), by_hand(written(name), tokens), rtol=1e-6)


def test_a_single_token_may_be_a_response(written):
    """Nothing of it has to be read: its prompt predicts it."""
    tokens = TokenizedItems([[5, 6, 7], [8]], [[9], [10], [11], [12, 13]], np.array([0, 0, 0, 1]), 0, 0)
    policy = load_causal_model(written("llama"))
    for layout in ("tree", "flat"):
        np.testing.assert_allclose(policy.values(tokens, layout), by_hand(written("llama"), tokens), rtol=1e-6)
    block = lay_out(tokens, [[0, 1, 2]], policy.layout(tokens, "tree"))
    assert block["input_ids"].tolist() == [[5, 6, 7]]


def test_other_branches_and_padding_are_not_seen():
    branch = torch.tensor([[0, 0, 1, 1, 2, -1, -1]])
    mask = sees(branch)[0, 0]
    for i, j in itertools.product(range(7), repeat=2):
        own = branch[0, j] in (0, branch[0, i])
        assert mask[i, j] == (j <= i and bool(own))
    numbers = additive(sees(branch), torch.float32)[0, 0]
    assert torch.equal(numbers == 0, mask)
    assert torch.isfinite(numbers).all()


lengths_of_items = st.lists(
    st.tuples(st.integers(0, 30), st.lists(st.integers(1, 40), min_size=1, max_size=12)), min_size=1, max_size=5
)


@given(lengths_of_items, st.integers(20, 200), st.sampled_from([1.0, 50.0, 1000.0, math.inf]), st.booleans())
def test_every_response_is_in_one_row_with_its_own_prompt(lengths, longest, attention, tree):
    prompts = [[1] * prompt for prompt, _ in lengths]
    responses = [[2] * response for _, group in lengths for response in group]
    item = np.array([number for number, (_, group) in enumerate(lengths) for _ in group])
    tokens = TokenizedItems(prompts, responses, item, 0, 0)
    layout = Layout("last", 0, tree=tree, max_tokens_per_row=longest, attention_tokens=attention)
    rows = plan_rows(tokens, np.arange(len(responses)), layout)
    assert sorted(itertools.chain(*rows)) == list(range(len(responses)))
    for row, length in zip(rows, layout.row_lengths(tokens, rows), strict=True):
        assert len(set(item[row])) == 1
        assert len(row) == 1 or length <= longest
        assert tree or len(row) == 1
    block = lay_out(tokens, rows, layout)
    ids = block["input_ids"].flatten()
    assert (ids[block["last"]] == 2).all()
    assert int((block["branch"] == 0).sum()) == sum(len(prompts[item[row[0]]]) for row in rows)
    assert sorted(block["response"].tolist()) == list(range(len(responses)))


def test_without_a_price_on_attention_an_item_is_one_row_and_long_prompts_share_more():
    def rows(prompt, response, count, attention):
        tokens = TokenizedItems([[1] * prompt], [[2] * response] * count, np.zeros(count, dtype=np.int64), 0, 0)
        layout = Layout("last", 0, tree=True, attention_tokens=attention)
        return len(plan_rows(tokens, np.arange(count), layout))

    assert rows(10, 20, 32, math.inf) == 1
    assert rows(10, 128, 8, 2000.0) > rows(1000, 128, 8, 2000.0)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=7), st.floats(0, 50), st.integers(10, 200))
def test_blocks_cost_least(lengths, price, budget):
    """Against every way of cutting the sorted rows."""
    lengths = np.array(lengths)
    for most in (math.inf, budget):
        blocks = plan_blocks(lengths, price, most)
        assert sorted(np.concatenate(blocks).tolist()) == list(range(len(lengths)))

        def cost(parts, most=most):
            fits = all(len(part) == 1 or len(part) * max(part) <= most for part in parts)
            return sum(price + len(part) * max(part) for part in parts) if fits else math.inf

        ordered = sorted(lengths.tolist(), reverse=True)
        ways = itertools.product([False, True], repeat=len(ordered) - 1)
        best = min(cost(_parts(ordered, way)) for way in ways)
        assert cost([lengths[block].tolist() for block in blocks]) == pytest.approx(best)


def _parts(ordered, way):
    parts = [[ordered[0]]]
    for cut, length in zip(way, ordered[1:], strict=True):
        if cut:
            parts.append([])
        parts[-1].append(length)
    return parts
