"""DPO on pairs and rankings: the closed-form first losses, TRL's own steps, and nothing that depends on layout."""

import math

import datasets
import numpy as np
import peft
import pytest
import torch
import trl
from transformers import AutoModelForCausalLM, AutoTokenizer

from architectures import write_model
from matching_setup import offline_trainer
from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.scoring.causal_models import load_causal_model
from pluralign.scoring.items import items_of
from pluralign.training.dpo import DPOConfig, DPOTrainer

pytestmark = pytest.mark.usefixtures("reference_cache")


@pytest.fixture(scope="module")
def judgments(town_rows):
    return Judgments.from_rows([{**row, "weight": 1 + index % 3} for index, row in enumerate(town_rows)])


@pytest.fixture(scope="module")
def pairs(town_rows):
    """TRL's preference rows; the texts part from each other inside a word."""
    return datasets.Dataset.from_list(
        [
            {"prompt": row["prompt"] + "\n", "chosen": row["responses"][0], "rejected": row["responses"][1]}
            for row in town_rows[:64]
        ]
    )


def make(folder, judgments, tmp_path, evaluated=None, **values):
    return offline_trainer(folder, judgments, tmp_path, DPOConfig, DPOTrainer, evaluated, **values)


def logged(trainer, key="loss"):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def weights(trainer):
    return torch.cat([tensor.detach().flatten() for tensor in trainer.model.parameters()])


def first_loss(trainer, batch):
    trainer.model.eval()
    with torch.no_grad():
        return trainer.compute_loss(trainer.model, trainer.data_collator(batch)).item()


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize(
    ("ranks", "values", "expected"),
    [
        ([1, 2], {}, math.log(2)),
        ([2, 1], {"loss_type": "sigmoid"}, math.log(2)),
        ([1, 2], {"loss_type": "sigmoid", "label_smoothing": 0.2}, math.log(2)),
        ([3, 1, 2, 4], {}, math.log(24)),
        ([3, 1, 2, 4], {"top": 2}, math.log(12)),
        ([2, 1, None, None], {}, math.log(12)),
        ([1, None, None], {}, math.log(3)),
        ([3, 1, 2], {"loss_type": "sigmoid"}, math.log(2)),
    ],
)
def test_first_losses_are_those_of_equal_utilities(ranks, values, expected, lora, tiny_model, tmp_path):
    """ln 2 for pairs, ln n! for rankings, ln n!/(n-q)! for their first q places."""
    texts = ["good cat", "bad dog in the rain", "milk", "good cat and tea"]
    rows = [{"prompt": f"Tea {n}?", "responses": texts[: len(ranks)], "ranks": ranks} for n in range(4)]
    trainer = make(tiny_model, Judgments.from_rows(rows), tmp_path, lora=lora, **values)
    assert first_loss(trainer, [0, 1, 2, 3]) == pytest.approx(expected, rel=1e-5)


def trl_args(tmp_path, **values):
    defaults = {
        "output_dir": str(tmp_path), "per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1,
        "report_to": "none", "disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "bf16": False,
        "gradient_checkpointing": None, "max_length": None, "train_sampling_strategy": "sequential",
        "lr_scheduler_type": "constant",
    }  # fmt: skip
    return trl.DPOConfig(**{**defaults, **values})


@pytest.mark.parametrize("steps", [1, 6])
def test_steps_are_those_of_trl(steps, pairs, tiny_model, tmp_path):
    """The same pairs in TRL's DPOTrainer from the same weights: losses, logs and weights after the steps."""
    common = {"max_steps": steps, "beta": 0.3, "optim": "sgd", "learning_rate": 1e-2,
              "train_sampling_strategy": "sequential", "lr_scheduler_type": "constant"}  # fmt: skip
    ours = make(tiny_model, pairs, tmp_path, **common)
    ours.train()
    theirs = trl.DPOTrainer(str(tiny_model), args=trl_args(tmp_path, **common), train_dataset=pairs)
    theirs.train()
    np.testing.assert_allclose(logged(ours), logged(theirs), rtol=1e-5)
    for key in ("rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen", "logps/rejected"):
        np.testing.assert_allclose(logged(ours, key), logged(theirs, key), rtol=1e-3, atol=2e-5, err_msg=key)
    np.testing.assert_allclose(logged(ours, "rewards/accuracies")[1:], logged(theirs, "rewards/accuracies")[1:])
    np.testing.assert_allclose(logged(ours, "grad_norm"), logged(theirs, "grad_norm"), rtol=1e-4)
    start = weights(make(tiny_model, pairs, tmp_path))
    moved, theirs_moved = weights(ours) - start, weights(theirs) - start
    assert (moved - theirs_moved).norm() <= (1e-5 if steps == 1 else 1e-4) * moved.norm()


