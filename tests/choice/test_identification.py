"""What judgments can tell about types: the table of pairs and triples, verdicts, and power."""

from dataclasses import replace

import numpy as np
import pytest

from pluralign.choice.latent_class.estimator import LatentClassPlackettLuce
from pluralign.choice.latent_class.identification import design, evidence, identification
from pluralign.choice.latent_class.panel import Panel
from pluralign.choice.latent_class.power import planted, power_curve, simulated
from pluralign.choice.latent_class.selection import Gain

THETA = np.array([1.5, -1.0, 0.5, 1.0])
OPPOSITE = np.stack((THETA, -THETA))


def verdict_of(panel, types=2, **settings):
    model = LatentClassPlackettLuce(types, **settings).fit(panel)
    numbers = evidence(model, panel)
    return model, numbers, identification(design(panel), numbers)


def test_single_pairs_of_people_who_differ_otherwise_are_still_single_pairs(simulate):
    panel, _ = simulate([[2.0, 0.0], [0.0, 2.0]], annotators=500, judgments=1, shown=2)
    found = identification(design(panel))
    assert found.verdict == "not identified"
    assert "single pair" in found.reason
    some = replace(panel, annotator=np.minimum(panel.annotator_ids, 480))  # the last one gave twenty
    assert design(some).informative == 1


def test_one_annotator(simulate):
    panel, _ = simulate([THETA], annotators=1, judgments=50)
    found = identification(design(panel))
    assert (found.verdict, "by 1 annotator" in found.reason) == ("not identified", True)


def test_features_that_do_not_vary(simulate):
    panel, _ = simulate(OPPOSITE)
    for features in (np.ones((panel.response_count, 4)), np.repeat(np.arange(320.0), 3)[:, None]):
        found = identification(design(replace(panel, features=features)))
        assert found.verdict == "not identified"
        assert "do not differ in any feature" in found.reason


