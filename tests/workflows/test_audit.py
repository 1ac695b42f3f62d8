"""The audit of a table: what it writes, the types it finds, and its verdict on poor data."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments.population import Town, simulate
from pluralign.judgments.scales import BUILT_IN_SCALES
from pluralign.judgments.table import Judgments
from pluralign.workflows.audit.result import Audit
from pluralign.workflows.audit.run import audit

NASTY = '<script>alert(1)</script> & "日本" $x$ {{ 7*7 }} \u202egnirts'


def two_types(annotators: int = 40, each: int = 12, seed: int = 0) -> Judgments:
    """Rankings of three of six responses by annotators who prefer them in order and others who prefer the reverse."""
    rng = np.random.default_rng(seed)
    rows = []
    for person in range(annotators):
        for _ in range(each):
            shown = rng.permutation(6)[:3]
            utility = (1 if person % 2 else -1) * 1.2 * shown + rng.gumbel(size=3)
            ranks = (-utility).argsort().argsort() + 1
            rows.append(
                {
                    "prompt": "Which answer?",
                    "responses": [f"answer number {one}" for one in shown],
                    "ranks": ranks.tolist(),
                    "annotator": f"person {person} {NASTY}",
                    "group": f"group {person % 2}",
                    "source": "made",
                }
            )
    return Judgments.from_rows(rows)


def finite(value) -> bool:
    """No NaN and no infinity anywhere."""
    if isinstance(value, dict):
        return all(finite(one) for one in value.values())
    if isinstance(value, list):
        return all(finite(one) for one in value)
    return not isinstance(value, float) or math.isfinite(value)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    two_types().write(folder / "data.parquet")
    metrics = audit(str(folder / "data.parquet"), folder / "audit", simulations=1, most_types=3)
    return folder / "audit", metrics


def test_two_types_are_found_and_match_their_groups(found):
    _folder, metrics = found
    assert metrics["types"] == 2
    assert metrics["identification"] == "identified"
    assert metrics["groups_adjusted_rand"] == 1.0
    assert metrics["share/type=1"] == pytest.approx(0.5, abs=0.01)
    assert metrics["judgments"] == 480
    assert metrics["annotators"] == 40
    assert metrics["unique_responses"] == 6
    assert -0.2 < metrics["krippendorff_alpha"] < 0.1  # opposite tastes: no more than chance


def test_everything_that_is_written_is_finite_and_agrees(found):
    folder, metrics = found
    story = json.loads((folder / "audit.json").read_text())
    assert finite(story)
    assert finite(metrics)
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    types = pq.read_table(folder / "types.parquet").to_pydict()
    assert len(types["annotator"]) == 40
    assert sum(types["judgments"]) == 480
    posterior = np.stack([types["probability_1"], types["probability_2"]], 1)
    assert np.allclose(posterior.sum(1), 1)
    assert (posterior.argmax(1) + 1 == types["type"]).all()
    assert story["types"][0]["annotators"] == types["type"].count(1)


def test_what_a_type_prefers_is_written(found):
    folder, _ = found
    story = json.loads((folder / "audit.json").read_text())
    worths = pq.read_table(folder / "worths.parquet").to_pydict()
    rising = 0 if worths["worth_1"][worths["response"].index("answer number 5")] > 0 else 1
    up, down = story["types"][rising], story["types"][1 - rising]
    assert up["lifts"][0]["response"] == "answer number 5"
    assert up["drops"][0]["response"] == "answer number 0"
    assert down["lifts"][0]["response"] == "answer number 0"
    own = np.array(worths[f"worth_{rising + 1}"])[np.argsort(worths["response"])]
    assert np.allclose(np.diff(own), 1.2, atol=0.5)  # the planted steps between worths
    for block in story["types"]:
        assert all(one["low"] < one["worth"] < one["high"] for one in block["worths"])
        assert block["low"] < block["share"] < block["high"]
    assert {group["group"]: [round(share) for share in group["shares"]] for group in story["groups"]} in (
        {"group 0": [1, 0], "group 1": [0, 1]},
        {"group 0": [0, 1], "group 1": [1, 0]},
    )


def test_the_record_holds_what_types_and_groups_say(found):
    folder, metrics = found
    story = json.loads((folder / "audit.json").read_text())
    types, groups = story["type_views"], story["group_views"]
    assert types["answers"] == ["preferred", "not preferred"]
    assert types["viewers"] == ["type 1", "type 2"]
    assert groups["viewers"] == ["group 0", "group 1"]
    assert story["examples"] is None
    ends = {one["response"] for one in types["responses"][:2]}
    assert ends == {"answer number 0", "answer number 5"}  # opposite tastes differ most about the ends
    for views in (types, groups):
        judged = sum(view["judgments"] for one in views["responses"] for view in one["views"])
        assert judged == pytest.approx(3 * metrics["judgments"])  # each judgment shows three responses
    # Types that are the groups say what the groups say.
    same = [sorted(view["shares"][0] for view in one["views"]) for one in types["responses"]]
    for shares, one in zip(same, types["responses"], strict=True):
        group = next(of for of in groups["responses"] if of["response"] == one["response"])
        assert sorted(view["shares"][0] for view in group["views"]) == pytest.approx(shares, abs=0.02)


def test_the_verdict_is_the_first_sentence(found):
    folder, metrics = found
    story = json.loads((folder / "audit.json").read_text())
    assert metrics["sentence"] == story["identification"]["sentence"] != ""
    assert metrics["sentence"] in (folder / "README.md").read_text().splitlines()[2]
    assert (
        metrics["sentence"].replace("+- ", "±")
        in (folder / "report.html").read_text().split('class="banner good"')[1][:400]
    )


def test_the_page_escapes_what_people_wrote(found):
    page = (found[0] / "report.html").read_text()
    assert "&lt;script&gt;" in page
    assert "<script" not in page.lower()


def test_the_result_is_an_object_that_its_folder_gives_again(found):
    folder, metrics = found
    again = Audit.load(folder)
    for one in (metrics, again):
        assert repr(one) == "<Audit of 480 judgments by 40 annotators: 2 types>"
        assert [kind.share for kind in one.types] == pytest.approx([0.5, 0.5], abs=0.01)
        assert list(one.responsibilities.columns[:3]) == ["annotator", "judgments", "type"]
        assert (one.responsibilities[["probability_1", "probability_2"]].sum(axis=1) - 1).abs().max() < 1e-9
        assert len(one.annotators) == 40
        assert len(one.worths) == 6
        assert one.page() == (folder / "report.html").read_text()
        assert one.sentence in one._repr_html_()
        assert one.plot()._repr_svg_().count("<svg") == 1  # what a notebook shows where pyplot was not imported
        left, right = one.plot().axes
        assert len(left.get_xticks()) == len(one.contents.selection) > 1
        assert [bar.get_width() for bar in right.patches] == pytest.approx([0.5, 0.5], abs=0.01)
    assert dict(again) == dict(metrics)
    with pytest.raises(PluralignError, match=r"nowhere/metrics\.json"):
        Audit.load(folder / "nowhere")


def test_judgments_in_memory_are_audited_without_a_folder(found, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    in_memory = audit(two_types(), simulations=1, most_types=3)
    assert dict(in_memory) == dict(found[1])
    assert list(tmp_path.iterdir()) == []
    written = audit(two_types(), tmp_path / "audit", types=1, simulations=0)
    assert dict(audit(two_types(), tmp_path / "audit", types=1, simulations=0)) == dict(written)


def test_a_finished_audit_is_left_alone_and_another_is_refused(found, tmp_path, caplog):
    folder, metrics = found
    data = str(folder.parent / "data.parquet")
    assert audit(data, folder, simulations=1, most_types=3) == metrics
    with pytest.raises(PluralignError, match="seed"):
        audit(data, folder, simulations=1, most_types=3, seed=1)


def test_the_same_seed_gives_the_same_bytes(found, tmp_path):
    folder, _ = found
    audit(str(folder.parent / "data.parquet"), tmp_path / "again", simulations=1, most_types=3)
    for name in ("audit.json", "metrics.json", "types.parquet", "worths.parquet", "report.html"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_labels_are_audited_against_the_bar(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for person in range(40):
        for statement in rng.permutation(12)[:8]:
            agree = (statement < 6) == (person % 2 == 0)
            label = "agree" if (rng.random() < 0.85) == agree else "disagree"
            rows.append(
                {
                    "prompt": "Topic",
                    "responses": [f"statement {statement}"],
                    "labels": [label],
                    "annotator": f"p{person}",
                }
            )
    Judgments.from_rows(rows, BUILT_IN_SCALES["agree-pass-disagree"]).write(tmp_path / "votes.parquet")
    metrics = audit(str(tmp_path / "votes.parquet"), tmp_path / "out", simulations=1, most_types=3)
    assert metrics["types"] == 2
    assert metrics["identification"] == "identified"
    types = pq.read_table(tmp_path / "out" / "types.parquet").to_pydict()
    even = [kind for name, kind in zip(types["annotator"], types["type"], strict=True) if int(name[1:]) % 2 == 0]
    assert len(set(even)) == 1
    story = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert story["data"]["kinds"] == {"labels": 320}
    assert story["type_views"]["answers"] == ["agree", "pass", "disagree"]
    assert story["type_views"]["responses"][0]["divides"] > 0.4
    assert story["agreement"]["intransitive_triples"] is None
    worths = pq.read_table(tmp_path / "out" / "worths.parquet").to_pydict()
    liked = dict(zip(worths["response"], worths[f"worth_{even[0]}"], strict=True))
    assert all((liked[f"statement {one}"] > 0) == (one < 6) for one in range(12))


def test_a_town_is_audited_by_the_words_of_its_answers(tmp_path):
    simulation = simulate(Town(annotators=60, judgments_per_annotator=16, responses=3, seed=1))
    simulation.judgments.write(tmp_path / "town.parquet")
    metrics = audit(str(tmp_path / "town.parquet"), tmp_path / "out", simulations=0, most_types=4)
    assert metrics["features"] == "tfidf"
    assert metrics["types"] >= 2
    assert metrics["groups_adjusted_rand"] > 0.5
    story = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert story["type_views"] is None  # each answer is judged once
    assert len(story["examples"]["divide"]) == 6
    for pair in story["examples"]["divide"]:
        assert max(pair["probabilities"]) - min(pair["probabilities"]) > 0.5
        assert pair["first"] != pair["second"]


@pytest.mark.parametrize(
    ("rows", "verdict", "said"),
    [
        # one person
        ([("a", [0, 1], [1, 2]), ("a", [1, 2], [1, 2])], "not identified", "1 annotator"),
        # single pairs
        ([(f"p{n}", [n % 3, (n + 1) % 3], [1, 2]) for n in range(12)], "not identified", "single pair"),
        # nothing but ties
        ([(f"p{n % 4}", [0, 1], [1, 1]) for n in range(12)], "weak", ""),
        # always the same way: separable
        ([(f"p{n % 4}", [0, 1, 2], [1, 2, 3]) for n in range(40)], None, "separable"),
        # two pairs of answers that nobody compared
        (
            [(f"p{n % 4}", [2 * (n % 2), 2 * (n % 2) + 1], [1, 2] if n % 3 else [2, 1]) for n in range(48)],
            None,
            "parts",
        ),
    ],
)
def test_poor_data_gets_a_defined_result(rows, verdict, said, tmp_path):
    table = [
        {"prompt": NASTY, "responses": [f"answer {one}" for one in shown], "ranks": ranks, "annotator": who}
        for who, shown, ranks in rows
    ]
    Judgments.from_rows(table).write(tmp_path / "data.parquet")
    metrics = audit(str(tmp_path / "data.parquet"), tmp_path / "out", features="worths", simulations=1)
    story = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert finite(story)
    assert finite(metrics)
    assert verdict is None or metrics["identification"] == verdict
    assert said in " ".join([story["identification"]["reason"], *story["warnings"]])
    assert bool(story["identification"]["advice"]) == (metrics["identification"] != "identified")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"types": "41"}, "expected 1 to 40"),
        ({"types": "some"}, "expected auto or a number"),
        ({"types": 0}, "expected 1 to 40"),
        ({"most_types": 0}, "most_types"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message, found, tmp_path):
    with pytest.raises(PluralignError, match=message):
        audit(str(found[0].parent / "data.parquet"), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_responses_that_do_not_differ_are_refused(tmp_path):
    rows = [
        {"prompt": "Say it", "responses": ["same", "same "], "ranks": [1, 2], "annotator": f"p{n % 5}"}
        for n in range(10)
    ]
    Judgments.from_rows(rows).write(tmp_path / "data.parquet")
    with pytest.raises(PluralignError, match="all responses have the same"):
        audit(str(tmp_path / "data.parquet"), tmp_path / "out", features="tfidf")
