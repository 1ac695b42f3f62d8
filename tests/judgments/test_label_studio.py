"""Label Studio: people's finished comparisons and rankings come out as they were made, the rest is counted."""

import json

import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments.formats.convert import Tally
from pluralign.judgments.formats.label_studio import read_label_studio
from pluralign.judgments.reading import read
from pluralign.workflows.importing import import_files

PAIR = {"prompt": "Tee oder <b>Kaffee</b>?", "answer1": "Tee ☕", "answer2": "<p>Kaffee</p>"}
ITEMS = {
    "prompt": "Why did the library burn?",
    "items": [
        {"id": "llm_1", "title": "LLM 1", "body": "War."},
        {"id": 2, "title": "LLM 2", "html": "<p>Fire.</p>"},
        {"id": "llm_3", "title": "Neglect."},
    ],
}


def pairwise(selected, name="better", **more):
    return {"type": "pairwise", "from_name": name, "to_name": "one,two", "value": {"selected": selected}, **more}


def ranker(lists, name="rank"):
    return {"type": "ranker", "from_name": name, "to_name": "list", "value": {"ranker": lists}}


def annotation(*results, who=7, **more):
    return {"completed_by": who, "was_cancelled": False, "result": list(results), **more}


def task(data, *annotations, **more):
    return {"id": 1, "data": data, "annotations": list(annotations), "predictions": [], "drafts": [], **more}


def judged(folder, *tasks, fields=()):
    (folder / "export.json").write_text(json.dumps(tasks), encoding="utf-8")
    tally = Tally()
    rows = [row for _, row in read_label_studio(folder / "export.json", None, tally, fields)]
    assert all(tally.left_out.values()), "nothing is reported that was not there"
    return rows, dict(tally.left_out)


def test_a_comparison_is_a_ranking_of_two(tmp_path):
    when = "2024-05-31T12:00:00.5Z"
    people = [7, {"id": 8, "email": "bea@town.org"}, {"id": 9}, None]
    marks = [
        annotation(pairwise(side), who=who, created_at=when)
        for who, side in zip(people, ["left", "right"] * 2, strict=True)
    ]
    rows, left_out = judged(tmp_path, task(PAIR, *marks))
    assert not left_out
    assert all(row["responses"] == ["Tee ☕", "<p>Kaffee</p>"] and row["prompt"] == PAIR["prompt"] for row in rows)
    assert [row["ranks"] for row in rows] == [[1, 2], [2, 1]] * 2
    assert [row["annotator"] for row in rows] == [7, "bea@town.org", 9, None]
    assert {(row["source"], row["time"]) for row in rows} == {("better", when)}


def test_a_ranking_is_the_order_of_the_ids(tmp_path):
    rows, left_out = judged(tmp_path, task(ITEMS, annotation(ranker({"rank": ["llm_3", "llm_1", 2]}))))
    assert not left_out
    assert (rows[0]["responses"], rows[0]["ranks"]) == (["War.", "<p>Fire.</p>", "Neglect."], [2, 3, 1])
    titles, _ = judged(
        tmp_path, task(ITEMS, annotation(ranker({"rank": ["llm_3", "llm_1", "2"]}))), fields=["text=title"]
    )
    assert (titles[0]["responses"], titles[0]["ranks"]) == (["LLM 1", "LLM 2", "Neglect."], [2, 3, 1])


def test_buckets_rank_in_the_order_that_was_said(tmp_path):
    lists = {"_": ["llm_1"], "bad": [2], "good": ["llm_3"]}
    rows, _ = judged(tmp_path, task(ITEMS, annotation(ranker(lists))), fields=["buckets=good,bad"])
    assert rows[0]["ranks"] == [None, 2, 1], "what is in no bucket was seen and is worse"
    rows, _ = judged(tmp_path, task(ITEMS, annotation(ranker(lists))), fields=["buckets=good,_,bad"])
    assert rows[0]["ranks"] == [2, 3, 1]
    with pytest.raises(PluralignError, match="has the buckets _, bad, good: name all but '_', best first"):
        judged(tmp_path, task(ITEMS, annotation(ranker(lists))))
    with pytest.raises(PluralignError, match="has the buckets _, bad, good: name all"):
        judged(tmp_path, task(ITEMS, annotation(ranker(lists))), fields=["buckets=good"])
    rows, left_out = judged(tmp_path, task(ITEMS, annotation(ranker({"_": [2], "good": []}))), fields=["buckets=good"])
    assert (rows, left_out) == ([], {"empty rankings": 1})


def test_several_controls_are_several_judgments_with_their_names_as_sources(tmp_path):
    both = annotation(pairwise("left", "helpful"), pairwise("right", "harmless"))
    rows, _ = judged(tmp_path, task(PAIR, both))
    assert [(row["source"], row["ranks"]) for row in rows] == [("helpful", [1, 2]), ("harmless", [2, 1])]
    rows, left_out = judged(tmp_path, task(PAIR, both), fields=["control=harmless"])
    assert [row["source"] for row in rows] == ["harmless"]
    assert left_out == {"results of the control 'helpful' (pairwise)": 1}