def test_collinear_features(simulate):
    panel, _ = simulate(OPPOSITE, annotators=200)
    x = np.asarray(panel.features)
    twice = replace(panel, features=np.column_stack((x, x[:, 0] - 3 * x[:, 1])))
    made = design(twice)
    assert (made.rank, made.features) == (4, 5)
    _, numbers, found = verdict_of(twice)
    assert found.verdict == "weak"
    assert "4 of their 5 directions" in found.reason
    assert np.isfinite([numbers.smallest, numbers.left, numbers.separation]).all()
    # A feature that never varies within a choice cannot be told either, however it varies between choices.
    between = replace(panel, features=np.column_stack((x, np.repeat(np.arange(len(x) // 3), 3))))
    assert verdict_of(between)[2].verdict == "weak"
    assert verdict_of(panel)[2].verdict == "identified"


@pytest.mark.parametrize("ridge", [0.0, 1e-6])
def test_worths_and_their_connected_parts(simulate, ridge):
    """A constant added to all worths of a type is no lack: worths are differences."""
    truth = np.array([[2.0, 1.0, 0.0, -1.0, -2.0, 0.0], [-2.0, -1.0, 0.0, 1.0, 2.0, 0.0]])
    panel, _ = simulate(truth, worths=True, annotators=100)
    assert (design(panel).parts, design(panel).rank) == (1, 5)
    assert verdict_of(panel, ridge=ridge)[2].verdict == "identified"
    apart = replace(
        panel,
        responses=panel.response_ids + 6 * (np.arange(panel.judgments) % 2)[:, None],
        response_total=12,
    )
    found = verdict_of(apart, ridge=ridge)[2]
    assert found.verdict == "weak"
    assert "2 parts" in found.reason
    # Where every part is a prompt, nothing else could have been collected.
    prompt = np.repeat([0, 1], 6)
    assert design(apart, prompt).parts == 1


def test_too_few_judgments(simulate):
    panel, _ = simulate(OPPOSITE / 5, annotators=12, judgments=2, shown=2)
    model, numbers, found = verdict_of(panel)
    assert found.verdict == "weak"
    assert "confidence" in found.reason
    assert "rankings of three" in found.advice
    assert numbers.separation < 0.99
    assert model.log_likelihood_ <= 0


def test_one_type_fitted_as_two_is_not_identified(simulate):
    panel, _ = simulate([THETA], annotators=150)
    assert verdict_of(panel)[2].verdict != "identified"


def test_little_power_makes_one_type_weak(simulate):
    panel, _ = simulate([THETA])
    assert identification(design(panel), power=0.6).verdict == "weak"
    assert "60%" in identification(design(panel), power=0.6).reason
    assert identification(design(panel), power=0.95).verdict == "identified"


def test_evidence_by_its_formulas(simulate):
    panel, _ = simulate(OPPOSITE, annotators=100)
    model, numbers, _ = verdict_of(panel)
    information = np.linalg.inv(model.covariance(panel))
    values = np.linalg.eigvalsh(information)
    assert numbers.smallest == pytest.approx(values[0], rel=1e-6, abs=1e-9 * values[-1])  # rounding is of the largest
    own = np.sqrt(np.diag(information))
    scaled = np.linalg.eigvalsh(information / np.outer(own, own))
    assert numbers.condition == pytest.approx(scaled[-1] / scaled[0], rel=1e-6)
    gamma = model.responsibilities_
    np.testing.assert_allclose(numbers.entropy, -(gamma * np.log(gamma + 1e-300)).sum(1), atol=1e-12)
    assert 0 < numbers.left < 1
    one = LatentClassPlackettLuce(1).fit(panel)
    assert evidence(one, panel).separation == 1
    assert evidence(one, panel).left == pytest.approx(1)  # nothing is hidden
    scale = replace(panel, features=np.asarray(panel.features) * [1e3, 1, 1, 1e-3])
    again = verdict_of(scale, ridge=0.0)[1]
    assert again.condition == pytest.approx(numbers.condition, rel=1e-3)  # units do not matter
    assert again.left == pytest.approx(numbers.left, rel=1e-3)
    assert again.separation == pytest.approx(numbers.separation, rel=1e-3)


def counted(panel):
    """`design` by loops."""
    says, places, wide, judged = [], {}, set(), {}
    for row, (responses, ranks, who) in enumerate(
        zip(panel.response_ids, panel.rank_values, panel.annotator_ids, strict=True)
    ):
        shown = [int(r) for r, rank in zip(responses, ranks, strict=True) if rank >= 0]
        number = min(sum(rank > 0 for rank in ranks), len(shown) - 1)
        if number <= 0:
            continue
        says.append((row, shown, who))
        places[who] = places.get(who, 0) + number
        if len(shown) > 2:
            wide.add(who)
        for one in shown:
            for other in shown:
                if one < other:
                    judged.setdefault((one, other), set()).add(who)
    shared = [any(len(judged.get((one, other), ())) > 1 for one in shown for other in shown) for _, shown, _ in says]
    return {
        "annotators": len(places),
        "informative": sum(number > 1 or who in wide for who, number in places.items()),
        "longest": max(len(shown) for _, shown, _ in says),
        "judgments": len(says) / len(places),
        "overlap": np.mean(shared),
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("judgments", [10, 60])
def test_designs_are_counted_right(seed, judgments):
    rng = np.random.default_rng(seed)
    responses = np.stack([rng.permutation(30)[:4] for _ in range(judgments)])
    ranks = rng.integers(-1, 3, responses.shape)
    responses[ranks == -1] = 10**6  # anything may stand where nothing is shown
    for features in (None, rng.normal(size=(30, 2))):
        panel = Panel(
            responses, ranks, rng.integers(0, 20, judgments), features, response_total=None if features is None else 30
        )  # fmt: skip
        found = vars(design(panel))
        for name, value in counted(panel).items():
            assert found[name] == pytest.approx(value), name


def test_long_lists_overlap_where_they_hold_the_same_responses():
    rng = np.random.default_rng(0)
    block = rng.integers(0, 3, 12)
    responses = np.stack([rng.permutation(40) + 40 * b for b in block])
    panel = Panel(responses, np.tile(np.arange(1, 41), (12, 1)), np.arange(12))
    assert design(panel).overlap == counted(panel)["overlap"]


def test_more_judgments_and_longer_rankings_find_more_people(simulate):
    panel, _ = simulate([[0.6, -0.4], [-0.4, 0.6]], annotators=60, judgments=4, shown=2)
    model = LatentClassPlackettLuce(2).fit(panel)
    found = power_curve(model, panel, judgments=(1, 4, 16), lengths=(None, 4), replicates=2, annotators=150)
    assert [(power.length, power.judgments) for power in found] == [
        (length, number) for length in (None, 4) for number in (1, 4, 16)
    ]
    for power in found:
        assert 0 <= power.low <= power.accuracy <= power.high <= 1
        assert 0.5 <= power.ceiling <= 1
        assert power.accuracy <= power.ceiling + 0.05  # no fit does better than the truth but by luck
    for row in (found[:3], found[3:]):
        ceilings = [power.ceiling for power in row]
        assert ceilings == sorted(ceilings)
        assert row[2].accuracy > row[0].accuracy + 0.1
    assert all(wide.ceiling > pair.ceiling for pair, wide in zip(found[:2], found[3:5], strict=True))
    assert power_curve(model, panel, judgments=(4,), lengths=(None,), replicates=1, annotators=50) == power_curve(
        model, panel, judgments=(4,), lengths=(None,), replicates=1, annotators=50
    )


def test_one_type_is_split_into_two_that_differ_moderately(simulate):
    panel, _ = simulate([THETA], annotators=30)
    model = LatentClassPlackettLuce(1).fit(panel)
    coefficients, shares = planted(model, panel)
    np.testing.assert_allclose(coefficients.mean(0), model.coefficients_[0], atol=1e-12)  # they may be near 0
    assert shares.tolist() == [0.5, 0.5]
    apart = np.asarray(panel.features) @ (coefficients[0] - coefficients[1])
    assert apart.std() == pytest.approx(1)


@pytest.mark.parametrize("length", [None, 3, 5])
@pytest.mark.parametrize("worths", [False, True])
def test_simulated_people_follow_the_model(simulate, length, worths):
    """A one-type fit to many of them finds the coefficients they were drawn with."""
    truth = np.array([[1.0, -0.5, 0.5, -1.0, 0.0, 0.0]])
    panel, _ = simulate(truth, annotators=50, shown=2, worths=worths)
    made, types = simulated(
        truth,
        np.ones(1),
        panel,
        annotators=1000,
        judgments=4,
        length=length,
        rng=np.random.default_rng(0),
    )
    assert (made.annotators, made.judgments, set(types)) == (1000, 4000, {0})
    assert ((made.rank_values > 0).sum(1) == (length or 2)).all()
    assert all(len(set(row)) == len(row) for row in made.response_ids)
    model = LatentClassPlackettLuce(1).fit(made)
    found = model.coefficients_[0]
    spread = np.sqrt(np.diag(model.covariance(made)))
    if worths:
        found, spread = found - found.mean(), 0.05
    assert (np.abs(found - truth[0]) < 4 * spread).all()


@pytest.mark.parametrize(
    ("gain", "power", "verdict", "starts"),
    [
        (Gain(0.001, 0.004), None, "one type", "No types: one taste predicts held-out judgments as well as 2 types do"),
        (Gain(0.3, 0.02), None, "identified", "Types: 2 types predict held-out judgments better than one taste does"),
        (Gain(-0.01, 0.004), 0.5, "one type", "No types: one taste predicts"),
    ],
)
def test_a_held_out_gain_decides_between_one_type_and_several(gain, power, verdict, starts):
    data = design(Panel(np.tile([[0, 1, 2]], (8, 1)), np.tile([[1, 2, 3]], (8, 1)), np.repeat(np.arange(4), 2)))
    heterogeneity = "one taste" if verdict == "one type" else "types"
    found = identification(data, None, power, types=2, gain=gain, heterogeneity=heterogeneity)
    assert found.verdict == verdict
    assert found.sentence.startswith(starts)
    assert f"{gain.value:+.3f} +- {gain.error:.3f}" in found.reason
    assert found.sentence.endswith("Train one policy.") == (verdict == "one type")
    if power is not None:
        assert "50%" in found.reason
        assert found.advice


def test_a_design_without_information_is_not_identified_whatever_was_gained():
    single = design(Panel([[0, 1], [0, 1]], [[1, 2], [2, 1]], [0, 1]))
    assert identification(single, types=2, gain=Gain(0.3, 0.01)).verdict == "not identified"
