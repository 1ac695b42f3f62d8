"""Matching: laws of the divergences, hand-computed saturation and minority mass, entropy against enumeration."""

import itertools
import math

import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

from pluralign.core.errors import PluralignError
from pluralign.evaluation.policies.answer_lists import AnswerLists, matching_over, pair_plots
from pluralign.evaluation.policies.divergences import (
    bernoulli_gap,
    bernoulli_js,
    bernoulli_kl,
    list_divergences,
    minority_mass,
    pm_divergence,
)
from pluralign.evaluation.policies.drawn_texts import distinct, entropy, perplexity

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
    assert pm_divergence(rewards, exact, replicates=0)["pm_divergence"] == pytest.approx(0, abs=1e-24)
    found = matching_over(lists_of(rewards, exact, lengths=[4] * 40))
    for key in ZERO:
        assert found[key] == pytest.approx(0, abs=1e-12), key
    assert found["minority_mass"] == pytest.approx(1)
    assert found["saturation"] == found["saturation/reward"]


@pytest.mark.parametrize("beta", [0.1, 0.5, 3.0])
def test_what_another_temperature_leaves_is_known(beta):
    rewards, _ = random_lists()
    found = pm_divergence(rewards, log_softmax(rewards / beta, axis=1), replicates=0)["pm_divergence"]
    pairs = np.mean([(rewards[:, i] - rewards[:, j]) ** 2 for i, j in itertools.combinations(range(4), 2)])
    assert found == pytest.approx((1 - 1 / beta) ** 2 * pairs)


def test_two_answers_are_the_papers_form_and_many_are_all_their_pairs():
    rewards, log_probs = random_lists()
    gaps = (rewards[:, 0] - rewards[:, 1]) - (log_probs[:, 0] - log_probs[:, 1])
    two = pm_divergence(rewards[:, :2], log_probs[:, :2])
    assert two["pm_divergence"] == pytest.approx(np.mean(gaps**2))
    assert two["pm_divergence_low"] < two["pm_divergence"] < two["pm_divergence_high"]
    found = matching_over(lists_of(rewards, log_probs, lengths=[4] * 40), seed=0)
    for key, value in pm_divergence(rewards, log_probs, seed=0).items():
        assert found[key] == pytest.approx(value), key


def test_only_differences_within_a_prompt_count():
    rewards, log_probs = random_lists()
    moved = rewards + np.arange(40)[:, None], log_probs - 7 * np.arange(40)[:, None]
    one = matching_over(lists_of(rewards, log_probs, log_probs / 2, lengths=[4] * 40))
    other = matching_over(lists_of(*moved, log_probs / 2 + 1, lengths=[4] * 40))
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert other[key] == pytest.approx(value), key


def test_kl_grows_by_the_log_odds_and_js_stops_at_ln_2():
    a = np.linspace(-3, 3, 13)
    far = np.array([50.0, 100.0, 200.0, 1e4])
    for margin in a:
        kl = bernoulli_kl(np.full(4, margin), far)
        # Each further nat of log-odds costs the probability of the other answer.
        assert np.diff(kl) / np.diff(far) == pytest.approx(expit(-margin))
        assert (bernoulli_js(np.full(4, margin), far) <= math.log(2)).all()
    assert bernoulli_js(np.array([1e4]), np.array([-1e4])) == pytest.approx(math.log(2))
    assert bernoulli_gap(np.array([1e4]), np.array([-1e4])) == pytest.approx(1)


def test_pair_forms_are_list_forms_of_two_and_textbook_sums():
    draw = np.random.default_rng(3)
    a, b = draw.normal(size=(2, 200)) * 4
    p, q = expit(a), expit(b)
    kl, js, tv = list_divergences(np.stack([a, 0 * a], 1), np.stack([b, 0 * b], 1))
    for found, listed, plain in (
        (bernoulli_kl(a, b), kl, p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))),
        (bernoulli_gap(a, b), tv, np.abs(p - q)),
    ):
        # The plain sums lose digits where a probability is next to 1.
        np.testing.assert_allclose(found, plain, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found, listed, rtol=1e-9, atol=1e-12)
    middle = (p + q) / 2
    plain = sum(x * np.log(x / m) / 2 for x, m in ((p, middle), (q, middle), (1 - p, 1 - middle), (1 - q, 1 - middle)))
    np.testing.assert_allclose(bernoulli_js(a, b), plain, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(bernoulli_js(a, b), js, rtol=1e-9, atol=1e-12)


def test_minority_mass_by_hand():
    rewards = np.log([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2]])
    policy = np.log([[0.85, 0.05, 0.1], [0.2, 0.7, 0.1]])
    kept, held = minority_mass(rewards, policy)
    np.testing.assert_allclose(kept, [0.05 + 0.1, 0.2 + 0.1])
    np.testing.assert_allclose(held, [0.5, 0.4])
    found = matching_over(lists_of(rewards, policy, lengths=[3, 3]))
    assert found["minority_mass"] == pytest.approx(0.45 / 0.9), "a ratio of sums, not a mean of .3 and .75"
    assert found["minority_mass/reference"] == pytest.approx((0.5 + 0.4) / 0.9), "a uniform one keeps all of it"


