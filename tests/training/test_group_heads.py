"""DPRM for known groups: one head, shrunk deviations, predictions for a population, stored and evaluated."""

import json

import numpy as np
import pytest
import torch

from dprm_setup import make
from labelled import SCALE, voted
from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.judgments.votes import votes_of, write_votes
from pluralign.scoring.crowd_predictions import group_gain
from pluralign.scoring.crowds import crowd_of, crowds_by_group
from pluralign.scoring.group_heads import Groups
from pluralign.scoring.reward_models import build_reward_model, load_reward_model
from pluralign.training.dprm.config import DPRMConfig
from pluralign.training.dprm.trainer import DPRMTrainer
from pluralign.workflows.evaluate import evaluate
from pluralign.workflows.score import score

OPTIONS = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "learning_rate": 1e-2, "logging_steps": 1,
           "per_device_train_batch_size": 16, "by_group": True}  # fmt: skip


def opposed(prompts=6, seed=0):
    """Group a agrees with everything and group b disagrees; three votes of a and one of b on each response."""
    rows = []
    for prompt in range(prompts):
        for group, label, people in (("a", "agree", 3), ("b", "disagree", 1)):
            for person in range(people):
                rows.append({"prompt": f"Question {prompt}?", "responses": [f"an answer {prompt}"], "labels": [label],
                             "annotator": f"{group}{person}", "group": group})  # fmt: skip
    return Judgments.from_rows(rows, SCALE)


def trainer_of(folder, judgments, output, **values):
    return DPRMTrainer(str(folder), args=DPRMConfig(str(output), **{**OPTIONS, **values}), train_dataset=judgments)


def test_a_new_head_tells_no_groups_apart_and_the_first_step_is_the_common_one(tiny_model, tmp_path):
    trainer = trainer_of(tiny_model, voted(), tmp_path)
    by_group = trainer._by_group(trainer.crowd.items())
    assert trainer.groups.names == ("a", "b")
    torch.testing.assert_close(by_group[:, 0], by_group[:, 1])
    crowd, group = crowds_by_group(voted(), ("a", "b"))
    assert [trainer.crowd.prompt, trainer.crowd.response] == [crowd.prompt, crowd.response]
    total = crowd_of(voted())
    assert crowd.counts.sum() == total.counts.sum()
    for place, name in enumerate("ab"):
        own = crowd_of(Judgments.from_rows([row for row in voted().rows() if row["group"] == name], SCALE))
        np.testing.assert_array_equal(crowd.counts[group == place], own.counts)
    items = trainer.train_items
    assert len(items.responses) == len(total.response) < items.judgments  # each text is read once for both groups


def test_opposed_groups_are_told_apart_and_the_population_is_their_mixture(tiny_model, tmp_path):
    trainer = trainer_of(tiny_model, opposed(), tmp_path, num_train_epochs=60, group_shrinkage=0.1)
    trainer.train()
    trainer.save_model()
    items = crowd_of(opposed()).items()
    model = load_reward_model(tmp_path, device="cpu")
    by_group, population = model.group_distributions(items), model.distributions(items)
    agree, disagree = SCALE.labels.index("agree"), SCALE.labels.index("disagree")
    assert by_group[:, 0, agree].min() > 0.9
    assert by_group[:, 1, disagree].min() > 0.9
    np.testing.assert_allclose(population, 0.75 * by_group[:, 0] + 0.25 * by_group[:, 1])
    np.testing.assert_allclose(trainer.distributions(items), population, atol=1e-6)
    found = group_gain(opposed(), trainer.groups, model.group_distributions)
    assert found["group_items"] == 12
    assert found["gain_of_groups"] > 0.4
    assert found["gain_of_groups/group=b"] > found["gain_of_groups/group=a"] > 0


