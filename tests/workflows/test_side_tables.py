"""Audits with side tables: published estimates, planted coefficients, and runs that know what they were given."""

import csv
import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import logsumexp

from pluralign.core.errors import PluralignError
from pluralign.judgments.table import Judgments
from pluralign.workflows.audit.run import audit
from published_panels import swissmetro, travel_modes

MODES = ("train", "swissmetro", "car")
PLANTED = np.array([[1.5, -1.0], [-1.5, -1.0]])  # speed divides the types, price does not


def contents(folder):
    return json.loads((folder / "audit.json").read_text())


def by_name(coefficients):
    return {(row["name"], row["type"]): (row["value"], row["standard_error"]) for row in coefficients}


@pytest.fixture(scope="module")
def travellers(shared_data, tmp_path_factory):
    """Swissmetro as a table of choices and a CSV of the attributes of each mode in each situation."""
    folder = tmp_path_factory.mktemp("swissmetro")
    panel = swissmetro(shared_data / "choice_panel")
    rows, attributes = [], [("prompt", "response", "train", "car", "time", "cost")]
    for situation, (shown, ranks, person) in enumerate(
        zip(panel.response_ids, panel.rank_values, panel.annotator_ids, strict=True)
    ):
        prompt, offered = f"situation {situation}", np.flatnonzero(ranks >= 0)
        rows.append(
            {
                "prompt": prompt,
                "responses": [MODES[mode] for mode in offered],
                "ranks": [1 if ranks[mode] == 1 else None for mode in offered],
                "annotator": f"traveller {person}",
            }
        )
        attributes += [(prompt, MODES[mode], *np.asarray(panel.features)[shown[mode]]) for mode in offered]
    Judgments.from_rows(rows).write(folder / "choices.parquet")
    with open(folder / "modes.csv", "w", newline="") as out:
        csv.writer(out).writerows(attributes)
    return folder


def test_the_published_logit_comes_out_of_an_audit(travellers, shared_data):
    expected = json.loads((shared_data / "choice_panel" / "REFERENCE.json").read_text())["swissmetro_b01a_MNL"]
    metrics = audit(
        travellers / "choices.parquet", travellers / "one", types=1, simulations=0,
        response_features=travellers / "modes.csv",
    )  # fmt: skip
    assert metrics["log_likelihood"] == pytest.approx(expected["LL"], abs=1e-3)
    assert metrics["features"] == "response_features"
    found = by_name(contents(travellers / "one")["coefficients"])
    for name, key in (("train", "asc_train"), ("car", "asc_car"), ("time", "b_time"), ("cost", "b_cost")):
        assert found[name, 1][0] == pytest.approx(expected[key], abs=0.01)


def test_the_best_two_type_fit_comes_out_of_an_audit(travellers):
    metrics = audit(
        travellers / "choices.parquet", travellers / "two", types=2, simulations=0,
        response_features=travellers / "modes.csv",
    )  # fmt: skip
    assert metrics["log_likelihood"] == pytest.approx(-4318.84, abs=0.1)
    assert metrics["share/type=1"] == pytest.approx(0.786, abs=2e-3)


