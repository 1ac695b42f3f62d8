"""Posteriors of annotators from their judgments, against plain forward passes and loops; what routing cannot do."""

import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from architectures import write_model
from mixtures import Plain, write_mixture
from pluralign.core.errors import PluralignError
from pluralign.judgments.table import Judgments
from pluralign.policies.loading import load_policy
from pluralign.policies.routing import (
    posterior,
    responsibility_entropy,
    type_utilities,
)
from pluralign.scoring.items import items_of
from pluralign.scoring.mixtures import Mixture, ranking_log_likelihoods, read_responsibilities

WEIGHTS = {"type-1": 0.5, "type-2": 0.3, "type-3": 0.2}


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    return write_model("llama", tiny_model, tmp_path_factory.mktemp("routing") / "base")


@pytest.fixture(scope="module")
def folder(base):
    return write_mixture(base, base.parent / "mixture", WEIGHTS, beta=0.3)


@pytest.fixture(scope="module")
def rows(town_rows):
    """Rankings of two to four, some tied, one of the best alone; of several weights."""
    found = [dict(row, weight=1 + number % 3 / 2) for number, row in enumerate(town_rows[:24])]
    found[3]["ranks"] = [1] + [None] * (len(found[3]["ranks"]) - 1)
    return found


@pytest.fixture(scope="module")
def items(rows):
    return items_of(Judgments.from_rows(rows))


def luce(utilities, ranks):
    """A strict ranking's probability, by the definition."""
    left = list(range(len(ranks)))
    total = 0.0
    for place in sorted(rank for rank in ranks if rank > 0):
        best = ranks.index(place)
        total += utilities[best] - math.log(sum(math.exp(utilities[one]) for one in left))
        left.remove(best)
    return total


def test_likelihoods_are_those_of_plain_forward_passes(base, folder, items):
    """Every text through transformers alone, and the choice model by its definition."""
    policy = load_policy(folder, device="cpu")
    texts = [(items.prompts[item], text) for item, text in zip(items.item, items.responses, strict=True)]
    reference = Plain(base)
    bottom = np.array([reference.log_prob(*text) for text in texts])
    found = ranking_log_likelihoods(type_utilities(policy, items), items, policy.mixture)
    given = [items.ranks[items.shown(one)].tolist() for one in range(items.judgments)]
    strict = [one for one, ranks in enumerate(given) if len({*ranks} - {0}) == np.count_nonzero(ranks)]
    assert len(strict) > 3
    for kind, name in enumerate(WEIGHTS):
        adapter = Plain(base, folder / name)
        utilities = 0.3 * (np.array([adapter.log_prob(*text) for text in texts]) - bottom)
        for one in strict:
            expected = luce(utilities[items.response[items.shown(one)]], given[one])
            assert found[one, kind] == pytest.approx(expected, rel=1e-4, abs=1e-5)  # float32 sums, times beta
    gamma, _ = posterior(found, np.zeros(items.judgments, int), 1, policy.weights, items.weight)
    joint = [math.log(share) + items.weight @ found[:, kind] for kind, share in enumerate(WEIGHTS.values())]
    by_hand = np.exp(joint) / np.exp(joint).sum()
    np.testing.assert_allclose(gamma[0], by_hand, rtol=1e-9, atol=1e-12)
    assert gamma.max() > 0.4


def test_each_response_is_read_once_under_each_adapter_and_the_reference(folder, items, monkeypatch):
    policy = load_policy(folder, device="cpu")
    tokens = policy.tokenize(items)
    policy.layout(tokens)  # finding one reads some texts too
    read = []
    forward = type(policy.model.base_model.model).forward

    def counted(self, *args, sources=None, targets=None, **kwargs):
        read.append(0 if targets is None else len(targets))
        return forward(self, *args, sources=sources, targets=targets, **kwargs)

    monkeypatch.setattr(type(policy.model.base_model.model), "forward", counted)
    type_utilities(policy, items)
    assert sum(read) == (len(WEIGHTS) + 1) * sum(len(ids) for ids in tokens.response_ids)


@pytest.mark.parametrize("settings", [{}, {"top": 1}, {"ties": "breslow"}, {"loss_type": "sigmoid"}], ids=str)
def test_likelihoods_do_not_depend_on_what_stands_beside_a_judgment(settings, items, rows):
    """Judgments of several lengths at once, and one at a time; adding a constant to utilities changes nothing."""
    mixture = Mixture(WEIGHTS, **settings)
    utilities = np.random.default_rng(0).normal(size=(3, len(items.responses)))
    found = ranking_log_likelihoods(utilities, items, mixture)
    for one, row in enumerate(rows):
        alone = items_of(Judgments.from_rows([row]))
        own = [items.responses.index(text) for text in alone.responses]  # no text of the town stands twice
        np.testing.assert_allclose(
            ranking_log_likelihoods(utilities[:, own], alone, mixture)[0], found[one], rtol=1e-12, atol=1e-12
        )
    np.testing.assert_allclose(ranking_log_likelihoods(utilities + 7.0, items, mixture), found, atol=1e-9)


