"""Where EM-DPO starts, on towns whose types are known; and configs that cannot be."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from pluralign.choice.em_dpo import matched_types
from pluralign.choice.latent_class.panel import Panel
from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments, read
from pluralign.scoring import annotator_types
from pluralign.scoring.mixtures import read_responsibilities
from pluralign.training.em_dpo import type_starts
from pluralign.training.em_dpo.config import PRESETS, EMDPOConfig
from pluralign.training.em_dpo.type_starts import type_start
from pluralign.training.more.config import MOREConfig
from pluralign.training.more.soft_sources import soft_sources
from pluralign.workflows.audit.run import audit

LIKED = ("tea", "milk", "rain")
WORDS = (*LIKED, "good", "bad")


def town(types=3, annotators=30, each=8, shown=3, seed=0):
    """People of type k want the k-th word, two nats for each time it stands; the rest is Gumbel noise."""
    draw, rows = np.random.default_rng(seed), []
    for person in range(annotators):
        for _ in range(each):
            texts = []
            while len(texts) < shown:
                text = " ".join(draw.choice(WORDS, 5))
                texts += [text] if text not in texts else []
            scores = [2.0 * text.split().count(LIKED[person % types]) + draw.gumbel() for text in texts]
            rows.append(
                {
                    "prompt": f"Say something about number {draw.integers(6)}:",
                    "responses": texts,
                    "ranks": [1 + sum(other > score for other in scores) for score in scores],
                    "annotator": f"w{person}",
                    "group": f"g{person % types}",
                }
            )
    return rows


def start_of(rows, **values):
    table = rows if isinstance(rows, Judgments) else Judgments.from_rows(rows)
    defaults = {"types": 3, "features": "tfidf", "dimensions": 8, "most_types": 4, "use_cpu": True}
    return type_start(table, EMDPOConfig("nowhere", report_to="none", **{**defaults, **values}), 0)


def gamma_of(found, annotators=30):
    return np.stack([found.gamma[f"w{person}"] for person in range(annotators)])


def accuracy(gamma, types):
    known = np.arange(len(gamma)) % types
    names = matched_types(torch.from_numpy(gamma), torch.eye(types, dtype=torch.float64)[known]).numpy()
    return float((names[gamma.argmax(1)] == known).mean())


@pytest.fixture(scope="module")
def three():
    return town()


@pytest.mark.parametrize(("start", "least"), [("latent-class", 0.9), ("spectral", 0.8), ("kmeans", 0.8)])
def test_the_known_types_are_found(start, least, three):
    """Where a guess finds about half of the people after the best naming of the types."""
    found = start_of(three, start=start)
    gamma = gamma_of(found)
    np.testing.assert_allclose(gamma.sum(1), 1, rtol=1e-9)
    assert (gamma >= 0).all()
    assert accuracy(gamma, 3) >= least
    assert found.types == 3
    again = gamma_of(start_of(three, start=start))
    np.testing.assert_array_equal(again, gamma)
    if start == "spectral":
        assert sorted(set(np.round(gamma, 9).ravel())) == [0.05, 0.9]
    if start == "kmeans":
        assert set(gamma.ravel()) == {0.0, 1.0}


def test_the_number_of_types_is_found(three):
    assert start_of(three, types="auto").types == 3
    one = start_of(town(types=1, annotators=24, each=6), types="auto")
    assert one.types == 1
    np.testing.assert_array_equal(gamma_of(one, 24), 1)


def test_groups_are_the_shares_of_an_annotator_s_judgments():
    rows = town(types=2, annotators=8, each=4)
    for place, group in ((0, "g1"), (1, None), (4, None), (5, None), (6, None), (7, None)):
        rows[place]["group"] = group
    found = start_of(rows, types="auto", start="groups")
    assert found.types == 2
    gamma = gamma_of(found, 8)
    np.testing.assert_allclose(gamma[0], [2 / 3, 1 / 3], rtol=1e-12)
    np.testing.assert_array_equal(gamma[1], [0.5, 0.5])
    np.testing.assert_array_equal(gamma[2:], np.eye(2)[[0, 1] * 3])
    np.testing.assert_array_equal(gamma_of(start_of(rows, types=2, start="groups"), 8), gamma)


def test_groups_that_do_not_fit_are_said(three):
    with pytest.raises(PluralignError, match="the table has 3 groups, and types is 2: set types: 3"):
        start_of(three, types=2, start="groups")
    nobody = [row | {"group": None} for row in three]
    for types in ("auto", 3):
        with pytest.raises(PluralignError, match="the table has 0 groups.*give groups in the column `group`"):
            start_of(nobody, types=types, start="groups")


def test_dirichlet_is_random_but_for_the_seed(three):
    table = Judgments.from_rows(three)
    args = EMDPOConfig("nowhere", types=3, start="dirichlet", features="tfidf", use_cpu=True, report_to="none")
    found = [gamma_of(type_start(table, args, seed)) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(found[0] - found[2]).max() > 0.1
    np.testing.assert_allclose(found[0].sum(1), 1, rtol=1e-9)
    # Uniform on the simplex: each share has mean 1/3 and standard deviation sqrt(1/18), so 30 people .043.
    assert np.abs(found[0].mean(0) - 1 / 3).max() < 4 * np.sqrt(1 / 18 / 30)


def test_k_means_sees_what_people_chose_less_what_they_did_not(monkeypatch):
    """Three annotators by hand: the first places' mean less that of the others, ties shared, unranked ones last."""
    seen = []

    class Seen(type_starts.KMeans):
        def fit(self, rows):
            seen.append(rows)
            return super().fit(rows)

    monkeypatch.setattr(type_starts, "KMeans", Seen)
    features = np.array([[1.0, 0.0], [0.0, 2.0], [4.0, 1.0], [0.5, 0.5]])
    choices = [([0, 1, 2], [2, 1, 3]), ([1, 2, 3], [1, 1, 2]), ([0, 2, 3], [0, 1, 0]), ([0, 1, 2], [1, 1, 1])]
    whose = [0, 0, 1, 2]
    panel = Panel([responses for responses, _ in choices], [ranks for _, ranks in choices], whose, features=features)
    type_starts.mean_difference_groups(panel, 2, 0)
    first = features[1] - (features[0] + features[2]) / 2
    second = (features[1] + features[2]) / 2 - features[3]
    third = features[2] - (features[0] + features[3]) / 2
    np.testing.assert_allclose(seen[0], [(first + second) / 2, third, [0, 0]], rtol=1e-12)
    type_starts.mean_difference_groups(dataclasses.replace(panel, features=None, response_total=4), 2, 0)
    np.testing.assert_allclose(seen[1][1], [-0.5, 0, 1, -0.5], rtol=1e-12)