def test_a_collapsed_policy_keeps_nothing_and_a_tie_depends_on_no_order():
    rewards = np.array([1.0, 0.5, 0.0])
    collapsed = matching_over(lists_of(rewards, [0.0, -900.0, -900.0]))
    assert collapsed["minority_mass"] == pytest.approx(0, abs=1e-12)
    tied, policy = np.log([0.4, 0.4, 0.2]), np.log([0.7, 0.2, 0.1])
    found = [minority_mass(tied[list(order)], policy[list(order)]) for order in itertools.permutations(range(3))]
    # Either of the two best may be the one left out: kept is .1 + (.4 + .2) / 2.
    np.testing.assert_allclose(found, [[0.4, 0.6]] * 6)


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


def test_entropy_and_perplexity_of_a_policy_that_can_be_enumerated():
    """Answers of up to three tokens: a coin says whether each goes on; drawn and counted out."""
    draw = np.random.default_rng(0)
    go_on, tokens = 0.4, np.array([0.5, 0.3, 0.2])
    exact, mean_length = 0.0, 0.0
    for length in (1, 2, 3):
        for answer in itertools.product(range(3), repeat=length):
            chance = np.prod(tokens[list(answer)]) * go_on ** (length - 1) * (1 - go_on if length < 3 else 1)
            exact -= chance * math.log(chance)
            mean_length += chance * length
    answers, log_probs = [], []
    for _ in range(4000):
        answer = [draw.choice(3, p=tokens)]
        while len(answer) < 3 and draw.random() < go_on:
            answer.append(draw.choice(3, p=tokens))
        length = len(answer)
        chance = np.prod(tokens[answer]) * go_on ** (length - 1) * (1 - go_on if length < 3 else 1)
        answers.append(answer)
        log_probs.append(math.log(chance))
    lengths = [len(answer) for answer in answers]
    found = entropy(log_probs, lengths, np.arange(4000) // 2)
    error = np.std(log_probs) / math.sqrt(4000)
    assert found["entropy"] == pytest.approx(exact, abs=4 * error)
    assert found["entropy_low"] < exact < found["entropy_high"]
    assert found["entropy_per_token"] == pytest.approx(-sum(log_probs) / sum(lengths))
    assert np.mean(lengths) == pytest.approx(mean_length, abs=0.1)
    # A reference that takes each of three tokens as likely as another, and never ends.
    assert perplexity(-math.log(3) * np.array(lengths), lengths, np.arange(4000))["perplexity"] == pytest.approx(3)


def test_distinct_grams_are_counted_over_all_answers():
    answers = [[1, 2, 3], [1, 2], [9]]
    assert distinct(answers, 1) == pytest.approx(4 / 6)
    assert distinct(answers, 2) == pytest.approx(2 / 3)
    assert distinct(answers, 4) is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pm_divergence([[1.0]], [[1.0]]), "with two answers or more"),
        (lambda: pm_divergence([[1.0, math.inf]], [[1.0, 0.0]]), "rewards: expected finite numbers"),
        (lambda: pm_divergence([[1.0, 2.0]], [[1.0, math.nan]]), "log_probs: expected finite numbers"),
        (lambda: pm_divergence([[1.0, 2.0]], [1.0, 2.0]), r"log_probs: shape \(2,\), expected \(1, 2\)"),
        (lambda: lists_of([1.0, 2.0], [1.0, 2.0], lengths=[1]), "offsets: expected to rise from 0 to 2"),
        (lambda: lists_of([1.0, 2.0], [1.0, 2.0], weight=np.array([-1.0])), "weight: expected finite numbers of 0"),
        (lambda: entropy([-1.0], [0], [0]), "lengths: found 0, expected 1 or more"),
        (lambda: entropy([], [], np.zeros(0, int)), "one at least"),
        (lambda: distinct([[1]], 0), "n: found 0, expected 1 or more"),
    ],
)
def test_what_does_not_fit_is_said(call, message):
    with pytest.raises(PluralignError, match=message):
        call()


def test_lists_are_compared_after_their_softmax():
    rewards, log_probs = random_lists(prompts=1)
    p, q = softmax(rewards[0]), softmax(log_probs[0])
    kl, _, tv = list_divergences(rewards[0], log_probs[0])
    assert kl == pytest.approx((p * np.log(p / q)).sum())
    assert tv == pytest.approx(np.abs(p - q).sum() / 2)
