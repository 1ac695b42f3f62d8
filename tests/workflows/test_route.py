"""`pluralign.route`: a row for everyone, from forward passes alone."""

import math

import numpy as np
import pyarrow.parquet as pq
import pytest

import pluralign
from architectures import write_model
from mixtures import Plain, write_mixture, write_run
from pluralign.core.errors import PluralignError
from pluralign.judgments.table import Judgments
from pluralign.policies.pooled import PooledPolicy
from pluralign.workflows.route import continuum_of

WEIGHTS = {"type-1": 0.6, "type-2": 0.4}
BETA = 0.7


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    return write_model("llama", tiny_model, tmp_path_factory.mktemp("route") / "base")


@pytest.fixture(scope="module")
def run(base):
    return write_run(base, base.parent / "run", WEIGHTS, {"old": [0.9, 0.1]}, beta=BETA)


def pair(prompt, responses, ranks, annotator, weight=1.0):
    return {"prompt": prompt, "responses": responses, "ranks": ranks, "annotator": annotator, "weight": weight}


@pytest.fixture(scope="module")
def file(base):
    tea, rain = ["good cat", "bad dog in the rain"], ["sun sun", "milk and tea"]
    rows = [
        pair("Tea?", tea, [1, 2], "new"),
        pair("Tea?", tea, [1, 2], None),
        pair("Rain or sun?", rain, [2, 1], "new", 0.5),
        pair("Rain or sun?", rain[:1], [1], "silent"),
        pair("Rain or sun?", rain, [1, 2], None),
    ]
    path = base.parent / "judgments.parquet"
    Judgments.from_rows(rows).write(path)
    return path


@pytest.fixture(scope="module")
def table(run, file):
    return pluralign.route(run, file, run / "routed.parquet", device="cpu")


def log_sigmoid(value):
    return -math.log1p(math.exp(-value))


def test_posteriors_are_those_of_plain_forward_passes(table, base, run):
    """Every utility by transformers alone, every posterior by Bayes' rule on paper."""
    reference, said = Plain(base), {"new": [], 1: [], 4: []}
    for name in WEIGHTS:
        adapter = Plain(base, run / name)

        def gap(prompt, better, worse, adapter=adapter):
            utility = {one: adapter.log_prob(prompt, one) - reference.log_prob(prompt, one) for one in (better, worse)}
            return log_sigmoid(BETA * (utility[better] - utility[worse]))

        tea = gap("Tea?", "good cat", "bad dog in the rain")
        said["new"].append(tea + 0.5 * gap("Rain or sun?", "milk and tea", "sun sun"))
        said[1].append(tea)
        said[4].append(gap("Rain or sun?", "sun sun", "milk and tea"))
    found = {row["annotator"] if row["row"] is None else row["row"]: row for row in table.to_pylist()}
    assert list(found) == ["new", 1, "silent", 4]
    for key, log_likelihood in said.items():
        joint = np.log(list(WEIGHTS.values())) + log_likelihood
        total = np.logaddexp.reduce(joint)
        own = np.exp(joint - total)
        row = found[key]
        assert [row["probability_1"], row["probability_2"]] == pytest.approx(own.tolist(), rel=1e-4)
        assert row["log_likelihood"] == pytest.approx(total, rel=1e-4)
        assert row["entropy"] == pytest.approx(-(own * np.log(own)).sum(), rel=1e-3)
        assert row["type"] == own.argmax() + 1
        assert row["adapter"] == f"type-{row['type']}"
        assert row["adapter_path"] == str(run / row["adapter"])
    assert [found[key]["judgments"] for key in ("new", 1, 4)] == [2, 1, 1]
    assert len({row["probability_1"] for row in found.values()}) == 4, "they say different things"


def test_who_ranks_nothing_gets_the_prior(table, run, file):
    silent = table.to_pylist()[2]
    assert (silent["annotator"], silent["judgments"], silent["type"]) == ("silent", 0, 1)
    assert [silent["probability_1"], silent["probability_2"]] == pytest.approx([0.6, 0.4])
    assert silent["log_likelihood"] == pytest.approx(0, abs=1e-12)
    uniform = pluralign.route(run, file, prior="uniform", device="cpu").to_pylist()
    assert uniform[2]["probability_1"] == pytest.approx(0.5)
    assert uniform[2]["entropy"] == pytest.approx(math.log(2))
    for ours, equal in zip(table.to_pylist(), uniform, strict=True):
        odds = ours["probability_1"] / ours["probability_2"]
        assert equal["probability_1"] / equal["probability_2"] == pytest.approx(odds * 0.4 / 0.6, rel=1e-9)


def test_the_file_holds_the_table_and_the_adapter_can_be_used(table, run):
    assert pq.read_table(run / "routed.parquet").equals(table)
    policy = pluralign.load_policy(run, device="cpu")
    with policy.using(table.column("adapter")[0].as_py()):
        assert policy.model.active_adapter == table.column("adapter")[0].as_py()
    assert (
        pluralign.load_policy(table.column("adapter_path")[0].as_py(), device="cpu").model.active_adapter == "default"
    )