@pytest.mark.parametrize("lora", [False, True])
def test_references_short_rows_and_precision_change_nothing(lora, judgments, tiny_model, tmp_path):
    found = {}
    for name, values in {
        "plain": {},
        "short rows": {"layout": "tree", "max_tokens_per_row": 40},
        "live reference": {"precompute_ref_log_probs": False},
        "checkpointing": {"activation_checkpointing": True},
        "bf16": {"bf16": True},
    }.items():
        trainer = make(tiny_model, judgments, tmp_path, lora=lora, max_steps=5, optim="sgd", **values)
        start = weights(trainer).clone()
        trainer.train()
        found[name] = (logged(trainer), weights(trainer) - start)
    plain, moved = found["plain"]
    for name, (losses, other) in found.items():
        half = name == "bf16"
        np.testing.assert_allclose(losses, plain, rtol=0.02 if half else 1e-5, err_msg=name)
        assert (other - moved).norm() <= (0.2 if half else 1e-4) * moved.norm(), name


def test_one_row_per_judgment_and_each_text_once_have_one_gradient(town_rows, tiny_model, tmp_path):
    """Ten people on the same four texts: read once, or by each of them."""
    row = next(row for row in town_rows if len(row["responses"]) == 4)
    draw = np.random.default_rng(0)
    crowd = [{**row, "ranks": (1 + draw.permutation(4)).tolist(), "annotator": f"h{n}"} for n in range(10)]
    trainer = make(tiny_model, Judgments.from_rows(crowd), tmp_path)
    batch = trainer.data_collator(list(range(10)))
    assert sorted(batch["response"].tolist()) == [0, 1, 2, 3]
    together = trainer.compute_loss(trainer.model, batch)
    together.backward()
    gradient = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
    trainer.model.zero_grad()
    singles = [trainer.compute_loss(trainer.model, trainer.data_collator([n])) for n in range(10)]
    (sum(singles) / 10).backward()
    each = torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()])
    assert together.item() == pytest.approx(sum(singles).item() / 10, rel=1e-6)
    assert (gradient - each).norm() <= 1e-5 * each.norm()


def test_capped_logits_have_the_gradients_of_the_plain_model(pairs, tiny_model, tmp_path):
    """A model that bends its logits after the last layer makes them itself, and trains all the same."""
    folder = write_model("soft-capped", tiny_model, tmp_path / "model")
    trainer = make(folder, pairs, tmp_path, beta=0.3)
    assert trainer.layout.full_logits
    trainer.compute_loss(trainer.model, trainer.data_collator([0, 1])).backward()
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens, items, losses = trainer.train_tokens, trainer.train_items, []
    for judgment in (0, 1):
        values = []
        for response in items.response[items.shown(judgment)]:
            prompt, text = tokens.prompt_ids[tokens.item[response]], tokens.response_ids[response]
            said = plain(input_ids=torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            values.append(said.gather(-1, torch.tensor(text)[:, None]).sum())
        better, worse = values if items.ranks[items.shown(judgment)][0] == 1 else values[::-1]
        losses.append(-torch.nn.functional.logsigmoid(0.3 * (better - worse - (better - worse).detach())))
    (sum(losses) / 2).backward()
    for (name, weight), other in zip(trainer.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, other.grad, rtol=1e-3, atol=1e-6, msg=name)


def test_rankings_of_two_by_plackett_luce_are_the_sigmoid_loss(pairs, tiny_model, tmp_path):
    found = {}
    for loss_type in ("plackett-luce", "sigmoid"):
        trainer = make(tiny_model, pairs, tmp_path, max_steps=4, loss_type=loss_type)
        trainer.train()
        found[loss_type] = logged(trainer), weights(trainer)
    assert found["plackett-luce"][0] == found["sigmoid"][0]
    assert torch.equal(found["plackett-luce"][1], found["sigmoid"][1])


def test_the_policy_learns_what_people_like_and_sources_are_logged(judgments, tiny_model, tmp_path):
    train, test = judgments.select(range(120)), judgments.select(range(120, 160))
    trainer = make(tiny_model, train, tmp_path, test, num_train_epochs=4, learning_rate=3e-3)
    before = {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}
    start = trainer.evaluate()
    assert start["eval_log_loss"] == pytest.approx(math.log(2), rel=1e-5)
    trainer.train()
    for name, tensor in trainer.model.named_parameters():
        assert not torch.equal(tensor, before[name]), name
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] > 0.7
    assert metrics["eval_loss"] < start["eval_loss"]
    assert {"eval_accuracy/source=a", "eval_accuracy/source=b"} <= metrics.keys()
    assert {"rewards/margins", "logps/chosen", "accuracy/source=a", "accuracy/source=b"} <= (
        trainer.state.log_history[3].keys()
    )


