"""Audits with Davidson's ties: planted tie parameters of types, people who only tie more, and what is refused."""

import numpy as np
import pytest

from pluralign.choice.davidson import log_outcomes
from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import BUILT_IN_SCALES
from pluralign.judgments.table import Judgments
from pluralign.workflows.audit.run import audit

WORTHS = np.linspace(-1.5, 1.5, 8)


def judged(tastes, nus, each=40, annotators=60, seed=0) -> Judgments:
    """Pairs of eight responses by annotators of as many equal types as there are tastes (signs) and nus."""
    draw = np.random.default_rng(seed)
    rows = []
    for person in range(annotators):
        kind = person % len(nus)
        pairs = np.array([draw.choice(8, 2, replace=False) for _ in range(each)])
        utilities = tastes[kind] * WORTHS[pairs]
        chances = np.exp(log_outcomes(utilities[:, 0] - utilities[:, 1], np.log(nus[kind])))
        outcomes = (draw.random(each)[:, None] > chances.cumsum(1)).sum(1)
        rows += [
            {"prompt": "Which?", "responses": [f"answer {a}", f"answer {b}"], "annotator": f"person {person}",
             "ranks": [[1, 2], [1, 1], [2, 1]][outcome]}
            for (a, b), outcome in zip(pairs.tolist(), outcomes, strict=True)
        ]  # fmt: skip
    return Judgments.from_rows(rows)


def test_the_tie_parameter_of_each_type_is_recovered(tmp_path):
    found = audit(
        judged((1, -1), (0.3, 2.0)), tmp_path / "audit", features="worths", ties="davidson", most_types=3, simulations=1
    )
    assert found["types"] == 2
    by_taste = sorted(found.types, key=lambda kind: -next(w.worth for w in kind.worths if w.response == "answer 7"))
    for kind, nu in zip(by_taste, (0.3, 2.0), strict=True):
        assert kind.tie_nu_low < nu < kind.tie_nu_high
        assert kind.tie_nu == pytest.approx(nu, rel=0.25)
        assert found[f"tie_nu/type={kind.type}"] == kind.tie_nu
        order = WORTHS if kind is by_taste[0] else -WORTHS
        for worth in kind.worths:
            error = (worth.high - worth.low) / 3.92
            assert abs(worth.worth - order[int(worth.response[-1])]) < 3.5 * error < 1.0
    page = (tmp_path / "audit" / "report.html").read_text()
    assert page.count("that it likes equally a tie in") == 2
    assert any("how readily they call responses equal" in warning for warning in found.contents.warnings)
    # A pair with ties is no choice among three responses.
    checks = {check.name: check.value for check in found.contents.identification.checks}
    assert checks["longest choice"] == 2
    assert {point.design for point in found.contents.identification.power} == {"as collected"}


def test_who_ties_often_has_a_weak_taste_for_efron_and_the_same_taste_for_davidson():
    data = judged((1, 1), (0.2, 3.0))
    strengths = {}
    for ties in ("efron", "davidson"):
        found = audit(data, features="worths", ties=ties, most_types=2, simulations=0)
        assert found["types"] == 2
        worths = np.array([found.worths[f"worth_{kind}"] for kind in (1, 2)])
        weak, strong = sorted(worths.std(1))
        strengths[ties] = weak / strong
    assert strengths["efron"] < 0.6
    assert strengths["davidson"] > 0.8
    assert sorted(kind.tie_nu for kind in found.types) == pytest.approx([0.2, 3.0], rel=0.3)


def test_one_taste_and_one_readiness_to_tie_are_one_type():
    found = audit(judged((1, 1), (0.8, 0.8)), features="worths", ties="davidson", most_types=2, simulations=0)
    assert (found["types"], found["heterogeneity"]) == (1, "one taste")
    assert found["tie_nu/type=1"] == pytest.approx(0.8, rel=0.15)


def test_labels_on_the_middle_of_the_scale_are_ties():
    draw = np.random.default_rng(0)
    rows = [
        {"prompt": "Buses?", "responses": [f"answer {number}"], "annotator": f"person {person}",
         "labels": [("agree", "pass", "disagree")[draw.choice(3, p=[0.4, 0.2, 0.4])]]}
        for person in range(40) for number in range(12)
    ]  # fmt: skip
    table = Judgments.from_rows(rows, BUILT_IN_SCALES["agree-pass-disagree"])
    found = audit(table, features="worths", types=1, ties="davidson", simulations=0)
    assert found["tie_nu/type=1"] == pytest.approx(2 * 0.2 / 0.8, rel=0.3)
    attributes = {"response": [f"answer {number}" for number in range(12)], "long": [0, 1] * 6}
    found = audit(table, types=1, ties="davidson", simulations=0, response_features=attributes)
    assert [row.name for row in found.contents.coefficients] == ["long", "bar"]
    assert found["tie_nu/type=1"] == pytest.approx(2 * 0.2 / 0.8, rel=0.3)


def test_breslow_is_the_likelihood_of_breslow():
    data = judged((1, 1), (1.0, 1.0), annotators=10)
    options = {"features": "worths", "types": 1, "simulations": 0}
    assert audit(data, ties="breslow", **options)["log_likelihood"] < audit(data, **options)["log_likelihood"]


def test_what_does_not_fit_is_refused():
    strict = judged((1, 1), (1e-9, 1e-9), annotators=4)
    with pytest.raises(PluralignError, match="ties: davidson needs ties, and the table has none"):
        audit(strict, ties="davidson", simulations=0)
    ranking = {"prompt": "Which?", "responses": ["a", "b", "c"], "ranks": [1, 1, 2], "annotator": "ann"}
    with pytest.raises(PluralignError, match="needs judgments of two responses"):
        audit(Judgments.from_rows([ranking]), ties="davidson", features="worths", simulations=0)
    with pytest.raises(PluralignError, match="ties: found 'draw', expected efron, breslow, davidson"):
        audit(strict, ties="draw", simulations=0)