def test_gains_of_groups_have_intervals_over_annotators_too():
    """Every annotator votes alike on all items, so that items say nothing that annotators do not."""
    names = ["a"] * 12 + ["b"] * 12
    label = [SCALE.labels[number % 2] for number in range(24)]
    rows = [
        {
            "prompt": f"p{item}",
            "responses": ["Yes"],
            "labels": [label[who]],
            "annotator": f"h{who}",
            "group": names[who],
        }
        for item in range(12)
        for who in range(24)
    ]
    groups = Groups(("a", "b"), (0.5, 0.5))
    share = np.full(len(SCALE.labels), 0.02)
    share[:2] = (1 - 0.02 * (len(share) - 2)) * np.array([0.7, 0.3])
    other = share[[1, 0, *range(2, len(share))]]
    votes = Judgments.from_rows(rows, SCALE)
    found = group_gain(votes, groups, lambda items: np.tile([share, other], (len(items.responses), 1, 1)))
    assert found["gain_of_groups_high"] - found["gain_of_groups_low"] > 0.1  # over prompts alone it is a point
    alone = [row for row in rows if row["group"] == "b"]
    assert found["gain_of_groups/group=b"] == pytest.approx(
        group_gain(Judgments.from_rows(alone, SCALE), groups, lambda items: np.tile([share, other], (12, 1, 1)))[
            "gain_of_groups"
        ]
    )


def test_shrinkage_pulls_groups_together_and_counts_as_votes(tiny_model, tmp_path):
    apart = []
    for shrinkage in (0.0, 1e6):
        trainer = trainer_of(tiny_model, opposed(), tmp_path / str(shrinkage), max_steps=30, group_shrinkage=shrinkage)
        trainer.train()
        by_group = trainer._by_group(trainer.crowd.items())
        apart.append(abs(by_group[:, 0] - by_group[:, 1]).max())
    assert apart[1] < 0.05 < 0.5 < apart[0]
    inputs = trainer.data_collator(list(range(12)))
    votes = {0: 18.0, 1: 6.0}
    assert inputs["shrinkage"].tolist() == pytest.approx([1e6 / votes[place] for place in inputs["group"].tolist()])


def test_a_run_is_stored_evaluated_scored_and_continued(tiny_model, tmp_path):
    table = voted()
    table.write(tmp_path / "test.parquet")
    trainer = trainer_of(tiny_model, table, tmp_path / "run", max_steps=4, group_shares={"a": 3.0, "b": 1.0})
    trainer.train()
    trainer.save_model()
    measured = trainer.measure(table).metrics
    stored = json.loads((tmp_path / "run" / "config.json").read_text())
    assert stored["pluralign"]["groups"] == {"names": ["a", "b"], "shares": [0.75, 0.25]}
    assert len(stored["id2label"]) == 3 * len(SCALE.labels)
    metrics = evaluate(tmp_path / "run", str(tmp_path / "test.parquet"), tmp_path / "out")
    for key in ("gain_of_groups", "gain_of_groups_low", "gain_of_groups/group=a", "vote_log_loss"):
        assert metrics[key] == pytest.approx(measured[key], rel=1e-4, abs=1e-6)
    score(tmp_path / "run", str(tmp_path / "test.parquet"), tmp_path / "scores.parquet")
    import pyarrow.parquet as pq

    columns = pq.read_table(tmp_path / "scores.parquet")
    mixed = 0.75 * columns["expected_reward_a"].to_numpy() + 0.25 * columns["expected_reward_b"].to_numpy()
    np.testing.assert_allclose(columns["expected_reward"].to_numpy(), mixed, atol=1e-8)
    again = build_reward_model(tmp_path / "run", label_scale=SCALE, groups=trainer.groups)
    trained = trainer.label_model.model.score.weight
    torch.testing.assert_close(again.model.score.weight, trained)
    with pytest.raises(PluralignError, match="has a head for a, b"):
        build_reward_model(tmp_path / "run", label_scale=SCALE)


