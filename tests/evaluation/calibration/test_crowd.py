import math

import numpy as np
import pytest

from pluralign.core.errors import PluralignError
from pluralign.evaluation.calibration.crowd import crowd_calibration, crowd_pairs
from pluralign.evaluation.calibration.reliability import equal_width_edges
from pluralign.evaluation.intervals import Resampling
from pluralign.evaluation.pairs import pairs_of
from pluralign.evaluation.rewards.metrics import pair_metrics
from pluralign.evaluation.rewards.summary import evaluate_rewards

SIX = ("rewards", "ranks", "offsets", "prompt", "weight", "response")


def votes_on(margins, shares, votes, rng=None):
    """Judgments of one pair per prompt: `votes` annotators, a share of whom (drawn if `rng` is given) prefer the first."""
    ranks, rewards, prompt = [], [], []
    for at, (margin, share) in enumerate(zip(margins, shares, strict=True)):
        ahead = round(share * votes) if rng is None else int(rng.binomial(votes, share))
        for vote in range(votes):
            ranks += [1, 2] if vote < ahead else [2, 1]
            rewards += [margin, 0.0]
            prompt.append(at)
    count = len(prompt)
    return {
        "rewards": rewards,
        "ranks": ranks,
        "offsets": np.arange(0, 2 * count + 1, 2),
        "prompt": prompt,
        "weight": np.ones(count),
        # Ids repeat from prompt to prompt and are told apart by it.
        "response": [0, 1] * count,
    }


def loop_crowd(data, bins):
    """Oracle: votes by plain loops, then both orders of each pair."""
    found: dict[tuple, list[tuple[float, float]]] = {}
    reward = {}
    for j, weight in enumerate(data["weight"]):
        places = range(data["offsets"][j], data["offsets"][j + 1])
        for a in places:
            reward[data["prompt"][j], data["response"][a]] = data["rewards"][a]
            for b in places:
                one, two = data["response"][a], data["response"][b]
                ra, rb = (data["ranks"][k] or math.inf for k in (a, b))
                if one < two and min(ra, rb) < math.inf and weight > 0:
                    vote = 1.0 if ra < rb else 0.5 if ra == rb else 0.0
                    found.setdefault((data["prompt"][j], one, two), []).append((vote, weight))
    crowd = {key: np.array(votes) for key, votes in found.items() if len(votes) >= 2}
    squares, noise, cells, decided = [], [], [], []
    for (prompt, one, two), votes in crowd.items():
        v, w = votes.T
        share = np.average(v, weights=w)
        p = 1 / (1 + math.exp(reward[prompt, two] - reward[prompt, one]))
        squares.append((p - share) ** 2)
        n = w.sum() ** 2 / (w**2).sum()
        noise.append(np.average((v - share) ** 2, weights=w) / (n - 1))
        cells += [(q, s) for q, s in ((p, share), (1 - p, 1 - share)) if q != 0.5]
        ahead = w[v == 1].sum() - w[v == 0].sum()
        if abs(ahead) > 1e-9:
            decided.append((p, float(ahead > 0)))

    def error(rows):
        edges = equal_width_edges(bins)
        total = 0.0
        for b in range(len(edges) - 1):
            for low in (False, True):
                part = [
                    s - q
                    for q, s in rows
                    if (q < 0.5) == low
                    and edges[b] <= max(q, 1 - q)
                    and (max(q, 1 - q) < edges[b + 1] or b == len(edges) - 2)
                ]
                total += abs(sum(part))
        return total / len(rows)

    both = [row for p, y in decided for row in ((p, y), (1 - p, 1 - y)) if p != 0.5]
    right = [0.5 if p == 0.5 else float((p > 0.5) == (y == 1)) for p, y in decided]
    return {
        "crowd_pairs": len(crowd),
        "crowd_votes": sum(len(votes) for votes in crowd.values()),
        "crowd_split": len(crowd) - len(decided),
        "crowd_ece": error(cells),
        "crowd_brier": np.mean(squares),
        "crowd_noise": np.mean(noise),
        "pairwise_calibration": np.mean(squares) - np.mean(noise),
        "crowd_ece_majority": error(both),
        "crowd_accuracy": np.mean(right),
    }


@pytest.mark.parametrize("bins", [2, 10])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_equal_plain_loops(rankings, seed, bins):
    data = rankings(seed)
    data["weight"][:5] = 0.0
    crowd = crowd_pairs(*(data[name] for name in SIX))
    expected = loop_crowd(data, bins)
    assert expected["crowd_pairs"] > 50
    assert expected["crowd_split"] > 0
    assert (crowd.margin == 0).any()
    assert crowd_calibration(crowd, bins) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_figures_by_hand():
    """Two pairs: said 0.8, four of five agree; said 0.6, one of five agrees."""
    metrics = evaluate_rewards(**votes_on([math.log(4), math.log(1.5)], [0.8, 0.2], 5), replicates=0)
    assert metrics["crowd_pairs"] == 2
    assert metrics["crowd_votes"] == 10
    assert metrics["crowd_split"] == 0
    assert metrics["crowd_ece"] == pytest.approx(0.4 / 2)
    assert metrics["crowd_brier"] == pytest.approx(0.16 / 2)
    assert metrics["crowd_noise"] == pytest.approx(0.8 * 0.2 / 4)
    assert metrics["crowd_ece_majority"] == pytest.approx((0.2 + 0.6) / 2)
    assert metrics["crowd_accuracy"] == pytest.approx(0.5)