def test_loss_type_and_top_choose_the_likelihood():
    rows = [{"prompt": "Tea?", "responses": ["a", "b", "c"], "ranks": [1, 2, 3]}]
    items = items_of(Judgments.from_rows(rows))
    u = np.array([[1.0, 0.5, -0.2]])
    full = ranking_log_likelihoods(u, items, Mixture({"a": 1.0}))[0, 0]
    best = ranking_log_likelihoods(u, items, Mixture({"a": 1.0}, top=1))[0, 0]
    pairs = ranking_log_likelihoods(u, items, Mixture({"a": 1.0}, loss_type="sigmoid"))[0, 0]
    assert full == pytest.approx(luce(u[0], [1, 2, 3]))
    assert best == pytest.approx(1.0 - math.log(np.exp(u).sum()))
    assert pairs == pytest.approx(sum(-math.log1p(math.exp(-gap)) for gap in (0.5, 1.2, 0.7)))


def test_posteriors_are_unmoved_by_order_and_multiply_evidence():
    rng = np.random.default_rng(1)
    each, who = np.log(rng.random((30, 3))), rng.integers(4, size=30)
    prior, weight = np.array([0.2, 0.5, 0.3]), rng.random(30) + 0.5
    gamma, total = posterior(each, who, 5, prior, weight)
    np.testing.assert_allclose(gamma.sum(1), 1)
    order = rng.permutation(30)
    again, _ = posterior(each[order], who[order], 5, prior, weight[order])
    np.testing.assert_allclose(again, gamma, rtol=1e-10, atol=1e-12)
    # The posterior after one half is the prior of the other.
    half = np.arange(30) % 2 == 0
    first, _ = posterior(each[half], who[half], 5, prior, weight[half])
    for person in range(4):
        rest = ~half & (who == person)
        second, _ = posterior(each[rest], np.zeros(rest.sum(), int), 1, first[person], weight[rest])
        np.testing.assert_allclose(second[0], gamma[person], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gamma[4], prior)
    assert total[4] == pytest.approx(0, abs=1e-12)
    # A judgment of weight 2 is two judgments.
    doubled, _ = posterior(each[[0, 0]], [0, 0], 1, prior)
    np.testing.assert_allclose(posterior(each[:1], [0], 1, prior, [2.0])[0], doubled, rtol=1e-12)


def test_a_type_without_a_share_is_nobody_s_and_overwhelming_evidence_stays_finite():
    gamma, total = posterior([[-5000.0, -9000.0, 0.0]], [0], 1, [0.5, 0.5, 0.0])
    assert gamma.tolist() == [[1.0, 0.0, 0.0]]
    assert total[0] == pytest.approx(-5000 - math.log(2))
    assert responsibility_entropy(gamma).tolist() == [0.0]
    assert responsibility_entropy([[1 / 3] * 3])[0] == pytest.approx(math.log(3))


def test_what_does_not_fit_is_named(items):
    with pytest.raises(PluralignError, match=r"found \(2, 2\) with \(1,\), \(2,\) and \(2,\)"):
        posterior(np.zeros((2, 2)), [0], 1, [0.5, 0.5])
    with pytest.raises(PluralignError, match="annotator: found 0 to 1, expected 0 to 0"):
        posterior(np.zeros((2, 2)), [0, 1], 1, [0.5, 0.5])
    with pytest.raises(PluralignError, match=r"utilities: shape \(3,\), expected \(types,"):
        ranking_log_likelihoods(np.zeros(3), items, Mixture(WEIGHTS))
    rows = [{"prompt": "Tea?", "responses": list("abcde"), "ranks": [1, 1, 1, 1, 2]}]
    with pytest.raises(PluralignError, match="the mixture was tuned with ties: average: .* found 4"):
        tied = items_of(Judgments.from_rows(rows))
        ranking_log_likelihoods(np.zeros((1, 5)), tied, Mixture({"a": 1.0}, ties="average"))


def test_responsibilities_are_read_by_annotator(tmp_path):
    file = tmp_path / "responsibilities.parquet"
    columns = {"annotator": pa.array(["ann", None], pa.string()), "probability_1": [0.25, 0.5]}
    pq.write_table(pa.table(columns | {"probability_2": [0.75, 0.5]}), file)
    found = read_responsibilities(tmp_path, 2)
    assert {name: own.tolist() for name, own in found.items()} == {"ann": [0.25, 0.75]}
    with pytest.raises(PluralignError, match="expected the columns annotator, probability_1, probability_2, probab"):
        read_responsibilities(tmp_path, 3)
    with pytest.raises(PluralignError, match="one for each type"):
        read_responsibilities(tmp_path, 1)
    file.write_text("nothing of the kind")
    with pytest.raises(PluralignError, match="not a readable Parquet file"):
        read_responsibilities(tmp_path, 2)
    file.unlink()
    with pytest.raises(PluralignError, match="no such file"):
        read_responsibilities(tmp_path, 2)


def test_the_policy_is_left_as_it_was(folder, items):
    policy = load_policy(folder, device="cpu")
    before = policy.model.active_adapter
    type_utilities(policy, items)
    assert policy.model.active_adapter == before
    assert not policy.model.training
