"""DPRM: the model reaches the crowd's distribution, whatever the layout, the order and the division of a step."""

import logging
import math

import numpy as np
import pytest
import torch
import transformers
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from dprm_setup import LOSSES, make, predictions
from labelled import SCALE, voted, votes
from pluralign.choice.dirichlet import estimated_strength
from pluralign.choice.label_costs import label_cost
from pluralign.choice.transport import distribution_loss
from pluralign.core.errors import PluralignError
from pluralign.evaluation.crowds.distributions import evaluate_distributions
from pluralign.judgments import BUILT_IN_SCALES, Judgments, LabelScale
from pluralign.judgments.votes import votes_of, write_votes
from pluralign.scoring.label_baselines import read_baselines
from pluralign.scoring.reward_models import LabelModel, build_reward_model, load_reward_model
from pluralign.training.dprm.config import DPRMConfig
from pluralign.training.dprm.trainer import DPRMTrainer


@pytest.fixture(scope="module")
def judgments():
    return voted()


def losses(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def weights(trainer):
    return torch.cat([tensor.detach().flatten() for tensor in trainer.model.parameters()])


@pytest.mark.parametrize("folder", ["tiny_model", "tiny_encoder"])
def test_what_is_logged_and_evaluated(folder, judgments, tmp_path, request):
    trainer = make(
        request.getfixturevalue(folder), judgments, tmp_path, judgments, num_train_epochs=4, learning_rate=3e-3
    )
    trainer.train()
    told = {"transport_cost", "total_variation", "expected_reward_error", "majority_accuracy", "entropy"}
    assert told <= trainer.state.log_history[0].keys()
    metrics = trainer.evaluate()
    assert all(math.isfinite(value) for value in metrics.values())
    crowd = trainer.crowd
    expected = evaluate_distributions(
        predictions(trainer), crowd.counts, SCALE.rewards, crowd.items().prompt, replicates=0
    )
    for key, name in (("total_variation", "total_variation"), ("log_loss", "vote_log_loss"), ("votes", "votes")):
        assert metrics[f"eval_{name}"] == pytest.approx(expected[key], rel=1e-9)
    assert trainer.layout.tree == (folder == "tiny_model")


def test_what_is_logged_by_hand(judgments, tiny_model, tmp_path):
    """One step over all items, before any weight has moved."""
    trainer = make(tiny_model, judgments, tmp_path, max_steps=1, item_weight="votes", loss="energy")
    mu, target, n = predictions(trainer), trainer.crowd.distribution, trainer.crowd.votes
    trainer.train()
    log = trainer.state.log_history[0]
    rewards = np.array(SCALE.rewards)
    gaps = np.abs(np.cumsum(mu - target, 1)[:, :-1])  # the rewards lie 1 apart
    expected = {
        "transport_cost": gaps.sum(1) + 0.1 * np.abs(mu - target).sum(1) / 2,
        "total_variation": np.abs(mu - target).sum(1) / 2,
        "expected_reward_error": np.abs((mu - target) @ rewards),
        "majority_accuracy": target[np.arange(len(mu)), mu.argmax(1)] >= target.max(1) - 1e-7,
        "entropy": -(mu * np.log(mu)).sum(1),
        "loss": (gaps**2).sum(1) + 0.05 * ((mu - target) ** 2).sum(1),
    }
    for name, values in expected.items():
        # Of float32 predictions, told through float32 sums.
        assert log[name] == pytest.approx(np.average(values, weights=n), rel=1e-4, abs=1e-5), name


def test_neither_the_order_of_votes_nor_the_layout_matters(tiny_model, tmp_path):
    rows = votes()
    shuffled = [rows[place] for place in np.random.default_rng(1).permutation(len(rows))]
    found = []
    for given, layout in ((rows, "flat"), (rows, "tree"), (shuffled, "tree")):
        trainer = make(tiny_model, Judgments.from_rows(given, SCALE), tmp_path, layout=layout, item_weight="votes")
        assert trainer.layout.tree == (layout == "tree")
        trainer.model.eval()
        trainer.compute_loss(trainer.model, trainer.data_collator(list(range(12)))).backward()
        found.append(torch.cat([tensor.grad.flatten() for tensor in trainer.model.parameters()]))
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], rtol=1e-4, atol=1e-6 * found[0].abs().max().item())


def test_a_text_is_read_once_however_many_voted(tiny_model, tmp_path):
    trainer = make(tiny_model, voted(people=(5, 50)), tmp_path, item_weight="equal")
    batch = trainer.data_collator(list(range(12)))
    assert sorted(batch["response"].tolist()) == list(range(12))
    assert batch["weight"].tolist() == [1.0] * 12
    assert sum(block["input_ids"].shape[0] for block in batch["blocks"]) < 12, "responses share their prompt"