def test_a_tie_is_half_a_vote_either_way():
    data = votes_on([1.0], [0.5], 2) | {"ranks": [1, 2, 1, 1]}
    crowd = crowd_pairs(*(data[name] for name in SIX))
    assert (crowd.share.tolist(), crowd.winner.tolist()) == ([0.75], [1])
    # Votes 1 and 1/2: sample variance 1/8, of the mean of two 1/16.
    assert crowd.noise.tolist() == pytest.approx([1 / 16])


@pytest.mark.parametrize("votes", [2, 3, 10])
def test_noise_is_the_floor_of_the_brier_score_of_the_truth(votes):
    rng = np.random.default_rng(votes)
    margins = rng.normal(scale=1.5, size=4000)
    data = votes_on(margins, 1 / (1 + np.exp(-margins)), votes, rng)
    metrics = crowd_calibration(crowd_pairs(*(data[name] for name in SIX)))
    # Means of 4000 squares under 0.1 of spread about 0.07: errors of about 0.001, of the two together less.
    assert metrics["crowd_noise"] > 0.01
    assert metrics["crowd_brier"] == pytest.approx(metrics["crowd_noise"], abs=0.004)
    # Against the share the truth is calibrated; against the single winner it is not sure enough.
    assert metrics["crowd_ece"] < 0.015
    if votes == 10:
        assert metrics["crowd_ece_majority"] > 0.1


def test_twice_the_margin_adds_its_square_error_to_the_noise():
    rng = np.random.default_rng(9)
    margins = rng.normal(scale=1.5, size=4000)
    truth = 1 / (1 + np.exp(-margins))
    data = votes_on(2 * margins, truth, 4, rng)
    metrics = crowd_calibration(crowd_pairs(*(data[name] for name in SIX)))
    expected = np.mean((1 / (1 + np.exp(-2 * margins)) - truth) ** 2)
    assert metrics["crowd_brier"] - metrics["crowd_noise"] == pytest.approx(expected, abs=0.004)


def test_a_recalibration_is_applied_to_the_margins(rankings):
    data = rankings(1)
    halved = crowd_calibration(crowd_pairs(*(data[name] for name in SIX), recalibration=lambda margin: margin / 2))
    direct = crowd_calibration(crowd_pairs(data["rewards"] / 2, *(data[name] for name in SIX[1:])))
    assert halved == pytest.approx(direct, rel=1e-12, abs=1e-12)
    whole = evaluate_rewards(**data, replicates=0, recalibration=lambda margin: margin / 2)
    assert whole.items() >= halved.items()


def test_which_response_comes_first_does_not_matter(rankings):
    data = rankings(0)
    mirrored = data | {"response": 8 - data["response"]}
    first, second = (crowd_calibration(crowd_pairs(*(d[name] for name in SIX))) for d in (data, mirrored))
    assert first == pytest.approx(second, rel=1e-12, abs=1e-12)


def test_unanimous_votes_make_the_ordinary_measures():
    """If all agree, the share is the single winner, and one pair per prompt counts once in both."""
    rng = np.random.default_rng(3)
    margins = rng.normal(size=60)
    data = votes_on(margins, np.ones(60), 3)
    metrics = crowd_calibration(crowd_pairs(*(data[name] for name in SIX)))
    plain = pair_metrics(pairs_of(*(data[name] for name in SIX[:5])))
    assert metrics["crowd_ece"] == pytest.approx(plain["ece"])
    assert metrics["crowd_ece_majority"] == pytest.approx(plain["ece"])
    assert metrics["crowd_brier"] == pytest.approx(plain["brier"])
    assert metrics["crowd_accuracy"] == pytest.approx(plain["accuracy"])
    assert metrics["crowd_noise"] == 0.0


def test_intervals_hold_the_truth_and_need_two_prompts():
    rng = np.random.default_rng(5)

    def drawn(count):
        margins = rng.normal(scale=1.5, size=count)
        data = votes_on(1.7 * margins, 1 / (1 + np.exp(-margins)), 5, rng)
        return crowd_pairs(*(data[name] for name in SIX))

    truth, interval = crowd_calibration(drawn(20_000)), crowd_calibration(drawn(500), replicates=400)
    for name in ("crowd_ece", "crowd_brier", "crowd_noise", "crowd_ece_majority", "crowd_accuracy"):
        assert interval[f"{name}_low"] < truth[name] < interval[f"{name}_high"], name
    assert not any(key.endswith("_low") for key in crowd_calibration(drawn(1), replicates=20))


