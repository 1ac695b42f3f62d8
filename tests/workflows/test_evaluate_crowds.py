"""`evaluate` and `score` of models that predict labels: metrics, tables, slices, and what is refused."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from labelled import SCALE, voted, votes
from pluralign.core.errors import PluralignError
from pluralign.evaluation.crowds.distributions import evaluate_distributions
from pluralign.evaluation.crowds.pairwise import pairwise_calibration
from pluralign.judgments import BUILT_IN_SCALES, Judgments
from pluralign.judgments.votes import votes_of
from pluralign.scoring.crowd_predictions import vote_slices
from pluralign.scoring.crowds import crowd_of, crowd_of_state
from pluralign.scoring.items import items_of
from pluralign.scoring.reward_models import build_reward_model
from pluralign.workflows.calibrate import calibrate
from pluralign.workflows.evaluate import evaluate
from pluralign.workflows.score import score


@pytest.fixture(scope="module")
def model(tiny_model):
    torch.manual_seed(0)
    built = build_reward_model(tiny_model, label_scale=SCALE)
    with torch.no_grad():
        built.model.score.weight.normal_()
    return built


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "crowd"
    model.save(path)
    return path


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text(), parse_constant=pytest.fail)


def test_votes_on_single_responses(model, folder, tmp_path):
    """The table beside the metrics, and the metrics from the table."""
    judgments = voted(source="town")
    judgments.write(tmp_path / "votes.parquet")
    metrics = evaluate(folder, str(tmp_path / "votes.parquet"), tmp_path / "out")
    assert metrics == metrics_of(tmp_path / "out")
    assert (metrics["items"], metrics["votes"], metrics["prompts"]) == (12, len(judgments), 3)
    assert "accuracy" not in metrics
    assert not (tmp_path / "out" / "reliability.json").exists()
    table = pq.read_table(tmp_path / "out" / "crowds.parquet").to_pydict()
    predicted = np.stack([table[f"predicted_{label}"] for label in SCALE.labels], 1)
    shares = np.stack([table[f"voted_{label}"] for label in SCALE.labels], 1)
    crowd = crowd_of(judgments)
    assert table["response"] == crowd.response
    items = crowd.items()
    np.testing.assert_allclose(predicted, model.distributions(items)[items.response], rtol=1e-5)
    np.testing.assert_allclose(shares, crowd.counts / crowd.votes[:, None])
    counted = sum(row["labels"] == ["agree"] for row in judgments.rows() if row["responses"] == [table["response"][0]])
    assert shares[0, 0] == pytest.approx(counted / table["votes"][0])
    low, high = votes_of(judgments).with_strength().interval(0.95)
    np.testing.assert_allclose(np.stack([table[f"low_{label}"] for label in SCALE.labels], 1), low)
    np.testing.assert_allclose(np.stack([table[f"high_{label}"] for label in SCALE.labels], 1), high)
    np.testing.assert_allclose(table["expected_reward"], predicted @ np.array(SCALE.rewards), atol=1e-12)
    assert metrics["total_variation"] == pytest.approx(np.abs(predicted - shares).sum(1).mean() / 2)
    expected = evaluate_distributions(predicted, crowd.counts, SCALE.rewards, items.prompt, replicates=1000)
    for key in ("transport_cost", "transport_cost_low", "share_ece", "majority_accuracy"):
        assert metrics[key] == pytest.approx(expected[key], rel=1e-9), key
    assert metrics["vote_log_loss"] == pytest.approx(expected["log_loss"], rel=1e-9)
    pairwise = pairwise_calibration(predicted, crowd.counts, SCALE.rewards, items.prompt)
    assert metrics["pairwise_pairs"] > 5
    assert {key: metrics[key] for key in pairwise} == pytest.approx(pairwise, rel=1e-9)
    assert "total_variation/group=a" in metrics
    assert not [key for key in metrics if "source=" in key], "a single source is no slice"
    before = (tmp_path / "out" / "metrics.json").stat().st_mtime_ns
    evaluate(folder, str(tmp_path / "votes.parquet"), tmp_path / "out")
    assert (tmp_path / "out" / "metrics.json").stat().st_mtime_ns == before


def several(seed=0):
    """Rows that label two responses at once."""
    draw = np.random.default_rng(seed)
    rows = []
    for number in range(40):
        labels = draw.choice(SCALE.labels, 2).tolist()
        texts = [f"good {number % 8} tea", f"bad {number % 8} milk"]
        rows.append(
            {"prompt": f"Number {number % 8}?", "responses": texts, "labels": labels, "annotator": f"a{number}"}
        )
    return Judgments.from_rows(rows, SCALE)


def test_rows_that_compare_are_judged_both_ways(model, folder, tmp_path):
    several().write(tmp_path / "several.parquet")
    metrics = evaluate(folder, str(tmp_path / "several.parquet"), tmp_path / "out")
    assert {"accuracy", "log_loss", "total_variation", "vote_log_loss", "items"} <= metrics.keys()
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"crowds.parquet", "reliability.json", "over_rewarding.json", "annotators.parquet"} <= names
    items = items_of(several())
    rewards = model.expected_reward(items)
    better = items.ranks.reshape(-1, 2)
    decided = better[:, 0] != better[:, 1]
    margins = (rewards[items.response].reshape(-1, 2) * np.where(better == 1, 1, -1)).sum(1)[decided]
    assert metrics["accuracy"] == pytest.approx((margins > 0).mean())
    assert metrics["log_loss"] == pytest.approx(np.log1p(np.exp(-margins)).mean(), rel=1e-4)
    cautious = evaluate(folder, str(tmp_path / "several.parquet"), tmp_path / "cautious", quantile=0.2)
    assert cautious["total_variation"] == metrics["total_variation"]
    assert cautious["log_loss"] != metrics["log_loss"]
    assert "0.2 quantile" in (tmp_path / "cautious" / "README.md").read_text()


def test_rankings_judge_the_expected_reward(folder, town_rows, tmp_path):
    Judgments.from_rows(town_rows).write(tmp_path / "town.parquet")
    metrics = evaluate(folder, str(tmp_path / "town.parquet"), tmp_path / "out")
    assert 0 < metrics["accuracy"] < 1
    assert "total_variation" not in metrics
    assert not (tmp_path / "out" / "crowds.parquet").exists()


def test_slices_are_the_votes_of_sources_groups_and_months():
    rows = [
        {
            "prompt": "Tea?",
            "responses": ["Yes"],
            "labels": [label],
            "group": group,
            "source": source,
            "time": time,
            "weight": weight,
        }
        for label, group, source, time, weight in (
            ("agree", "young", "one", "2025-01-03", 1.0),
            ("pass", "old", "two", "2025-02-03", 2.0),
            ("agree", None, "two", None, 1.0),
            ("disagree", "old", "two", "2025-02-04", 0.0),
        )
    ]
    rows.append({"prompt": "Tea?", "responses": ["weighs nothing"], "labels": ["agree"], "weight": 0.0, "group": "old"})
    judgments = Judgments.from_rows(rows, SCALE)
    found = {one.name: one.votes.tolist() for one in vote_slices(judgments, crowd_of(judgments))}
    assert found == {
        "source=one": [[1, 0, 0]],
        "source=two": [[1, 2, 0]],
        "group=young": [[1, 0, 0]],
        "group=old": [[0, 2, 0]],
        "time=2025-01": [[1, 0, 0]],
        "time=2025-02": [[0, 2, 0]],
    }


def test_score_writes_what_is_predicted(model, folder, tmp_path):
    voted().write(tmp_path / "votes.parquet")
    assert score(folder, str(tmp_path / "votes.parquet"), tmp_path / "scores.parquet") == 12
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.column_names == [
        "prompt", "response", "reward", "probability_agree", "probability_pass", "probability_disagree",
        "expected_reward", "variance", "quantile_0.1", "quantile_0.5", "quantile_0.9",
    ]  # fmt: skip
    columns = table.to_pydict()
    mu = np.stack([columns[f"probability_{label}"] for label in SCALE.labels], 1)
    items = items_of(voted(), keep_all=True)
    np.testing.assert_allclose(mu, model.distributions(items), rtol=1e-5)
    np.testing.assert_allclose(columns["reward"], mu @ np.array(SCALE.rewards), atol=1e-12)
    assert columns["reward"] == columns["expected_reward"]
    score(folder, str(tmp_path / "votes.parquet"), tmp_path / "cautious.parquet", quantile=0.1)
    cautious = pq.read_table(tmp_path / "cautious.parquet").to_pydict()
    assert cautious["reward"] == columns["quantile_0.1"]
    assert cautious["expected_reward"] == columns["expected_reward"]


def test_calibrate_fits_the_temperature_of_the_expected_reward(model, folder, tmp_path):
    """People choose with the probability sigmoid(margin / 0.5), so the temperature is near one half."""
    copy = tmp_path / "copy"
    model.save(copy)
    draw, rows = np.random.default_rng(0), []
    for number in range(800):
        texts = [" ".join(draw.choice(["good", "bad", "tea", "milk"], 4)) + f" {side}" for side in "ab"]
        rewards = model.score("Which?", texts)
        first = draw.random() < 1 / (1 + math.exp(-(rewards[0] - rewards[1]) / 0.5))
        rows.append(
            {
                "prompt": "Which?",
                "responses": texts,
                "ranks": [1, 2] if first else [2, 1],
                "annotator": f"a{number}",
            }
        )
    Judgments.from_rows(rows).write(tmp_path / "pairs.parquet")
    found = calibrate(copy, str(tmp_path / "pairs.parquet"))
    # The standard error of 1 / T = 2 is 1 / sqrt(sum m^2 p (1 - p)), about 0.2: four of them are let pass.
    assert 0.35 < found.temperature < 0.8
    scores = score(copy, str(tmp_path / "pairs.parquet"), tmp_path / "scores.parquet")
    columns = pq.read_table(tmp_path / "scores.parquet").to_pydict()
    np.testing.assert_allclose(np.array(columns["reward"]) * found.temperature, columns["expected_reward"], atol=1e-12)
    assert scores == len(columns["reward"])
    assert evaluate(copy, str(tmp_path / "pairs.parquet"), tmp_path / "out")["temperature"] == found.temperature


def test_votes_on_other_labels_are_refused(folder, tmp_path):
    voted(scale=BUILT_IN_SCALES["binary"]).write(tmp_path / "binary.parquet")
    with pytest.raises(PluralignError, match=r"the label '0' is not one of the model's \(agree, pass, disagree\)"):
        evaluate(folder, str(tmp_path / "binary.parquet"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_crowds_have_votes(tmp_path):
    none = Judgments.from_rows([{"responses": ["a", "b"], "ranks": [1, 2]}])
    with pytest.raises(PluralignError, match="have no labels"):
        crowd_of(none)
    crowd = crowd_of(Judgments.from_rows(votes()[:5], SCALE), smoothing=0.05)
    assert crowd.votes.sum() == 5
    state = votes_of(voted())
    elsewhere = Judgments.from_rows([{"prompt": "Tea?", "responses": ["Yes"], "labels": ["pass"]}], SCALE)
    with pytest.raises(PluralignError, match="no item is left"):
        crowd_of_state(state, elsewhere)