def test_the_loss_is_the_mean_over_items_or_over_votes(judgments, tiny_model, tmp_path):
    for weight in ("equal", "votes"):
        trainer = make(tiny_model, judgments, tmp_path, item_weight=weight, loss="ot")
        trainer.model.eval()
        batches = [trainer.data_collator(list(range(start, start + 6))) for start in (0, 6)]
        total = trainer._get_num_items_in_batch(batches, torch.device("cpu"))
        with torch.no_grad():
            loss = sum(trainer.compute_loss(trainer.model, batch, num_items_in_batch=total) for batch in batches)
        mu, target = torch.from_numpy(predictions(trainer)), torch.from_numpy(trainer.crowd.distribution)
        each = distribution_loss(mu.log(), target, loss="ot", cost=label_cost(SCALE.rewards)).numpy()
        n = trainer.crowd.votes if weight == "votes" else np.ones(12)
        assert loss.item() == pytest.approx(np.average(each, weights=n), rel=1e-5)
        assert trainer.mean_loss(trainer.crowd, mu.numpy()) == pytest.approx(np.average(each, weights=n), rel=1e-9)


@pytest.mark.parametrize("kind", ["tiny_model", "tiny_encoder"])
def test_a_saved_model_gives_the_same_distribution(kind, judgments, tmp_path, request):
    """Through this library, and a causal one through `transformers` alone."""
    args = DPRMConfig(str(tmp_path), max_steps=3, learning_rate=1e-2, use_cpu=True, report_to="none")
    trainer = DPRMTrainer(str(request.getfixturevalue(kind)), args=args, train_dataset=judgments)
    trainer.train()
    trainer.save_model()
    items = trainer.crowd.items()
    expected = trainer.distributions(items)
    loaded = load_reward_model(tmp_path, device="cpu")
    assert isinstance(loaded, LabelModel)
    assert loaded.scale == SCALE
    assert list(read_baselines(tmp_path).predict(items)) == ["marginal", "medians", "logistic"]
    assert read_baselines(tmp_path / "checkpoint-3") is None
    np.testing.assert_allclose(loaded.distributions(items), expected, rtol=1e-5)
    np.testing.assert_allclose(loaded.score_items(items), expected @ np.array(SCALE.rewards), rtol=1e-4, atol=1e-6)
    if kind == "tiny_encoder":
        return
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert plain.config.id2label == dict(enumerate(SCALE.labels))
    assert type(plain).__module__.startswith("transformers")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = [
        items.prompts[item] + text + tokenizer.eos_token for item, text in zip(items.item, items.responses, strict=True)
    ]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        logits = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    np.testing.assert_allclose(logits.double().softmax(-1).numpy(), expected, rtol=1e-5)


def test_targets_are_shares_of_the_votes_or_posterior_means(judgments, tiny_model, tmp_path):
    """By default without any prior; with the paper's one vote per label, smoothed; or with the estimated strength."""
    plain = make(tiny_model, judgments, tmp_path).crowd
    np.testing.assert_array_equal(plain.distribution, plain.counts / plain.votes[:, None])
    paper = make(tiny_model, judgments, tmp_path, preset="paper", smoothing=0.0).crowd
    np.testing.assert_array_equal(paper.distribution, (1 + paper.counts) / (3 + paper.votes[:, None]))
    smooth = make(tiny_model, judgments, tmp_path, smoothing=0.05).crowd.distribution
    assert smooth.max() == 0.95
    kappa = estimated_strength(plain.counts)
    estimated = make(tiny_model, judgments, tmp_path, prior_strength="estimated").crowd
    np.testing.assert_allclose(
        estimated.distribution, (kappa / 3 + estimated.counts) / (kappa + estimated.votes[:, None]), rtol=1e-12
    )
    # Intervals of the crowd's shares need a prior: the estimated one.
    np.testing.assert_array_equal(plain.low, estimated.low)


def test_targets_from_a_stored_state(judgments, tiny_model, tmp_path, caplog):
    """Those of the state's votes and prior; the table says which items, and those without a vote are counted."""
    state = votes_of(judgments, strength=9.0)
    write_votes(state, tmp_path / "state.parquet")
    asked = [*votes()[:20], {"prompt": "New?", "responses": ["never seen"], "labels": ["agree"]}]
    transformers.utils.logging.enable_propagation()
    try:
        with caplog.at_level(logging.WARNING):
            trainer = make(
                tiny_model, Judgments.from_rows(asked, SCALE), tmp_path, vote_state=str(tmp_path / "state.parquet")
            )
    finally:
        transformers.utils.logging.disable_propagation()
    shown = list(dict.fromkeys(row["responses"][0] for row in asked[:20]))
    assert trainer.crowd.response == shown
    assert f"1 of {len(shown) + 1} responses have no vote" in caplog.text
    targets = state.targets(0.0)
    place = {text: row for row, text in enumerate(targets.response)}
    np.testing.assert_array_equal(trainer.crowd.distribution, targets.distribution[[place[text] for text in shown]])
    assert trainer.crowd.votes.sum() == targets.votes[[place[text] for text in shown]].sum()
    pairs = votes_of(Judgments.from_rows([{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}]))
    write_votes(pairs, tmp_path / "pairs.parquet")
    ranked = Judgments.from_rows([{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}])
    with pytest.raises(PluralignError, match="votes on pairs"):
        make(
            tiny_model, ranked, tmp_path, scale=pairs.scale, vote_state=str(tmp_path / "pairs.parquet")
        )  # fmt: skip


