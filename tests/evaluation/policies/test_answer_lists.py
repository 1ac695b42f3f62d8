"""Matching over lists of responses: its laws, saturation and minority mass by hand, slices and plots."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import log_softmax

from pluralign.core.errors import PluralignError
from pluralign.evaluation.policies.answer_lists import AnswerLists, matching_over, pair_plots

ZERO = ("pm_divergence", "pair_kl", "pair_js", "pair_gap", "list_kl", "list_js", "list_tv")


def lists_of(rewards, log_probs, reference=None, answer=None, lengths=None, **more):
    rewards = np.asarray(rewards, dtype=float).ravel()
    offsets = np.concatenate([[0], np.cumsum([len(rewards)] if lengths is None else lengths)])
    count = len(offsets) - 1
    return AnswerLists.of(
        rewards,
        np.asarray(log_probs, dtype=float).ravel(),
        np.zeros(len(rewards)) if reference is None else np.asarray(reference, dtype=float).ravel(),
        np.arange(len(rewards)) if answer is None else np.asarray(answer),
        offsets,
        more.get("prompt", np.arange(count)),
        more.get("weight", np.ones(count)),
    )


def random_lists(seed=0, prompts=40, answers=4):
    draw = np.random.default_rng(seed)
    rewards = draw.normal(size=(prompts, answers)) * 2
    return rewards, draw.normal(size=(prompts, answers)) * 5 - 30


def test_the_divergence_of_softmax_of_the_reward_is_nothing():
    rewards, _ = random_lists()
    exact = log_softmax(rewards, axis=1)
    found = matching_over(lists_of(rewards, exact, lengths=[4] * 40))
    for key in ZERO:
        assert found[key] == pytest.approx(0, abs=1e-12), key
    assert found["minority_mass"] == pytest.approx(1)
    assert found["saturation"] == found["saturation/reward"]


@pytest.mark.parametrize("beta", [0.1, 0.5, 3.0])
def test_what_another_temperature_leaves_is_known(beta):
    rewards, _ = random_lists()
    lists = lists_of(rewards, log_softmax(rewards / beta, axis=1), lengths=[4] * 40)
    pairs = np.mean([(rewards[:, i] - rewards[:, j]) ** 2 for i, j in itertools.combinations(range(4), 2)])
    assert matching_over(lists, replicates=0)["pm_divergence"] == pytest.approx((1 - 1 / beta) ** 2 * pairs)


def test_two_responses_are_the_papers_form_and_many_are_all_their_pairs():
    rewards, log_probs = random_lists()
    gaps = (rewards[:, 0] - rewards[:, 1]) - (log_probs[:, 0] - log_probs[:, 1])
    two = matching_over(lists_of(rewards[:, :2], log_probs[:, :2], lengths=[2] * 40))
    assert two["pm_divergence"] == pytest.approx(np.mean(gaps**2))
    assert two["pm_divergence_low"] < two["pm_divergence"] < two["pm_divergence_high"]
    found = matching_over(lists_of(rewards, log_probs, lengths=[4] * 40), seed=0)
    # The mean of (d_i - d_j)^2 over pairs is twice the sample variance of d.
    each = 2 * (rewards - log_probs).var(axis=1, ddof=1)
    drawn = np.random.default_rng(0).integers(40, size=(1000, 40))
    low, high = np.quantile(each[drawn].mean(1), [0.025, 0.975])
    for key, value in {"": each.mean(), "_low": low, "_high": high}.items():
        assert found[f"pm_divergence{key}"] == pytest.approx(value), key


def test_only_differences_within_a_prompt_count():
    rewards, log_probs = random_lists()
    moved = rewards + np.arange(40)[:, None], log_probs - 7 * np.arange(40)[:, None]
    one = matching_over(lists_of(rewards, log_probs, log_probs / 2, lengths=[4] * 40))
    other = matching_over(lists_of(*moved, log_probs / 2 + 1, lengths=[4] * 40))
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert other[key] == pytest.approx(value), key


def test_minority_mass_is_a_ratio_of_sums():
    rewards = np.log([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2]])
    policy = np.log([[0.85, 0.05, 0.1], [0.2, 0.7, 0.1]])
    found = matching_over(lists_of(rewards, policy, lengths=[3, 3]))
    assert found["minority_mass"] == pytest.approx(0.45 / 0.9), "a ratio of sums, not a mean of .3 and .75"
    assert found["minority_mass/reference"] == pytest.approx((0.5 + 0.4) / 0.9), "a uniform one keeps all of it"
    collapsed = matching_over(lists_of([1.0, 0.5, 0.0], [0.0, -900.0, -900.0]))
    assert collapsed["minority_mass"] == pytest.approx(0, abs=1e-12)


def test_saturation_by_hand_and_one_answer_twice_is_no_pair():
    logit = math.log(0.97 / 0.03)
    # Pairs of the policy: a-b .97 saturated, a-c .5, b-c .03 saturated. Of the reward: none. Of the reference: all.
    given = {"rewards": [0.0, 1.0, 2.0, 2.0], "log_probs": [logit, 0.0, logit, logit], "reference": [0, 9, 18, 18]}
    found = matching_over(lists_of(**given, answer=[0, 1, 2, 2]))
    assert found["saturation"] == pytest.approx(2 / 3)
    assert found["saturation/reward"] == 0
    assert found["saturation/reference"] == 1
    assert found["repeated"] == pytest.approx(1 / 6)
    thrice = matching_over(lists_of(**{name: values[:3] for name, values in given.items()}))
    for key in ("minority_mass", "list_kl", "list_js", "list_tv"):
        assert found[key] == pytest.approx(thrice[key]), key
    # As in the paper, a pair of draws that came out alike differs by nothing, and counts.
    assert found["pm_divergence"] < thrice["pm_divergence"]


def test_lists_of_all_lengths_at_once_are_lists_one_by_one():
    """Lists are never filled up: those of other lengths, of one answer and of none change nothing."""
    draw = np.random.default_rng(5)
    lengths = [3, 1, 2, 0, 5, 2]
    rewards, policy, reference = draw.normal(size=(3, sum(lengths)))
    weight = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])
    found = matching_over(lists_of(rewards, policy, reference, lengths=lengths, weight=weight))
    ends = np.cumsum(lengths)
    singles = {}
    for place, (end, length) in enumerate(zip(ends, lengths, strict=True)):
        if length > 1:
            part = slice(end - length, end)
            singles[place] = matching_over(lists_of(rewards[part], policy[part], reference[part]))
    for key in ("pm_divergence", "pair_kl", "saturation", "pair_gap"):
        mean = np.average([one[key] for one in singles.values()], weights=weight[list(singles)])
        assert found[key] == pytest.approx(mean), key


def test_slices_are_their_lists_alone():
    rewards, log_probs = random_lists()
    inside = (np.arange(40) % 3 == 0).astype(float)
    whole = lists_of(rewards, log_probs, lengths=[4] * 40)
    found = matching_over(whole, slices={"source=a": inside, "source=none": 0 * inside}, suffix="/on=given")
    own = matching_over(lists_of(rewards[::3], log_probs[::3], lengths=[4] * 14))
    for key in ("pm_divergence", "minority_mass"):
        assert found[f"{key}/on=given/source=a"] == pytest.approx(own[key])
    assert not any("none" in key for key in found)
    assert found["pm_divergence/on=given_low"] < found["pm_divergence/on=given"]


def test_a_map_of_margins_is_for_pairs():
    rewards, log_probs = random_lists()
    halved = matching_over(lists_of(rewards / 2, log_probs, lengths=[4] * 40))
    mapped = matching_over(lists_of(rewards, log_probs, lengths=[4] * 40), lambda margin: margin / 2)
    for key in ("pm_divergence", "pair_kl", "pair_js", "saturation/reward"):
        assert mapped[key] == pytest.approx(halved[key]), key
    assert not {"list_kl", "minority_mass"} & mapped.keys()
    two = [lists_of(one[:, :2], log_probs[:, :2], lengths=[2] * 40) for one in (rewards, rewards / 2)]
    assert matching_over(two[0], lambda margin: margin / 2)["minority_mass"] == pytest.approx(
        matching_over(two[1])["minority_mass"]
    )


def test_nothing_to_say_of_single_answers():
    assert matching_over(lists_of([1.0, 2.0], [0.0, 0.0], lengths=[1, 1])) == {}
    plots = pair_plots(lists_of([1.0, 2.0], [0.0, 0.0], lengths=[1, 1]))
    assert plots["pairs"] == 0
    assert plots["points"] == []
    assert sum(plots["reward"]) == 0


def test_the_histograms_are_of_the_better_answer():
    rewards, log_probs = random_lists()
    plots = pair_plots(lists_of(rewards, log_probs, lengths=[4] * 40), most=50)
    assert plots["pairs"] == 240
    assert len(plots["points"]) == 50
    assert plots["bin_edges"][1] == pytest.approx(0.05)
    for name in ("reward", "policy", "reference"):
        assert sum(plots[name]) == pytest.approx(1)
    assert sum(plots["reward"][:10]) == 0
    assert plots["reference"][10] == 1, "a probability of one half"
    right = np.mean([
        (rewards[:, i] > rewards[:, j]) == (log_probs[:, i] > log_probs[:, j])
        for i, j in itertools.combinations(range(4), 2)
    ])  # fmt: skip
    assert sum(plots["policy"][10:]) == pytest.approx(right)
    tied = pair_plots(lists_of([0.0, 0.0], [3.0, 0.0]))
    assert sum(tied["policy"][:10]) == pytest.approx(0.5), "without a better one, half in either order"


@pytest.mark.parametrize(
    ("arguments", "more", "message"),
    [
        (([1.0, math.inf], [1.0, 0.0]), {}, "rewards: expected finite numbers"),
        (([1.0, 2.0], [1.0, math.nan]), {}, "log_probs: expected finite numbers"),
        (([1.0, 2.0], [1.0]), {}, r"log_probs: shape \(1,\), expected \(2,\)"),
        (([1.0, 2.0], [1.0, 2.0]), {"lengths": [1]}, "offsets: expected to rise from 0 to 2"),
        (([1.0, 2.0], [1.0, 2.0]), {"weight": np.array([-1.0])}, "weight: expected finite numbers of 0"),
    ],
)
def test_lists_that_do_not_fit_are_refused(arguments, more, message):
    with pytest.raises(PluralignError, match=message):
        lists_of(*arguments, **more)


def test_a_slice_has_a_weight_for_every_list():
    with pytest.raises(PluralignError, match=r"slices, source=a: shape \(2,\), expected \(1,\)"):
        matching_over(lists_of([1.0, 2.0], [1.0, 2.0]), slices={"source=a": np.ones(2)})