def judged(rng, annotators=20, each=60, prompts=40):
    """Judgments of one pair a prompt by annotators who agree with the model to different degrees, and who they are."""
    annotator = np.repeat(np.arange(annotators), each)
    prompt = rng.integers(prompts, size=len(annotator))
    margin = np.abs(rng.normal(scale=1.5, size=prompts))[prompt]
    shift = rng.normal(scale=0.5, size=prompts)[prompt] + rng.normal(size=annotators)[annotator]
    ahead = rng.random(len(prompt)) < 1 / (1 + np.exp(-margin / 1.25 - shift))
    data = {
        "rewards": np.stack([margin, np.zeros(len(prompt))], 1).ravel(),
        "ranks": np.where(ahead[:, None], [1, 2], [2, 1]).ravel(),
        "offsets": np.arange(0, 2 * len(prompt) + 1, 2),
        "prompt": prompt,
        "weight": np.ones(len(prompt)),
        "response": np.tile([0, 1], len(prompt)),
    }
    return [data[name] for name in SIX], annotator


def test_intervals_cover_new_prompts_and_annotators():
    """Every metric, as its mean over many samples; over prompts alone, intervals are too narrow."""
    rng = np.random.default_rng(30)
    names = ("crowd_brier", "crowd_noise", "crowd_accuracy")
    found = []
    for _ in range(80):
        data, annotator = judged(rng)
        found.append([crowd_calibration(crowd_pairs(*data, annotator=who), replicates=50) for who in (annotator, None)])
    for name in names:
        truth = np.mean([both[name] for both, _ in found])
        covered = [np.mean([one[k][f"{name}_low"] <= truth <= one[k][f"{name}_high"] for one in found]) for k in (0, 1)]
        assert covered[0] >= 0.85, name
        assert covered[0] > covered[1], name


def test_the_interval_of_a_linear_metric_is_that_of_its_votes():
    """With as many votes on each pair, the gap of the only bin is a mean over votes."""
    annotator, prompt = (part.ravel() for part in np.divmod(np.arange(12 * 30), 30))
    rng = np.random.default_rng(31)
    ahead = rng.random(360) < 0.4 + 0.02 * annotator
    data = votes_on([2.0] * 30, [0.5] * 30, 12)
    data["prompt"], data["ranks"] = prompt, np.where(ahead[:, None], [1, 2], [2, 1]).ravel()
    found = crowd_calibration(crowd_pairs(*(data[name] for name in SIX), annotator=annotator), replicates=10)
    direct = Resampling(prompt, annotator=annotator).mean_intervals({"mean": (1 / (1 + np.exp(-2)) - ahead, 1.0)})
    assert found["crowd_ece"] == pytest.approx(direct["mean"])
    for end in ("low", "high"):
        assert found[f"crowd_ece_{end}"] == pytest.approx(direct[f"mean_{end}"], abs=0.02)


def test_few_annotators_are_taken_as_given():
    rng = np.random.default_rng(32)
    data, annotator = judged(rng, annotators=4)
    found = crowd_calibration(crowd_pairs(*data, annotator=annotator), replicates=20)
    assert found.pop("intervals_given_annotators") is True
    assert found == pytest.approx(crowd_calibration(crowd_pairs(*data), replicates=20))


def test_few_votes_and_odd_weights_stay_defined():
    once = votes_on([1.0, 2.0], [1.0, 1.0], 1)
    assert crowd_calibration(crowd_pairs(*(once[name] for name in SIX))) == {}
    assert not any(key.startswith("crowd") for key in evaluate_rewards(**once, replicates=20))
    # A vote of no weight is none; a vote that vanishes beside another says nothing of spread.
    for weight, pairs in (([1.0, 0.0], 0), ([1.0, 1e-18], 1)):
        data = votes_on([1.0], [0.5], 2) | {"weight": weight}
        crowd = crowd_pairs(*(data[name] for name in SIX))
        assert len(crowd.margin) == pairs
        assert all(math.isfinite(value) for value in crowd_calibration(crowd).values())
    split = crowd_calibration(crowd_pairs(*(votes_on([0.0], [0.5], 2)[name] for name in SIX)))
    assert split == {"crowd_pairs": 1, "crowd_votes": 2, "crowd_split": 1, "crowd_brier": 0.0, "crowd_noise": 0.25,
                     "pairwise_calibration": -0.25}  # fmt: skip


def test_errors_name_the_argument():
    data = votes_on([1.0], [1.0], 2)
    with pytest.raises(PluralignError, match=r"rewards\[2\] is 3.0, but response 0 of prompt 0"):
        crowd_pairs(*((data | {"rewards": [1.0, 0.0, 3.0, 0.0]})[name] for name in SIX))
    with pytest.raises(PluralignError, match="response: shape"):
        crowd_pairs(*((data | {"response": [0]})[name] for name in SIX))
    crowd = crowd_pairs(*(data[name] for name in SIX))
    with pytest.raises(PluralignError, match="bins is 3"):
        crowd_calibration(crowd, bins=3)
    with pytest.raises(PluralignError, match="replicates is -1"):
        crowd_calibration(crowd, replicates=-1)