def test_votes_that_weigh_nothing_and_rows_without_labels_are_no_items(tiny_model, tmp_path):
    rows = votes(prompts=1)
    rows += [{**rows[0], "responses": ["heard of by nobody"], "weight": 0.0}]
    rows += [{**rows[0], "responses": ["one", "two"], "labels": None, "ranks": [1, 2]}]
    trainer = make(tiny_model, Judgments.from_rows(rows, SCALE), tmp_path, item_weight="votes", max_steps=2)
    assert len(trainer.crowd.response) == 4
    trainer.train()
    assert torch.isfinite(weights(trainer)).all()


def test_faded_votes_weigh_little_and_none_at_all_are_refused(tiny_model, tmp_path):
    """Decay 0 leaves nothing of an old vote: its item counts 0 under item_weight votes, 1 under equal, by its prior."""
    old, new = (
        votes(prompts=1, responses=2, time="2024-01-01"),
        votes(prompts=1, responses=1, seed=5, time="2025-01-01"),
    )
    both = Judgments.from_rows(old + new, SCALE)
    write_votes(votes_of(both, decay=0.0, window_days=30.0), tmp_path / "state.parquet")
    with pytest.raises(PluralignError, match="every training judgment has the weight 0"):
        make(
            tiny_model, Judgments.from_rows(old, SCALE), tmp_path, item_weight="votes", smoothing=0.0,
            vote_state=str(tmp_path / "state.parquet"),
        )  # fmt: skip
    trainer = make(
        tiny_model, Judgments.from_rows(old, SCALE), tmp_path, item_weight="equal", smoothing=0.0,
        vote_state=str(tmp_path / "state.parquet"), max_steps=2, weight_decay=0.0,
    )  # fmt: skip
    np.testing.assert_allclose(trainer.crowd.distribution, 1 / 3)
    assert trainer.data_collator([0, 1])["weight"].tolist() == [1.0, 1.0]
    before = weights(trainer)
    trainer.train()
    assert torch.isfinite(weights(trainer)).all()
    assert not torch.equal(weights(trainer), before)


def test_a_crowd_of_one_mind_trains_without_nan(tiny_model, tmp_path):
    rows = [{**row, "labels": ["pass"]} for row in votes()]
    same = Judgments.from_rows(rows, SCALE)
    for loss in LOSSES:
        trainer = make(tiny_model, same, tmp_path, same, loss=loss, max_steps=60, learning_rate=1e-2)
        trainer.train()
        assert all(math.isfinite(value) for value in trainer.evaluate().values())
        assert (predictions(trainer).argmax(1) == 1).all()


def test_a_matrix_as_list_and_file_is_the_cost_it_says(judgments, tiny_model, tmp_path):
    """The reward gaps written out, solved by POT, give the closed form's loss and gradient."""
    pytest.importorskip("ot")
    matrix = label_cost(SCALE.rewards).matrix
    (tmp_path / "cost.yaml").write_text(yaml.safe_dump(matrix.tolist()))
    found = []
    for values in ({}, {"cost": "matrix", "cost_matrix": matrix.tolist()},
                   {"cost": "matrix", "cost_matrix": str(tmp_path / "cost.yaml")}):  # fmt: skip
        trainer = make(tiny_model, judgments, tmp_path, loss="ot", **values)
        trainer.model.eval()
        loss = trainer.compute_loss(trainer.model, trainer.data_collator(list(range(12))))
        loss.backward()
        found.append((loss.item(), trainer.model.score.weight.grad.clone()))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-6)
    (tmp_path / "cost.yaml").write_text("none")
    with pytest.raises(PluralignError, match=r"cost.yaml: expected a list of rows"):
        make(tiny_model, judgments, tmp_path, cost="matrix", cost_matrix=str(tmp_path / "cost.yaml"))