def test_printed_coefficients_give_the_log_likelihood_of_travel_modes(shared_data, tmp_path):
    """580 trips by six modes: what the audit prints, in the units of the tables, is the model that it fitted."""
    folder = shared_data / "choice_panel"
    panel, _ = travel_modes(folder, json.loads((folder / "REFERENCE.json").read_text())["lccm_qualtrics_2class"])
    features, covariates = np.asarray(panel.features)[:, 7:], np.asarray(panel.covariates)
    rows, attributes = [], []
    for trip, (shown, ranks, person) in enumerate(
        zip(panel.response_ids, panel.rank_values, panel.annotator_ids, strict=True)
    ):
        offered = np.flatnonzero(ranks >= 0)
        rows.append({"prompt": f"trip {trip}", "responses": [f"mode {mode}" for mode in offered],
                     "ranks": [1 if ranks[mode] == 1 else None for mode in offered],
                     "annotator": f"{person}"})  # fmt: skip
        attributes += [{"prompt": f"trip {trip}", "response": f"mode {mode}",
                        **{f"x{n}": value for n, value in enumerate(features[shown[mode]])}}
                       for mode in offered]  # fmt: skip
    Judgments.from_rows(rows).write(tmp_path / "trips.parquet")
    people = pd.DataFrame(covariates[:, 1:], columns=["cars", "low", "high", "male", "distance"])
    metrics = audit(
        tmp_path / "trips.parquet", tmp_path / "audit", types=2, simulations=0,
        response_features=pd.DataFrame(attributes), annotator_features=people.assign(annotator=range(len(people))),
    )  # fmt: skip
    page = contents(tmp_path / "audit")
    assert [row["name"] for row in page["membership"]] == ["constant", *people.columns]
    coefficients = np.array([row["value"] for row in page["coefficients"]]).reshape(2, -1)
    membership = np.array([row["value"] for row in page["membership"]])
    chosen = panel.rank_values == 1
    utilities = np.where(panel.rank_values >= 0, (coefficients @ features.T)[:, panel.response_ids], -np.inf)
    by_trip = utilities[:, chosen] - logsumexp(utilities, 2)
    by_person = np.stack([np.bincount(panel.annotator_ids, weights=row) for row in by_trip], 1)
    shares = np.stack((np.zeros(len(covariates)), covariates @ membership), 1)
    total = logsumexp(by_person + shares - logsumexp(shares, 1, keepdims=True), 1).sum()
    assert total == pytest.approx(metrics["log_likelihood"], abs=1e-6)