def test_controls_of_different_objects_are_not_read_from_the_same_fields(tmp_path):
    other = annotation(pairwise("left", "a"), pairwise("left", "b", to_name=["three", "four"]))
    with pytest.raises(
        PluralignError, match="row 1, column 'annotations.0.result.1.to_name': found 'three,four' where"
    ):
        judged(tmp_path, task(PAIR, other))
    data = {**PAIR, "third": "Wasser", "fourth": "Saft"}
    rows, _ = judged(tmp_path, task(data, other), fields=["control=b", "left=third", "right=fourth"])
    assert [(row["source"], row["responses"]) for row in rows] == [("b", ["Wasser", "Saft"])]


def test_what_is_no_finished_judgment_of_a_person_is_counted(tmp_path):
    choice = {"type": "choices", "from_name": "mood", "to_name": "one", "value": {"choices": ["sad"]}}
    rows, left_out = judged(
        tmp_path,
        task(PAIR, annotation(pairwise("left"), choice), {**annotation(pairwise("right")), "was_cancelled": True}),
        task(PAIR, annotation(), predictions=[{"result": [pairwise("left")]}], drafts=[{"result": []}]),
        task(PAIR, predictions=[{"result": []}, 5]),
    )
    assert [row["ranks"] for row in rows] == [[1, 2]]
    assert left_out == {
        "results of the control 'mood' (choices)": 1,
        "annotations that were cancelled (skipped)": 1,
        "annotations without a result": 1,
        "predictions": 3,
        "drafts": 1,
        "tasks without an annotation": 1,
    }


def test_json_min_says_the_same_as_json(tmp_path):
    about = {"created_at": "2024-05-31T12:00:00Z", "updated_at": None, "lead_time": 3.5, "id": 1}
    rows, left_out = judged(
        tmp_path,
        {**PAIR, **about, "better": [{"selected": "right"}], "annotator": 7, "annotation_id": 3},
        {
            **ITEMS,
            **about,
            "rank": [{"ranker": {"rank": [2, "llm_1", "llm_3"]}}],
            "annotator": "None",
            "annotation_id": 4,
        },
        {**PAIR, **about, "annotator": None, "annotation_id": None},
    )
    full, _ = judged(
        tmp_path,
        task(PAIR, annotation(pairwise("right"), **about)),
        task(ITEMS, annotation(ranker({"rank": [2, "llm_1", "llm_3"]}), who=None, **about)),
    )
    assert rows == full
    assert left_out == {"tasks without an annotation": 1}


def test_field_names_reach_into_nested_data_and_an_empty_prompt_is_none(tmp_path):
    data = {"ask": {"text": "Tea?"}, "answers": ["Yes", "No"]}
    names = ["prompt=ask.text", "left=answers.0", "right=answers.1"]
    rows, _ = judged(tmp_path, task(data, annotation(pairwise("left"))), fields=names)
    assert (rows[0]["prompt"], rows[0]["responses"]) == ("Tea?", ["Yes", "No"])
    rows, _ = judged(tmp_path, task(data, annotation(pairwise("left"))), fields=["prompt=", *names[1:]])
    assert rows[0]["prompt"] == ""
    chat = {**PAIR, "prompt": [{"role": "user", "content": "Tea?"}]}
    rows, _ = judged(tmp_path, task(chat, annotation(pairwise("left"))))
    assert rows[0]["responses"][0] == [{"role": "assistant", "content": "Tee ☕"}]