WRONG = [
    ({"loss": "l2"}, "loss: found 'l2', expected ot, w1, energy, ce"),
    ({"cost": "far"}, "cost: found 'far'"),
    ({"cost": "matrix"}, "cost_matrix: goes with cost: matrix"),
    ({"cost_matrix": [[0.0]]}, "cost_matrix: goes with cost: matrix"),
    ({"delta": -1.0}, "delta: found -1.0"),
    ({"smoothing": 0.5}, "smoothing: found 0.5"),
    ({"prior_strength": -1.0}, "prior_strength: found -1.0, expected labels, estimated or a number, at least 0"),
    ({"prior_strength": "d"}, "prior_strength: found d"),
    ({"prior_strength": 2.0, "vote_state": "s.parquet"}, "prior_strength: a vote state has its own"),
    ({"item_weight": "people"}, "item_weight: found 'people'"),
    ({"prior_strength": "estimated", "vote_state": "s.parquet"}, "prior_strength: a vote state has its own"),
    ({"preset": "authors"}, "preset: found 'authors', expected paper, DPRM_C, DPRM_W, DPRM_OT"),
    ({"preset": "DPRM_C", "loss": "w1"}, "preset: DPRM_C is the loss ce, and loss is w1"),
]


@pytest.mark.parametrize(("values", "expected"), WRONG, ids=[str(values) for values, _ in WRONG])
def test_a_wrong_setting_is_named(values, expected, tmp_path):
    with pytest.raises(ValueError, match=expected.replace("[", r"\[")):
        DPRMConfig(str(tmp_path), **values)


def test_presets_and_costs_that_go_with_a_loss(tmp_path):
    for name, loss in {"paper": "ot", "DPRM_C": "ce", "DPRM_W": "w1", "DPRM_OT": "ot"}.items():
        found = DPRMConfig(str(tmp_path), preset=name)
        assert (found.loss, found.smoothing, found.prior_strength, found.item_weight) == (loss, 0.05, "labels", "equal")
    kept = DPRMConfig(str(tmp_path), preset="paper", smoothing=0.1, prior_strength=2.0)
    assert (kept.loss, kept.smoothing, kept.prior_strength) == ("ot", 0.1, 2.0)
    plain = DPRMConfig(str(tmp_path))
    assert (plain.loss, plain.smoothing, plain.prior_strength, plain.item_weight) == ("energy", 0.0, 0.0, "votes")
    hh = BUILT_IN_SCALES["hh-6"]
    assert DPRMConfig(str(tmp_path)).label_cost(hh).matrix[2, 3] == 0.1
    assert DPRMConfig(str(tmp_path), delta=0.0).label_cost(hh).matrix[2, 3] == 0.0
    assert DPRMConfig(str(tmp_path), loss="w1").label_cost(hh).matrix[0, 5] == 5.0
    assert DPRMConfig(str(tmp_path), loss="ot", cost="index").label_cost(hh).matrix[0, 5] == 5.0


def test_what_cannot_be_trained_is_said(judgments, town_rows, tiny_model, tmp_path):
    with pytest.raises(PluralignError, match="predicts labels, and the training judgments have none"):
        make(tiny_model, Judgments.from_rows(town_rows), tmp_path)
    with pytest.raises(PluralignError, match="no training judgments"):
        make(tiny_model, None, tmp_path)
    other = LabelScale("mood", ("agree", "so-so", "disagree"), (1.0, 0.0, -1.0))
    strange = voted(scale=other)
    with pytest.raises(PluralignError, match=r"training: the label 'so-so' is not one of the model's \(agree, pass"):
        make(tiny_model, strange, tmp_path)
    trainer = make(tiny_model, judgments, tmp_path)
    with pytest.raises(PluralignError, match="evaluation: the label 'so-so' is not one of the model's"):
        trainer.evaluate(strange)
    with pytest.raises(PluralignError, match="evaluation: the label '0' is not one of the model's"):
        trainer.evaluate(voted(scale=BUILT_IN_SCALES["binary"]))
    with pytest.raises(PluralignError, match="have no labels"):
        trainer.evaluate(Judgments.from_rows(town_rows))
    worth = LabelScale("worth", SCALE.labels, (2.0, 0.0, -1.0))
    with pytest.raises(PluralignError, match=r"labels are worth \[2.0, 0.0, -1.0\], and the model was trained"):
        trainer.evaluate(voted(scale=worth))
    with pytest.raises(PluralignError, match="needs its tokenizer"):
        DPRMTrainer(build_reward_model(tiny_model).model, args=DPRMConfig(str(tmp_path)), train_dataset=judgments)
    with pytest.raises(PluralignError, match="with 3 outputs, one for each label"):
        built = build_reward_model(tiny_model)
        DPRMTrainer(
            built.model, args=DPRMConfig(str(tmp_path)), train_dataset=judgments, processing_class=built.tokenizer
        )