def town(folder, *, annotators=200, each=10, random=0, seed=0):
    """Rankings of three by two types; the log-odds of the second are -1 + 0.08 (age - 40). `random` more are careless."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 80, annotators + random).round(1)
    kind = (rng.random(len(age)) < 1 / (1 + np.exp(1 - 0.08 * (age - 40)))).astype(int)
    offers = pd.DataFrame({"response": [f"offer {n}" for n in range(60)], "speed": rng.normal(50, 10, 60),
                           "price": rng.normal(5, 2, 60)})  # fmt: skip
    scaled = np.stack(((offers["speed"] - 50) / 10, (offers["price"] - 5) / 2), 1)
    rows = []
    for person in range(len(age)):
        for _ in range(each):
            shown = rng.permutation(60)[:3]
            utility = scaled[shown] @ PLANTED[kind[person]] if person < annotators else np.zeros(3)
            ranks = (-(utility + rng.gumbel(size=3))).argsort().argsort() + 1
            rows.append({"prompt": "Which?", "responses": offers["response"][shown].tolist(), "ranks": ranks.tolist(),
                         "annotator": f"p{person}"})  # fmt: skip
    Judgments.from_rows(rows).write(folder / "choices.parquet")
    offers.to_csv(folder / "offers.csv", index=False)
    pd.DataFrame({"annotator": [f"p{n}" for n in range(len(age))], "age": age}).to_csv(
        folder / "people.csv", index=False
    )
    return folder


@pytest.fixture(scope="module")
def aged(tmp_path_factory):
    return town(tmp_path_factory.mktemp("aged"))


def test_membership_and_shared_coefficients_are_recovered(aged):
    metrics = audit(
        aged / "choices.parquet", aged / "audit", types=2, simulations=0, response_features=aged / "offers.csv",
        annotator_features=aged / "people.csv", shared=["price"],
    )  # fmt: skip
    page = contents(aged / "audit")
    found, membership = by_name(page["coefficients"]), by_name(page["membership"])
    likes, dislikes = (1, 2) if found["speed", 1][0] > 0 else (2, 1)
    for key, planted in ((("speed", likes), 0.15), (("speed", dislikes), -0.15), (("price", None), -0.5)):
        value, error = found[key]
        assert abs(value - planted) < 3 * error < 0.1
    assert set(found) == {("speed", 1), ("speed", 2), ("price", None)}
    sign = 1 if likes == 1 else -1
    for name, planted in (("age", 0.08), ("constant", -1 - 0.08 * 40)):
        value, error = membership[name, 2]
        assert abs(value - sign * planted) < 3 * error < abs(planted)
    assert metrics["types"] == 2
    html = (aged / "audit" / "report.html").read_text()
    assert "Who belongs to which type" in html
    assert html.count("price</") == 1  # shared: one row


def test_units_of_a_covariate_do_not_matter(aged):
    people = pd.read_csv(aged / "people.csv")
    options = {"types": 2, "simulations": 0, "response_features": aged / "offers.csv"}
    audit(aged / "choices.parquet", aged / "years", annotator_features=people, **options)
    people["age"] *= 100
    audit(aged / "choices.parquet", aged / "cents", annotator_features=people, **options)
    years, cents = (by_name(contents(aged / name)["membership"]) for name in ("years", "cents"))
    assert years["age", 2] == pytest.approx([100 * value for value in cents["age", 2]], rel=1e-6)
    assert years["constant", 2] == pytest.approx(cents["constant", 2], rel=1e-6)
    types = [contents(aged / name)["types"] for name in ("years", "cents")]
    assert [kind["low"] for kind in types[0]] == pytest.approx([kind["low"] for kind in types[1]], rel=1e-6)


def test_the_errors_of_shares_agree_with_and_without_an_uninformative_covariate(aged):
    people = pd.read_csv(aged / "people.csv")
    people["age"] = np.random.default_rng(1).normal(size=len(people))
    options = {"types": 2, "simulations": 0, "response_features": aged / "offers.csv"}
    audit(aged / "choices.parquet", aged / "random", annotator_features=people, **options)
    audit(aged / "choices.parquet", aged / "without", **options)
    widths = [[kind["high"] - kind["low"] for kind in contents(aged / name)["types"]] for name in ("random", "without")]
    assert widths[0] == pytest.approx(widths[1], rel=0.05)


def test_a_type_that_ranks_at_random_takes_the_careless(tmp_path):
    folder = town(tmp_path, annotators=90, random=30, each=20)
    metrics = audit(
        folder / "choices.parquet", folder / "audit", types=3, simulations=0,
        response_features=folder / "offers.csv", noise_type=True,
    )  # fmt: skip
    assert metrics["share/type=3"] == pytest.approx(0.25, abs=0.05)
    page = contents(folder / "audit")
    assert "random" in page["types"][2]["name"]
    assert all(worth["worth"] == 0 for worth in page["types"][2]["worths"])
    assert {row["type"] for row in page["coefficients"]} == {1, 2}


def test_one_type_is_still_a_possible_answer_with_a_noise_type(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for person in range(30):
        for _ in range(8):
            shown = rng.permutation(6)[:3]
            ranks = (-(shown + rng.gumbel(size=3))).argsort().argsort() + 1
            rows.append({"prompt": "Which?", "responses": [f"r{n}" for n in shown], "ranks": ranks.tolist(),
                         "annotator": f"p{person}"})  # fmt: skip
    Judgments.from_rows(rows).write(tmp_path / "choices.parquet")
    metrics = audit(
        tmp_path / "choices.parquet", tmp_path / "audit", most_types=2, simulations=0, noise_type=True,
        response_features={"response": [f"r{n}" for n in range(6)], "number": range(6)},
    )  # fmt: skip
    assert metrics["types"] == 1


def test_a_changed_side_table_is_another_run(tmp_path):
    folder = town(tmp_path, annotators=20, each=4)
    people = pd.read_csv(folder / "people.csv")
    options = {"types": 1, "simulations": 0, "response_features": folder / "offers.csv"}
    metrics = audit(folder / "choices.parquet", folder / "audit", annotator_features=people, **options)
    assert audit(folder / "choices.parquet", folder / "audit", annotator_features=people, **options) == metrics
    with pytest.raises(PluralignError, match="annotator_features"):
        audit(folder / "choices.parquet", folder / "audit", annotator_features=people.assign(age=1.0), **options)
    with pytest.raises(PluralignError, match="noise_type"):
        audit(folder / "choices.parquet", folder / "audit", annotator_features=people, **options | {"types": 2},
              noise_type=True)  # fmt: skip
    offers = (folder / "offers.csv").read_text()
    (folder / "offers.csv").write_text(offers.replace("offer 0,", "offer 0,1"))
    with pytest.raises(PluralignError, match=r"changed.*offers\.csv"):
        audit(folder / "choices.parquet", folder / "audit", annotator_features=people, **options)


def test_attributes_and_text_features_exclude_each_other(tmp_path):
    folder = town(tmp_path, annotators=6, each=2)
    with pytest.raises(PluralignError, match="'tfidf' beside response features"):
        audit(folder / "choices.parquet", folder / "audit", features="tfidf", response_features=folder / "offers.csv")