def test_bad_settings_are_refused(tiny_model, tmp_path):
    alone = Judgments.from_rows([{**row, "group": "a"} for row in voted().rows()], SCALE)
    with pytest.raises(PluralignError, match="less than two groups"):
        make(tiny_model, alone, tmp_path, by_group=True)
    with pytest.raises(PluralignError, match="group_shares: found a, expected one for each of a, b"):
        make(tiny_model, voted(), tmp_path, by_group=True, group_shares={"a": 1.0})
    for values, message in (
        ({"group_shares": {"a": 1.0}}, "go with by_group"),
        ({"group_shrinkage": -1.0}, "group_shrinkage: found -1.0"),
    ):
        with pytest.raises(ValueError, match=message):
            DPRMConfig(str(tmp_path), use_cpu=True, **values)
    with pytest.raises(PluralignError, match="expected names and shares"):
        Groups.from_dict({"names": ["a"]}, "config.json")


def test_a_vote_state_with_shares_of_groups_gives_the_targets_of_each(tiny_model, tmp_path):
    table = voted()
    state = votes_of(table, strength=6.0, shares={"b": 1.0, "a": 3.0})
    write_votes(state, tmp_path / "state.parquet")
    options = {"vote_state": str(tmp_path / "state.parquet"), "max_steps": 2}
    trainer = trainer_of(tiny_model, table, tmp_path / "run", **options)
    assert trainer.groups == Groups(("a", "b"), (0.75, 0.25))
    crowd, group = crowds_by_group(table, ("a", "b"))
    np.testing.assert_array_equal(trainer._group_of, group)
    assert trainer.crowd.keys == crowd.keys
    np.testing.assert_allclose(trainer.crowd.counts, crowd.counts)
    expected = (2.0 + crowd.counts) / (6.0 + crowd.votes[:, None])
    np.testing.assert_allclose(trainer.crowd.distribution, expected)
    trainer.train()
    own = trainer_of(tiny_model, table, tmp_path / "own", **options, group_shares={"a": 1.0, "b": 1.0})
    assert own.groups.shares == (0.5, 0.5)


def test_a_table_says_which_items_of_a_vote_state_are_trained_on(tiny_model, tmp_path):
    table = voted()
    write_votes(votes_of(table, shares={"a": 1.0, "b": 1.0}), tmp_path / "state.parquet")
    asked = Judgments.from_rows([*table.rows()][:9], SCALE)
    trainer = trainer_of(tiny_model, asked, tmp_path / "run", vote_state=str(tmp_path / "state.parquet"))
    assert set(trainer.crowd.keys) == set(crowd_of(asked).keys)
    state = votes_of(table)
    write_votes(state, tmp_path / "plain.parquet")
    with pytest.raises(PluralignError, match="plain.parquet does not keep the votes of groups apart: .*--shares FILE"):
        trainer_of(tiny_model, asked, tmp_path / "run", vote_state=str(tmp_path / "plain.parquet"))
    with pytest.raises(PluralignError, match="stratum: found 'a', expected one of none"):
        state.of_stratum("a")


def test_votes_without_a_group_train_what_all_share(tiny_model, tmp_path):
    rows = [{**row, "group": None if number % 3 == 0 else row["group"]} for number, row in enumerate(voted().rows())]
    trainer = trainer_of(tiny_model, Judgments.from_rows(rows, SCALE), tmp_path, max_steps=2)
    outputs = torch.randn(4, 9)
    logits, deviation = trainer.groups.logits(outputs, torch.tensor([0, 1, 2, 2]))
    torch.testing.assert_close(logits[0], outputs[0, :3] + outputs[0, 3:6])
    torch.testing.assert_close(logits[1], outputs[1, :3] + outputs[1, 6:])
    torch.testing.assert_close(logits[2:], outputs[2:, :3])
    assert not deviation[2:].any()
    trainer.train()
    assert np.isfinite(trainer.state.log_history[-1]["train_loss"])