def test_many_judgments_of_one_type_are_told(run, base):
    """Judgments drawn from each type's own utilities bring its annotator's posterior to it."""
    prompts, rng = ["Tea?", "Rain or sun?"], np.random.default_rng(0)
    texts = ["good cat", "bad dog", "tea with milk", "sun and rain", "cat dog cat", "milk milk bad"]
    rows = []
    for name in WEIGHTS:
        adapter, reference = Plain(base, run / name), Plain(base)
        for prompt in prompts:
            utility = np.array(
                [BETA * (adapter.log_prob(prompt, one) - reference.log_prob(prompt, one)) for one in texts]
            )
            for _ in range(10):
                drawn = utility + rng.gumbel(size=len(texts))
                ranks = ((-drawn).argsort().argsort() + 1).tolist()
                rows.append({"prompt": prompt, "responses": texts, "ranks": ranks, "annotator": name})
    path = run / "drawn.parquet"
    Judgments.from_rows(rows).write(path)
    found = {row["annotator"]: row for row in pluralign.route(run, str(path), device="cpu").to_pylist()}
    for name in WEIGHTS:
        assert found[name]["adapter"] == name
        assert found[name]["entropy"] < 0.3


def test_what_cannot_be_routed_is_said(run, base, file, tmp_path):
    with pytest.raises(PluralignError, match="prior: found 'flat', expected one of run, uniform"):
        pluralign.route(run, file, prior="flat")
    with pytest.raises(PluralignError, match=r"type-1: .*mixture.json is missing"):
        pluralign.route(run / "type-1", file)
    plain = write_mixture(base, tmp_path / "mixture", WEIGHTS)
    with pytest.raises(PluralignError, match="--prior uniform"):
        pluralign.route(plain, file)
    assert len(pluralign.route(plain, file, prior="uniform", device="cpu")) == 4
    pooled = write_mixture(base, tmp_path / "pooled", WEIGHTS, combination="pooled")
    for prior in ("run", "uniform"):
        with pytest.raises(PluralignError, match=r"pooled: is one pooled policy, .*: give the em-dpo run"):
            pluralign.route(pooled, file, prior=prior)
    nothing = tmp_path / "nothing.parquet"
    Judgments.from_rows([pair("Tea?", ["Yes"], [1], "ann")]).write(nothing)
    with pytest.raises(PluralignError, match="no judgment is left"):
        pluralign.route(run, nothing, tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_an_annotator_between_the_types_has_a_policy(run, file, table, tmp_path):
    """The folder holds one pooled policy with the annotator's weights; the run is as it was."""
    before = (run / "mixture.json").read_bytes()
    folder = tmp_path / "new"
    routed = pluralign.route(run, file, continuous=True, policies={"new": folder}, device="cpu")
    policy = pluralign.load_policy(folder, device="cpu")
    assert isinstance(policy, PooledPolicy)
    own = routed.to_pylist()[0]
    assert policy.mixture.weights == {"type-1": own["weight_1"], "type-2": own["weight_2"]}
    assert policy.mixture.beta == BETA
    assert "types" not in pluralign.evaluate(folder, file, tmp_path / "evaluated")
    for fault, policies in {
        "policy: nobody: no judgment of the files is by": {"nobody": folder},
        "is an input folder and would be overwritten": {"new": run},
    }.items():
        with pytest.raises(PluralignError, match=fault):
            pluralign.route(run, file, continuous=True, policies=policies, device="cpu")
    with pytest.raises(PluralignError, match="add --continuous"):
        pluralign.route(run, file, policies={"new": folder})
    assert (run / "mixture.json").read_bytes() == before


def test_continuous_weights_and_how_well_they_predict(run, tmp_path):
    """They lie between the types and are kept with the table; without being asked for, nothing is added."""
    texts = ["good cat", "bad dog in the rain", "sun sun", "milk and tea"]
    rows = [
        pair(f"Tea {turn}?", texts, [1 + (place + turn * (person + 1)) % 4 for place in range(4)], f"w{person}")
        for person in range(6)
        for turn in range(4)
    ]
    Judgments.from_rows(rows).write(tmp_path / "many.parquet")
    plain = pluralign.route(run, tmp_path / "many.parquet", device="cpu")
    routed = pluralign.route(run, tmp_path / "many.parquet", tmp_path / "out.parquet", continuous=True, device="cpu")
    assert routed.column_names == [*plain.column_names, "weight_1", "weight_2"]
    shares = np.stack([routed.column("weight_1").to_numpy(), routed.column("weight_2").to_numpy()], 1)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-9)
    assert ((shares > 0) & (shares < 1)).all()
    assert np.ptp(shares[:, 0]) > 0.001
    kept = continuum_of(pq.read_table(tmp_path / "out.parquet"))
    assert kept == continuum_of(routed)
    assert kept.judgments == 24
    assert np.isfinite([kept.hard, kept.posterior, kept.continuous, kept.gain, kept.error]).all()
    assert continuum_of(plain) is None