def test_reference_log_probs_are_computed_once_for_a_model_and_its_texts(
    judgments, tiny_model, tmp_path, reference_cache
):
    make(tiny_model, judgments, tmp_path)
    (file,) = reference_cache.iterdir()
    written = file.stat().st_mtime_ns
    other = Judgments.from_rows([{**row, "ranks": row["ranks"][::-1]} for row in judgments.rows()])
    trainer = make(tiny_model, other, tmp_path, lora=True, beta=0.7, layout="flat")
    assert file.stat().st_mtime_ns == written
    assert list(reference_cache.iterdir()) == [file], "another method or adapter on the same model and texts reads it"
    expected = load_causal_model(tiny_model).log_probs(items_of(judgments))
    np.testing.assert_allclose(trainer._train_reference, expected, rtol=1e-6)
    make(tiny_model, judgments.select(range(50)), tmp_path)
    changed = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        changed.model.norm.weight[0] += 1e-3
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    args = DPOConfig(str(tmp_path / "run"), use_cpu=True, report_to="none")
    DPOTrainer(changed, args=args, train_dataset=judgments, processing_class=tokenizer)
    assert len(list(reference_cache.iterdir())) == 3


def test_another_reference_may_be_given(judgments, tiny_model, tmp_path):
    reference = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    with torch.no_grad():
        for weight in reference.parameters():
            weight.mul_(1.5)
    expected = {}
    for precompute in (True, False):
        trainer = make(tiny_model, judgments, tmp_path, ref_model=reference, precompute_ref_log_probs=precompute)
        expected[precompute] = first_loss(trainer, list(range(8)))
        _, utilities = trainer.score(judgments.select(range(5)))
        assert np.abs(utilities).max() > 0
    assert expected[True] == pytest.approx(expected[False], rel=1e-5)


def test_votes_smooth_as_if_all_votes_stood_together(town_rows, tiny_model, tmp_path):
    """Two of three say so: with vote shares, one of those judgments has the loss of all three together."""
    row = {"prompt": "Tea?", "responses": ["good cat", "bad dog in the rain"], "ranks": [1, 2]}
    crowd = Judgments.from_rows([row, row, {**row, "ranks": [2, 1]}])
    smoothed = make(tiny_model, crowd, tmp_path, loss_type="sigmoid", label_smoothing="votes", max_steps=2)
    plain = make(tiny_model, crowd, tmp_path, loss_type="sigmoid", max_steps=2)
    smoothed.train()
    plain.train()
    np.testing.assert_allclose(logged(smoothed), logged(plain), rtol=1e-6)
    together = first_loss(plain, [0, 1, 2])
    for judgment in range(3):
        assert first_loss(smoothed, [judgment]) == pytest.approx(together, rel=1e-5)
    assert first_loss(plain, [0]) != pytest.approx(together, rel=1e-5)


