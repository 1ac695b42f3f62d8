"""Soft targets of a vote state: the loss of a pair is that of the crowd's share, whoever judged it."""

import numpy as np
import pytest
import torch
from torch.nn.functional import logsigmoid

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.judgments.votes import votes_of, write_votes
from pluralign.training.dpo import DPOConfig, DPOTrainer
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.reward_trainer import BradleyTerryConfig, BradleyTerryTrainer

COMMON = {
    "per_device_train_batch_size": 8, "report_to": "none", "disable_tqdm": True, "use_cpu": True,
    "save_strategy": "no", "logging_steps": 1, "max_steps": 2, "learning_rate": 1e-3,
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PLURALIGN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def crowd(town_rows):
    """Four pairs; of pair i, 7 - i people say the first and 1 + i the second."""
    pairs = [{**row, "responses": row["responses"][:2]} for row in town_rows[:4]]
    return Judgments.from_rows(
        [
            {**row, "ranks": ranks}
            for number, row in enumerate(pairs)
            for ranks in [[1, 2]] * (7 - number) + [[2, 1]] * (1 + number)
        ]
    )


def bradley_terry(folder, judgments, tmp_path, **values):
    torch.manual_seed(0)
    return BradleyTerryTrainer(
        folder, args=BradleyTerryConfig(str(tmp_path / "run"), **COMMON, **values), train_dataset=judgments
    )


def dpo(folder, judgments, tmp_path, **values):
    torch.manual_seed(0)
    args = DPOConfig(str(tmp_path / "run"), loss_type="sigmoid", **COMMON, **values)
    return DPOTrainer(folder, args=args, train_dataset=judgments)


@pytest.mark.parametrize("make", [bradley_terry, dpo])
def test_every_verdict_counts_as_the_crowds_posterior_share(make, crowd, tiny_model, tmp_path):
    """-s log sigmoid(m) - (1 - s) log sigmoid(-m), s = (kappa / 2 + wins) / (kappa + 8), m of the first response."""
    write_votes(votes_of(crowd, strength=4.0), tmp_path / "state.parquet")
    trainer = make(tiny_model, crowd, tmp_path, vote_state=str(tmp_path / "state.parquet"))
    trainer.model.eval()
    if make is dpo:  # away from the reference, where all margins are 0
        with torch.no_grad():
            for tensor in trainer.model.parameters():
                tensor.add_(0.01 * torch.randn_like(tensor))
    items, utilities = trainer.score(crowd)
    for number in range(4):
        row = 8 * number
        first, second = utilities[items.response[items.shown(row)]]
        margin = torch.tensor(float(first - second), dtype=torch.float64)
        assert abs(margin) > 1e-4
        share = (2 + 7 - number) / (4 + 8)
        expected = -share * logsigmoid(margin) - (1 - share) * logsigmoid(-margin)
        for judgment in (row, row + 7):  # one who said the first, and one who said the second
            with torch.no_grad():
                loss = trainer.compute_loss(trainer.model, trainer.data_collator([judgment]))
            # Float32 sums of log-probabilities of tens of nats: 1e-5 of a nat.
            np.testing.assert_allclose(loss.item(), expected.item(), rtol=1e-5, atol=1e-5)


def test_with_hardly_any_prior_it_is_smoothing_by_votes(crowd, tiny_model, tmp_path):
    write_votes(votes_of(crowd, strength=1e-6), tmp_path / "state.parquet")
    losses = []
    for values in ({"vote_state": str(tmp_path / "state.parquet")}, {"label_smoothing": "votes"}):
        trainer = dpo(tiny_model, crowd, tmp_path, **values)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5, atol=1e-6)


def test_pairs_that_the_state_does_not_know_are_refused(crowd, tiny_model, tmp_path):
    write_votes(votes_of(crowd.select(range(16))), tmp_path / "state.parquet")
    with pytest.raises(PluralignError, match="2 of 4 pairs are not in the vote state"):
        bradley_terry(tiny_model, crowd, tmp_path, vote_state=str(tmp_path / "state.parquet"))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: DPOConfig("x", vote_state="s.parquet"), "vote_state: .*needs loss_type: sigmoid"),
        (lambda: DPOConfig("x", vote_state="s", loss_type="sigmoid", label_smoothing="votes"), "give one of them"),
        (lambda: EMDPOConfig("x", vote_state="s", loss_type="sigmoid"), "vote_state: an E-step needs"),
    ],
)
def test_configs_that_make_no_sense_are_refused(make, expected):
    with pytest.raises(ValueError, match=expected):
        make()


def test_a_run_knows_its_vote_state(crowd, tiny_model, tmp_path):
    """It is an input of the run: another state under the same name is refused."""
    from pluralign.workflows.train.run import train

    crowd.write(tmp_path / "train.parquet")
    state = tmp_path / "state.parquet"
    write_votes(votes_of(crowd), state)
    config = tmp_path / "run.yaml"
    config.write_text(
        f"objective: bradley-terry\nmodel_name_or_path: {tiny_model}\ntrain_files: [{tmp_path / 'train.parquet'}]\n"
        f"output_dir: {tmp_path / 'out'}\nvote_state: {state}\nmax_steps: 1\nuse_cpu: true\nreport_to: none\n"
    )
    assert train(config)["steps"] == 1
    write_votes(votes_of(crowd, strength=9.0), state)
    with pytest.raises(PluralignError, match="these files have changed since: .*state.parquet"):
        train(config)
