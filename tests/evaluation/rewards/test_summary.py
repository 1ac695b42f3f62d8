import math

import numpy as np
import pytest

from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics
from pluralign.evaluation.rewards.summary import evaluate_rewards

FIVE = ("rewards", "ranks", "offsets", "prompt", "weight")


@pytest.mark.parametrize("seed", range(3))
def test_order_of_judgments_never_matters(rankings, subset, seed):
    data = rankings(seed)
    rng = np.random.default_rng(seed)
    source = rng.choice(["a", "b"], size=60)
    order = rng.permutation(60)
    straight = evaluate_rewards(**data, slices={"source": source.tolist()}, replicates=100)
    shuffled = evaluate_rewards(**subset(data, order), slices={"source": source[order].tolist()}, replicates=100)
    assert shuffled == pytest.approx(straight, rel=1e-9, abs=1e-12)
    assert {"accuracy", "kendall_tau", "spearman", "ece_p_value", "log_loss/source=a"} <= set(straight)
    assert {"ece_equal_mass", "ece_squared", "max_calibration_error", "average_calibration_error"} <= set(straight)
    measures = {"ece_smooth", "brier", "brier_reliability", "brier_resolution", "brier_uncertainty"}
    measures |= {"gap_right", "gap_wrong", "sure_wrong"}
    measures |= {"crowd_ece", "crowd_brier", "crowd_noise", "crowd_ece_majority", "crowd_accuracy"}
    measures |= {"pairwise_calibration"}
    assert {f"{name}{end}" for name in measures for end in ("", "_low", "_high")} <= set(straight)
    assert {"ece_squared/source=a", "brier/source=b", "crowd_pairs", "crowd_votes", "crowd_split"} <= set(straight)


def test_it_merges_its_parts_as_finite_python_numbers(rankings):
    data = rankings(1)
    metrics = evaluate_rewards(**data, replicates=100, seed=5, level=0.8)
    pairs = pairs_of(*(data[name] for name in FIVE))
    assert metrics.items() >= pair_metrics(pairs, replicates=100, level=0.8, seed=5).items()
    assert all(type(value) in (int, float) and math.isfinite(value) for value in metrics.values())


def test_a_shift_of_rewards_within_a_prompt_changes_nothing(rankings):
    data = rankings(2)
    judgment = np.repeat(np.arange(60), np.diff(data["offsets"]))
    # Quarters plus whole numbers add exactly, so reward ties stay ties.
    data["rewards"] = np.round(data["rewards"] * 4) / 4
    shifted = data | {"rewards": data["rewards"] + data["prompt"][judgment]}
    assert evaluate_rewards(**shifted, replicates=20) == pytest.approx(evaluate_rewards(**data, replicates=20))


def test_no_judgments_leave_only_counts():
    metrics = evaluate_rewards([], [], [0], [], [], response=[], slices={"source": []})
    assert metrics == {"pairs": 0, "tied_pairs": 0, "undecided_judgments": 0, "reward_ties": 0}
    assert "accuracy_low" not in evaluate_rewards(
        [1.0, 0.0] * 2, [1, 2] * 2, [0, 2, 4], [0, 1], [1.0] * 2, replicates=0
    )
