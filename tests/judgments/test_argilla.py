"""Argilla: submitted responses come out as they were given, nested or flattened; the rest is counted."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments.formats.argilla import read_argilla
from pluralign.judgments.formats.convert import Tally
from pluralign.judgments.reading import read
from pluralign.workflows.importing import import_files

FIELDS = {"prompt": "¿Té?", "response_1": "<b>Sí</b>", "response_2": "No 🙅", "response_3": "Luego"}
NAMES = ["response_3", "response_1", "response_2"]


def response(value, user="ann", status="submitted"):
    return {"value": value, "user_id": user, "status": status}


def record(responses, fields=FIELDS, **more):
    return {
        "id": "1",
        "fields": fields,
        "metadata": {},
        "suggestions": {},
        "responses": responses,
        "vectors": {},
        **more,
    }


def judged(folder, *records, fields=(), name="records.json"):
    text = json.dumps(records) if name.endswith(".json") else "".join(json.dumps(each) + "\n" for each in records)
    (folder / name).write_text(text, encoding="utf-8")
    tally = Tally()
    rows = [row for _, row in read_argilla(folder / name, None, tally, fields)]
    assert all(tally.left_out.values()), "nothing is reported that was not there"
    return rows, dict(tally.left_out)


def test_a_ranking_is_a_list_of_names_or_names_with_ranks(tmp_path):
    ranked = [
        {"value": "response_1", "rank": 1},
        {"value": "response_2", "rank": 1},
        {"value": "response_3", "rank": 2},
    ]
    given = {"ranking": [response(NAMES), response(ranked, "bob")]}
    for name in ("records.json", "records.jsonl"):
        rows, left_out = judged(tmp_path, record(given), name=name)
        assert not left_out
        assert [dict(zip(row["responses"], row["ranks"], strict=True)) for row in rows] == [
            {"Luego": 1, "<b>Sí</b>": 2, "No 🙅": 3},
            {"<b>Sí</b>": 1, "No 🙅": 1, "Luego": 3},
        ]
        assert [(row["annotator"], row["prompt"], row["source"]) for row in rows] == [
            ("ann", "¿Té?", "ranking"), ("bob", "¿Té?", "ranking")
        ]  # fmt: skip


def test_a_rating_is_a_label_of_one_response(tmp_path):
    records = [record({"quality": [response(4), response(2.0, "bob")]}, {"prompt": "Tea?", "response": "Yes"})]
    (tmp_path / "r.json").write_text(json.dumps(records))
    options = {"format": "argilla", "fields": ["rating=quality"]}
    done = import_files([tmp_path / "r.json"], tmp_path / "o.parquet", label_scale="1-to-5", **options)
    table = read(done.out)
    assert table.column("labels") == [["4"], ["2"]]
    assert table.column("responses") == [["Yes"], ["Yes"]]
    assert (table.column("ranks"), table.column("source")) == ([None, None], ["quality"] * 2)
    assert table.label_scale.name == "1-to-5"
    with pytest.raises(PluralignError, match="the file has labels but no label scale: name one with --label-scale"):
        import_files([tmp_path / "r.json"], tmp_path / "o.parquet", **options)
    with pytest.raises(PluralignError, match="row 1, column 'labels': 4 is not on the scale 'binary'"):
        import_files([tmp_path / "r.json"], tmp_path / "o.parquet", label_scale="binary", **options)


def test_questions_and_fields_may_be_called_anything(tmp_path):
    fields = {"ask": "Tea?", "a": "Yes", "b": "No"}
    given = {"better": [response(["reply-2", "reply-1"])], "how good": [response(3)]}
    names = ["prompt=ask", "ranking=better", "rating=how good:b", "answers=reply-1:a,reply-2:b"]
    rows, left_out = judged(tmp_path, record(given, fields), fields=names)
    assert not left_out
    assert (rows[0]["prompt"], rows[0]["responses"], rows[0]["ranks"]) == ("Tea?", ["No", "Yes"], [1, 2])
    assert (rows[1]["responses"], rows[1]["labels"], rows[1]["source"]) == (["No"], [3], "how good")
    rows, _ = judged(tmp_path, record(given, fields), fields=["prompt=", *names[1:]])
    assert rows[0]["prompt"] == ""


def test_a_chat_prompt_makes_the_answers_messages(tmp_path):
    chat = [{"role": "user", "content": "Tea?"}]
    rows, _ = judged(tmp_path, record({"ranking": [response(NAMES)]}, {**FIELDS, "prompt": chat}))
    assert rows[0]["prompt"] == chat
    assert rows[0]["responses"][0] == [{"role": "assistant", "content": "Luego"}]


def test_what_is_no_submitted_judgment_of_a_person_is_counted(tmp_path):
    statuses = [
        response(NAMES, "a", "draft"),
        response(NAMES, "b", "discarded"),
        response(None, "c"),
        response(NAMES, "d"),
    ]
    suggested = {"ranking": {"value": NAMES, "agent": "model", "score": 0.9}}
    rows, left_out = judged(
        tmp_path,
        record({"ranking": statuses, "comment": [response("Nice")]}, suggestions=suggested),
        record({}, suggestions={}),
        record({"ranking": [{"value": NAMES, "user_id": "e"}]}),
    )
    assert [row["annotator"] for row in rows] == ["d", "e"]
    assert left_out == {
        "suggestions": 1,
        "draft responses": 1,
        "discarded responses": 1,
        "empty responses": 1,
        "responses to the question 'comment'": 1,
        "records without a response to ranking, rating (named by --field ranking=, rating=)": 1,
        "checks of the status (the file does not say which responses are drafts)": 1,
    }


def flat(row):
    """A nested record with the columns of a data set."""
    columns = {"id": row["id"], **row["fields"]}
    for question, given in row["responses"].items():
        columns[f"{question}.responses"] = [each["value"] for each in given]
        columns[f"{question}.responses.users"] = [str(each["user_id"]) for each in given]
        columns[f"{question}.responses.status"] = [each["status"] for each in given]
    for question, suggestion in row["suggestions"].items():
        columns[f"{question}.suggestion"] = suggestion["value"]
        columns[f"{question}.suggestion.agent"] = suggestion["agent"]
    return columns


def test_flattened_records_say_the_same_as_nested_ones(tmp_path):
    statuses = [response(NAMES, "a", "draft"), response(NAMES, None), response(NAMES[::-1], "b")]
    suggested = {"ranking": {"value": NAMES, "agent": "model"}}
    rows = [
        record({"ranking": statuses, "rating": []}, suggestions=suggested),
        record({"ranking": [response(NAMES)], "rating": [response(3)]}, {**FIELDS, "response": "Yes"}),
    ]
    nested = judged(tmp_path, *rows)
    assert nested == judged(tmp_path, *map(flat, rows), name="flat.jsonl")
    columns = flat(rows[1]) | flat(rows[0])
    table = pa.Table.from_pylist([dict.fromkeys(columns) | flat(row) for row in rows])
    pq.write_table(table, tmp_path / "flat.parquet")
    tally = Tally()
    packed = [row for _, row in read_argilla(tmp_path / "flat.parquet", None, tally)]
    assert (packed, dict(tally.left_out)) == nested
    assert nested[1] == {"draft responses": 1, "suggestions": 1}


def test_ids_are_the_same_at_every_reading_and_hold_no_name(tmp_path):
    given = {"ranking": [response(NAMES), response(NAMES, "bob")]}
    (tmp_path / "r.json").write_text(json.dumps([record(given), record(given, id="2"), record(given, id="1")]))
    ids = []
    for number in range(2):
        done = import_files([tmp_path / "r.json"], tmp_path / f"{number}.parquet", format="argilla")
        ids.append(read(done.out).column("id"))
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 6
    assert not any("ann" in each or "bob" in each for each in ids[0])


def ranking(value, status="submitted"):
    return record({"ranking": [response(value, status=status)]})


ONE = {"value": "response_1", "rank": 1}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"id": "1"}, "column 'fields': is missing, and there is no column 'QUESTION.responses'"),
        (record([]) | {"responses": ["x"]}, "column 'responses.0': found 'x', expected a response with its values"),
        (record({"ranking": "x"}), "column 'responses.ranking': found 'x', expected a list of responses"),
        (record({"ranking": ["x"]}), "column 'responses.ranking.0': found 'x', expected a response with its value"),
        (
            ranking(NAMES, "pending"),
            "column 'responses.ranking.0.status': found 'pending', expected submitted, draft or discarded",
        ),
        (ranking("response_1"), "column 'responses.ranking.0.value': found 'response_1', expected a ranking"),
        (ranking([]), "column 'responses.ranking.0.value': found [], expected a ranking"),
        (ranking([ONE, {"value": "response_2"}]), "expected every name with a whole number as its rank"),
        (ranking([1, 2]), "expected every name with a whole number as its rank"),
        (ranking(["response_1", "response_1"]), "column 'responses.ranking.0.value': ranks 'response_1' twice"),
        (
            ranking(["response-1"]),
            "column 'fields.response-1': there is no 'response-1' in the row (did you mean 'response_1'?): name the field with --field answers=response-1:FIELD",
        ),
        (
            record({"ranking": [response(NAMES)]}, {**FIELDS, "response_2": None}),
            "column 'fields.response_2': is null",
        ),
        (
            record({"ranking": [response(["a"])]}, {"a": "Yes"}),
            "column 'fields.prompt': there is no 'prompt' in the row: name the field with --field prompt=NAME",
        ),
        (
            record({"rating": [response("good")]}),
            "column 'responses.rating.0.value': found 'good', expected a whole number",
        ),
        (
            record({"rating": [response(2.5)]}),
            "column 'responses.rating.0.value': found 2.5, expected a whole number",
        ),
        (
            record({"rating": [response(True)]}),
            "column 'responses.rating.0.value': found True, expected a whole number",
        ),
        (record({"rating": [response(3)]}), "column 'fields.response': there is no 'response' in the row"),
        (
            {"ranking.responses": [NAMES], "ranking.responses.users": []}
            | {"ranking.responses.status": ["draft", "draft"]},
            "column 'ranking.responses.status': found ['draft', 'draft'], expected one for each value",
        ),
        ({"ranking.responses": 5}, "column 'ranking.responses': found 5, expected a list of values"),
        (
            {"ranking.responses": ["x"], "prompt": ""},
            "column 'ranking.responses.0.value': found 'x', expected a ranking",
        ),
    ],
)
def test_a_fault_is_named_with_its_place(found, expected, tmp_path):
    with pytest.raises(PluralignError) as complaint:
        judged(tmp_path, found)
    assert "records.json, row 1, column '" in str(complaint.value)
    assert expected in str(complaint.value)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (["rankng=x"], "--field: found 'rankng=x', expected prompt=NAME, .*did you mean 'ranking'"),
        (["answers=a"], "--field: found answers=a, expected NAME:FIELD"),
        (["answers=a:b,a:c"], "--field: found answers=a:b,a:c, expected NAME:FIELD,... with every name once"),
        (["rating=:b"], "--field: found rating=:b, expected NAME:FIELD"),
        (["rating=x", "ranking=x"], "the question 'x' is named as a ranking and as a rating"),
    ],
)
def test_a_field_that_is_said_wrongly_is_named(fields, expected, tmp_path):
    with pytest.raises(PluralignError, match=expected):
        judged(tmp_path, record({}), fields=fields)


def test_a_bad_response_is_rejected_and_its_neighbours_stay(tmp_path):
    given = {"ranking": [response(NAMES), response("x", "bob"), response(NAMES, "cy")]}
    (tmp_path / "r.json").write_text(json.dumps([record(given), {"id": 2}]))
    done = import_files(
        [tmp_path / "r.json"],
        tmp_path / "o.parquet",
        format="argilla",
        on_error="skip",
        rejects=tmp_path / "bad.jsonl",
    )
    bad = [json.loads(text) for text in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(row["row"], row["column"]) for row in bad] == [(1, "responses.ranking.1.value"), (2, "fields")]
    assert read(done.out).column("annotator") == ["ann", "cy"]