TWICE = {"items": [*ITEMS["items"], {"id": "2", "body": "Again."}]}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"data": PAIR}, "column 'annotations': is missing: expected a task as Label Studio exports it"),
        ({"data": PAIR, "annotations": {}}, "column 'annotations': found {}, expected a list"),
        ({"annotations": []}, "column 'data': found None, expected the fields of the task"),
        (task(PAIR, "x"), "column 'annotations.0': found 'x', expected an annotation"),
        (task(PAIR, {"completed_by": 7}), "column 'annotations.0.result': found None, expected a list"),
        (task(PAIR, annotation("x")), "column 'annotations.0.result.0': found 'x', expected a result"),
        (
            task(PAIR, annotation({"type": "pairwise"})),
            "column 'annotations.0.result.0.value': found None, expected 'selected'",
        ),
        (
            task(PAIR, annotation(pairwise("both"))),
            "column 'annotations.0.result.0.value.selected': found 'both', expected left or right",
        ),
        (
            task(PAIR, annotation(pairwise("left"), pairwise("left"))),
            "result.1.from_name': 'better' has a result in this annotation already",
        ),
        (
            task({"answer1": "a", "answer2": "b"}, annotation(pairwise("left"))),
            "column 'data.prompt': there is no 'prompt' in the row: name the field with --field prompt=NAME",
        ),
        (
            task({"prompt": "", "anwser1": "a"}, annotation(pairwise("left"))),
            "column 'data.answer1': there is no 'answer1' in the row (did you mean 'anwser1'?): name the field with --field left=NAME",
        ),
        (
            task({**PAIR, "answer2": None}, annotation(pairwise("left"))),
            "column 'data.answer2': is null, expected a value: name another field with --field right=NAME",
        ),
        (
            task({**PAIR, "items": []}, annotation(ranker({"rank": []}))),
            "column 'data.items': found [], expected a list of items",
        ),
        (
            task({**PAIR, "items": ["a"]}, annotation(ranker({"rank": []}))),
            "column 'data.items.0': found 'a', expected an item with an id",
        ),
        (
            task({**PAIR, "items": [{"id": 1}]}, annotation(ranker({"rank": []}))),
            "column 'data.items.0': has none of body, html, title: use --field text=KEY",
        ),
        (task(TWICE, annotation(ranker({"rank": []}))), "column 'data.items.3.id': '2' appears twice"),
        (
            task(ITEMS, annotation(ranker(["llm_1"]))),
            "value.ranker': found ['llm_1'], expected a list of ids for every bucket",
        ),
        (
            task(ITEMS, annotation(ranker({"rank": ["llm_4"]}))),
            "value.ranker': ranks 'llm_4', which is not the id of an item (did you mean 'llm_",
        ),
        (
            task(ITEMS, annotation(ranker({"rank": [2]}))),
            "value.ranker': ranks 1 of the 3 items: a Ranker without buckets ranks all",
        ),
        (task(PAIR, annotation({"type": [], "value": []}, pairwise([]))), "selected': found [], expected left"),
        (task(ITEMS, annotation(ranker({"rank": [2, "2"]}))), "value.ranker': ranks '2' twice"),
    ],
)
def test_a_fault_is_named_with_its_place(found, expected, tmp_path):
    with pytest.raises(PluralignError) as complaint:
        judged(tmp_path, found)
    assert "export.json, row 1, column '" in str(complaint.value)
    assert expected in str(complaint.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["promt=ask"], "--field: found 'promt=ask', expected prompt=NAME, .*did you mean 'prompt'"),
        (["prompt"], "--field: found 'prompt', expected prompt=NAME"),
        (["left=a", "left=b"], "--field: 'left' is given twice: as 'a' and as 'b'"),
    ],
)
def test_a_field_that_is_said_wrongly_is_named(fields, expected, tmp_path):
    with pytest.raises(PluralignError, match=expected):
        judged(tmp_path, task(PAIR), fields=fields)


def test_ids_are_those_of_the_source_where_they_are_one_of_a_kind_and_the_same_at_every_reading(tmp_path):
    marks = [annotation(pairwise("left"), id=5, unique_id="0b8e"), annotation(pairwise("left"), id=6)]
    (tmp_path / "export.json").write_text(json.dumps([task(PAIR, *marks), task(PAIR, *marks[1:])]))
    ids = []
    for number in range(2):
        done = import_files([tmp_path / "export.json"], tmp_path / f"{number}.parquet", format="label-studio")
        ids.append(read(done.out).column("id"))
    assert ids[0] == ids[1]
    assert ids[0][0] == "0b8e/better"
    assert len(set(ids[0])) == 3


def test_a_bad_annotation_is_rejected_and_its_neighbours_stay(tmp_path):
    marks = [annotation(pairwise(side)) for side in ("left", "up", "right")]
    (tmp_path / "export.json").write_text(json.dumps([task(PAIR, *marks), {"data": PAIR}]))
    done = import_files(
        [tmp_path / "export.json"], tmp_path / "out.parquet", format="label-studio", on_error="skip", rejects=tmp_path / "bad.jsonl"
    )  # fmt: skip
    bad = [json.loads(text) for text in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(row["row"], row["column"]) for row in bad] == [
        (1, "annotations.1.result.0.value.selected"),
        (2, "annotations"),
    ]
    assert (done.judgments, done.tally.rows) == (2, 2)


def test_an_empty_text_is_refused_and_not_replaced_by_the_title(tmp_path):
    """Another key is read only where the first one is absent."""
    items = [{"id": "a", "body": "", "title": "a title"}, {"id": "b", "title": "b title"}]
    ranking = {"type": "ranker", "from_name": "rank", "value": {"ranker": {"rank": ["a", "b"]}}}
    task = {"data": {"prompt": "Tea?", "items": items}, "annotations": [{"completed_by": 1, "result": [ranking]}]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    with pytest.raises(PluralignError, match="row 1, column 'responses': response 1 is empty"):
        import_files([tmp_path / "export.json"], tmp_path / "out.parquet", format="label-studio")
    items[0]["body"] = "a body"
    (tmp_path / "export.json").write_text(json.dumps([task]))
    import_files([tmp_path / "export.json"], tmp_path / "out.parquet", format="label-studio")
    assert read(tmp_path / "out.parquet").column("responses") == [["a body", "b title"]]