def test_annotators_without_an_id_are_each_their_own(three):
    rows = [row | {"annotator": None} if place < 8 else row for place, row in enumerate(three)]
    for start in ("latent-class", "dirichlet", "groups", "kmeans", "spectral"):
        found = start_of(rows, start=start)
        assert set(found.gamma) == {*range(8), *(f"w{person}" for person in range(1, 30))}, start
    assert len({tuple(found.gamma[row]) for row in range(8)}) > 1


def test_labels_start_types_too():
    """Rows with labels alone are ranked by them, and rows that say nothing are nobody's."""
    rows = [
        {"prompt": "Tea?", "responses": ["yes", "no"], "labels": [f"{1 + person % 2 * 4}", "3"]}
        | {"annotator": f"w{person}"}
        for person in range(8)
        for _ in range(3)
    ]
    table = Judgments.from_rows(rows, BUILT_IN_SCALES["1-to-5"])
    found = start_of(table, types=2, features="worths")
    assert accuracy(gamma_of(found, 8), 2) == 1


def test_pairs_one_each_are_not_identified_and_rankings_are(three):
    pairs = town(types=2, annotators=40, each=1, shown=2)
    found = start_of(pairs, types=2)
    assert found.verdict.verdict == "not identified"
    assert found.verdict.advice
    assert start_of(three).verdict.verdict == "identified"