def test_an_adapter_trains_saves_and_loads_in_plain_peft(judgments, tiny_model, tmp_path):
    trainer = make(tiny_model, judgments, tmp_path, lora=True, max_steps=5)
    before = {name: tensor.detach().clone() for name, tensor in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, tensor in trainer.model.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if "lora" in name}
    trainer.save_model(str(tmp_path / "adapter"))
    assert not list((tmp_path / "adapter").glob("*.bin"))
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    plain = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    ids = AutoTokenizer.from_pretrained(tmp_path / "adapter")("Say something:", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = trainer.model.eval()(input_ids=ids).logits
        torch.testing.assert_close(plain(input_ids=ids).logits, expected)
    again = load_causal_model(tmp_path / "adapter")
    items = items_of(judgments)
    np.testing.assert_allclose(again.log_probs(items), trainer.policy.log_probs(items), rtol=1e-5)


def test_a_trained_adapter_is_trained_on_with_itself_as_reference(judgments, tiny_model, tmp_path):
    first = make(tiny_model, judgments, tmp_path, lora=True, max_steps=5)
    first.train()
    first.save_model(str(tmp_path / "adapter"))
    for precompute in (True, False):
        second = make(tmp_path / "adapter", judgments, tmp_path, precompute_ref_log_probs=precompute)
        utilities = second.score(judgments)[1]
        np.testing.assert_allclose(utilities, 0, atol=1e-4)
    with pytest.raises(PluralignError, match="is an adapter already"):
        make(tmp_path / "adapter", judgments, tmp_path, lora=True)


def test_the_whole_model_saves_as_a_plain_causal_model(judgments, tiny_model, tmp_path):
    trainer = make(tiny_model, judgments, tmp_path, max_steps=2, max_length=64)
    trainer.train()
    trainer.save_model(str(tmp_path / "policy"))
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "policy", dtype=torch.float32)
    assert type(plain).__module__.startswith("transformers")
    assert plain.config.architectures == ["LlamaForCausalLM"]
    loaded = load_causal_model(tmp_path / "policy")
    assert loaded.limits.max_length == 64
    items = items_of(judgments)
    np.testing.assert_allclose(loaded.log_probs(items), trainer.policy.log_probs(items), rtol=1e-6)


def test_tied_judgments_train_without_nan(tiny_model, tmp_path):
    rows = [{"prompt": "Tea?", "responses": ["good", "bad", f"cat {n}"], "ranks": [1, 1, 1]} for n in range(8)]
    for loss_type in ("sigmoid", "plackett-luce"):
        table = Judgments.from_rows(rows)
        trainer = make(tiny_model, table, tmp_path, table, max_steps=3, loss_type=loss_type)
        trainer.train()
        assert torch.isfinite(weights(trainer)).all()
        assert all(math.isfinite(value) for value in trainer.evaluate().values())


def test_what_cannot_be_tuned_is_said(judgments, tiny_model, tiny_encoder, tmp_path):
    patched = AutoModelForCausalLM.from_pretrained(tiny_model)
    patched.forward = patched.forward
    args, tokenizer = DPOConfig(str(tmp_path), use_cpu=True), AutoTokenizer.from_pretrained(tiny_model)
    with pytest.raises(PluralignError, match="another library has replaced its forward"):
        DPOTrainer(patched, args=args, train_dataset=judgments, processing_class=tokenizer)
    with pytest.raises(PluralignError, match="is a bidirectional encoder"):
        make(tiny_encoder, judgments, tmp_path)
    trainer = make(tiny_model, judgments, tmp_path)
    with pytest.raises(PluralignError, match="the reference was gone: give them as"):
        trainer.score(judgments.select(range(3)))
    for values, message in (
        ({"label_smoothing": 0.6}, "label_smoothing: found 0.6"),
        ({"label_smoothing": 0.1}, "needs loss_type: sigmoid"),
        ({"top": 1, "loss_type": "sigmoid"}, "needs loss_type: plackett-luce"),
        ({"beta": 0.0}, "beta: found 0.0"),
        ({"train_sampling_strategy": "group_by_length"}, "expected random or sequential"),
    ):
        with pytest.raises(ValueError, match=message):
            DPOConfig(str(tmp_path), use_cpu=True, **values)