def test_an_audit_em_dpo_and_types_as_sources_give_one_answer(three, tmp_path, monkeypatch, caplog):
    """From one computation; a run on other features that finds another number of types is told so."""
    monkeypatch.setenv("PLURALIGN_CACHE", str(tmp_path / "cache"))
    Judgments.from_rows(three).write(tmp_path / "table.parquet")
    settings = {"features": "tfidf", "dimensions": 8, "most_types": 4}
    audit([tmp_path / "table.parquet"], tmp_path / "audit", simulations=0, **settings)
    expected = read_responsibilities(tmp_path / "audit" / "types.parquet")
    table = read([tmp_path / "table.parquet"])
    with monkeypatch.context() as patched:
        patched.setattr(annotator_types, "findings", lambda *_, **__: pytest.fail("computed again"))
        found = start_of(table, types="auto")
        sources = soft_sources(table, np.arange(len(table)), MOREConfig(
            str(tmp_path / "more"), source="types", use_cpu=True, report_to="none", **settings
        ))  # fmt: skip
    assert found.types == 3
    assert found.supported
    for place, (name, gamma) in enumerate(expected.items()):
        np.testing.assert_array_equal(found.gamma[name], gamma)
        np.testing.assert_allclose(sources.shares[place], gamma, rtol=1e-12)
    transformers.utils.logging.enable_propagation()
    start_of(table, types="auto", features="worths")
    transformers.utils.logging.disable_propagation()
    assert (
        "the features tfidf gave 3 types for the same judgments, and worths, which are used here, give 1" in caplog.text
    )


# Configs.


def test_presets_set_what_was_left_alone():
    args = EMDPOConfig("nowhere", preset="paper", use_cpu=True, report_to="none")
    assert {name: getattr(args, name) for name in PRESETS["paper"]} == PRESETS["paper"]
    assert (args.start, args.rounds, args.scoring, args.routing) == ("kmeans", 5, "train", "dense")
    assert (args.optim, args.learning_rate, args.num_train_epochs) == ("rmsprop", 5e-7, 1.0)
    given = {"start": "spectral", "rounds": 3, "learning_rate": 1e-5, "routing": "sparse", "optim": "sgd"}
    args = EMDPOConfig("nowhere", preset="paper", use_cpu=True, report_to="none", **given)
    for name, value in given.items():
        assert getattr(args, name) == value, name
    assert (args.scoring, args.num_train_epochs) == ("train", 1.0)
    cluster = EMDPOConfig("nowhere", preset="cluster-dpo", use_cpu=True, report_to="none")
    plain = EMDPOConfig("nowhere", use_cpu=True, report_to="none")
    assert (cluster.start, cluster.rounds, cluster.num_train_epochs) == ("kmeans", 0, 1.0)
    assert (cluster.scoring, cluster.learning_rate, cluster.optim) == (
        plain.scoring, plain.learning_rate, plain.optim
    )  # fmt: skip


WRONG = [
    ({"types": 0}, "types: found 0"),
    ({"types": "some"}, "types: found 'some', expected auto"),
    ({"most_types": 0}, "most_types: found 0, expected 1 or more"),
    ({"rounds": -1}, "rounds: found -1, expected 0 or more"),
    ({"most_rounds": 0}, "most_rounds: found 0, expected 1 or more"),
    ({"round_epochs": 0.0}, "round_epochs: found 0.0, expected a number above 0"),
    ({"scoring": "train"}, "rounds: auto compares rounds on held-out judgments"),
    ({"dimensions": 0}, "dimensions: found 0"),
    ({"temperature": 0.5}, "temperature: found 0.5, expected 1 or more"),
    ({"floor": 0.5}, "floor: found 0.5, expected a share"),
    ({"weight_floor": -0.1}, "weight_floor: found -0.1"),
    ({"weight_floor": 0.0}, "weight_floor: found 0, expected a share above"),
    ({"drop_below": 0.7}, "drop_below: found 0.7"),
    ({"skip_below": -1.0}, "skip_below: found -1.0"),
    ({"routing": "sparse", "skip_below": 1e-3}, "expected more than the floor, 0.001"),
    ({"most_scored": 0}, "most_scored: found 0"),
    ({"precompute_ref_log_probs": False}, "every E-step needs the reference's"),
    ({"loss_type": "sigmoid", "label_smoothing": 0.1}, "an E-step needs"),
    ({"loss_type": "sigmoid", "label_smoothing": "votes"}, "set it to 0"),
    ({"start": "latentclass"}, "start: found 'latentclass', expected latent-class, spectral"),
    ({"routing": "hard"}, "routing: found 'hard', expected sparse, sampled, dense"),
    ({"rounds": 1, "scoring": "test"}, "scoring: found 'test', expected crossfit, train"),
    ({"preset": "papers"}, "preset: found 'papers', expected paper, cluster-dpo"),
    ({"beta": 0.0}, "beta: found 0.0"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[str(values) for values, _ in WRONG])
def test_configs_that_cannot_be_are_said(values, message):
    with pytest.raises(ValueError, match=message):
        EMDPOConfig("nowhere", use_cpu=True, report_to="none", **values)
