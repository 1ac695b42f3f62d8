"""Chats in which tools are called: kept in every form in which judgments are held, and shown to models."""

import json
from types import SimpleNamespace

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments, read
from pluralign.judgments.identity import column_ids, row_id
from pluralign.judgments.lettered import lettered
from pluralign.judgments.messages import for_template
from pluralign.judgments.votes import read_votes, votes_of, write_votes
from pluralign.personas.questions import transcript
from pluralign.reports.texts import text_of
from pluralign.scoring.features import text_features
from pluralign.scoring.items import items_of
from pluralign.training.preference_matching import rlhf
from pluralign.training.sft import completions
from pluralign.workflows.importing import export, import_files


def call(town, number="call_1"):
    return {"id": number, "type": "function", "function": {"name": "weather", "arguments": json.dumps({"town": town})}}


def calling(town, text=""):
    return [{"role": "assistant", "content": text, "tool_calls": [call(town)]}]


def said(text):
    return [{"role": "assistant", "content": text}]


QUESTION = {"role": "user", "content": "Is it warmer in Delft or in Porto?", "name": "ann"}
PROMPT = [
    QUESTION,
    *calling("Delft", "I look it up."),
    {"role": "tool", "content": "9 degrees", "tool_call_id": "call_1", "name": "weather"},
]
ROW = {"prompt": PROMPT, "responses": [calling("Porto"), calling("Delft"), said("In Porto.")], "ranks": [1, 3, 2]}
OPENAI = {
    "input": {
        "messages": [{**QUESTION, "content": [{"type": "text", "text": QUESTION["content"]}]},
                     {**PROMPT[1], "refusal": None}, PROMPT[2]],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {}}}], "parallel_tool_calls": True,
    },
    "preferred_output": [{"role": "assistant", "content": None, "tool_calls": [call("Porto")]}],
    "non_preferred_output": said("In Porto."),
}  # fmt: skip
ANTHROPIC = {
    "prompt": [
        {"role": "user", "content": [{"type": "text", "text": "Delft or Porto?"}]},
        {"role": "assistant", "content": [
            {"type": "text", "text": "I look it up."},
            {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"town": "Delft"}},
            {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"town": "Porto"}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": "9 degrees"},
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": "19 degrees"}]},
            {"type": "text", "text": "And?"}]},
    ],
    "chosen": {"role": "assistant", "content": [{"type": "text", "text": "Porto."}]},
    "rejected": {"role": "assistant", "content": [
        {"type": "tool_use", "id": "toolu_3", "name": "weather", "input": {"town": "Faro"}}]},
}  # fmt: skip


def imported(tmp_path, row, **options):
    source = tmp_path / "source.jsonl"
    source.write_text(json.dumps(row) + "\n")
    import_files([source], tmp_path / "out.parquet", **options)
    (found,) = read(tmp_path / "out.parquet").rows()
    return found


def test_rows_of_openai(tmp_path):
    found = imported(tmp_path, OPENAI, mapping="openai-preference")
    assert (found["prompt"], found["responses"]) == (PROMPT, [calling("Porto"), said("In Porto.")])
    older = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}}
    result = {"role": "function", "name": "weather", "content": "9"}
    found = imported(tmp_path, {"prompt": [QUESTION, older, result], "chosen": "a", "rejected": "b"}, format="trl")
    assert found["prompt"][1]["tool_calls"] == [
        {"type": "function", "function": {"name": "weather", "arguments": "{}"}}
    ]
    assert found["prompt"][2] == {"role": "tool", "name": "weather", "content": "9"}


def test_rows_of_anthropic(tmp_path):
    found = imported(tmp_path, ANTHROPIC, format="trl")
    calls = [call("Delft", "toolu_1"), call("Porto", "toolu_2")]
    assert found["prompt"] == [
        {"role": "user", "content": "Delft or Porto?"},
        {"role": "assistant", "content": "I look it up.", "tool_calls": calls},
        {"role": "tool", "content": "9 degrees", "tool_call_id": "toolu_1"},
        {"role": "tool", "content": "19 degrees", "tool_call_id": "toolu_2"},
        {"role": "user", "content": "And?"},
    ]
    assert found["responses"] == [
        said("Porto."),
        [{"role": "assistant", "content": "", "tool_calls": [call("Faro", "toolu_3")]}],
    ]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"tool_calls": [{"type": "custom", "custom": {"name": "f", "input": "x"}}]}, r"tool call .*type: function"),
        ({"tool_calls": "weather"}, "found the tool_calls 'weather', expected a list"),
        ({"audio": {"id": "a"}}, "a message has 'audio'"),
        ({"content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}]}, "tool_result with"),
        ({"content": [{"type": "tool_result", "content": "no", "is_error": True}]}, "without is_error"),
        ({"content": [{"type": "image_url", "image_url": {"url": "x"}}]}, "found .*image_url.*, expected parts with text"),
    ],
)  # fmt: skip
def test_what_a_message_cannot_hold_is_refused(change, expected, tmp_path):
    row = {"prompt": [QUESTION], "chosen": [{"role": "assistant", "content": "a", **change}], "rejected": "b"}
    with pytest.raises(PluralignError, match=f"row 1, column 'chosen': .*{expected}"):
        imported(tmp_path, row, format="trl")


def test_tables_hold_them(tmp_path):
    plain = {"prompt": [{"role": "user", "content": "Tea?"}], "responses": [said("Yes"), said("No")], "ranks": [1, 2]}
    judgments = Judgments.from_rows([ROW, plain])
    rows = list(judgments.rows())
    assert [row["prompt"] for row in rows] == judgments.column("prompt") == [PROMPT, plain["prompt"]]
    assert rows[0]["responses"] == ROW["responses"]
    for name in ("t.parquet", "t.jsonl"):
        judgments.write(tmp_path / name)
        assert list(read(tmp_path / name).rows()) == rows
    table = pq.read_table(tmp_path / "t.parquet")
    pq.write_table(table.drop_columns(["id"]), tmp_path / "unsealed.parquet")
    assert list(read(tmp_path / "unsealed.parquet").rows()) == rows
    assert column_ids(judgments.table.to_batches()[0]).to_pylist() == [row_id(row) for row in rows]


def test_calls_are_told_apart():
    other = {**ROW, "responses": [calling("Faro"), *ROW["responses"][1:]]}
    named = {**ROW, "prompt": [{**QUESTION, "name": "bo"}, *PROMPT[1:]]}
    judgments = Judgments.from_rows([ROW, other, named])
    assert len({identifier.split("-")[0] for identifier in judgments.column("id")}) == 3
    items = items_of(judgments)
    assert (len(items.prompts), len(items.responses)) == (2, 4 + 3)
    assert len(items_of(Judgments.from_rows([ROW, ROW])).responses) == 3


def test_messages_of_tables_before_this_version(tmp_path):
    """Tables with messages of role and content alone are read, and keep their derived ids."""
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    prompt = [{"role": "user", "content": "Tea?"}]
    table = pa.table(
        {"prompt": pa.array([prompt], kind), "responses": pa.array([[said("Yes"), said("No")]], pa.list_(kind)),
         "ranks": pa.array([[1, 2]])}
    )  # fmt: skip
    pq.write_table(table, tmp_path / "old.parquet")
    (row,) = read(tmp_path / "old.parquet").rows()
    assert (row["prompt"], row["id"]) == (prompt, "ef51dad0d4a58802e5073e45")


def test_exports_and_vote_states_hold_them(tmp_path):
    Judgments.from_rows([ROW]).write(tmp_path / "t.parquet")
    export(tmp_path / "t.parquet", tmp_path / "trl.jsonl")
    pairs = [json.loads(line) for line in (tmp_path / "trl.jsonl").read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in pairs] == [
        (calling("Porto"), calling("Delft")), (calling("Porto"), said("In Porto.")), (said("In Porto."), calling("Delft")),
    ]  # fmt: skip
    state = votes_of(read(tmp_path / "t.parquet"))
    write_votes(state, tmp_path / "state.parquet")
    again = read_votes(tmp_path / "state.parquet")
    assert (again.prompt, again.response, again.other) == (state.prompt, state.response, state.other)
    assert again.prompt == [PROMPT] * 3


def test_exports_of_plain_chats_have_no_other_keys(tmp_path):
    """A template that asks whether a message has calls must not find a key with nothing in it."""
    plain = {"prompt": [{"role": "user", "content": "Tea?"}], "responses": [said("Yes"), said("No")], "ranks": [1, 2]}
    Judgments.from_rows([plain]).write(tmp_path / "t.parquet")
    for to, out in (("trl", "trl.parquet"), ("best-of-n", "best.parquet"), ("datasets", "folder")):
        export(tmp_path / "t.parquet", tmp_path / out, to=to)
    assert pq.read_table(tmp_path / "trl.parquet").to_pylist() == [
        {"prompt": plain["prompt"], "chosen": said("Yes"), "rejected": said("No")}
    ]
    assert pq.read_table(tmp_path / "best.parquet").to_pylist()[0]["chosen"] == [said("Yes")]
    assert datasets.load_from_disk(str(tmp_path / "folder"))[0]["responses"] == plain["responses"]


def test_texts_show_them():
    shown = 'weather({"town": "Porto"})'
    assert transcript(calling("Porto")) == shown
    assert text_of(calling("Porto", "Wait.")) == f"assistant: Wait.\n{shown}"
    (row,) = lettered(Judgments.from_rows([ROW])).rows()
    assert shown in row["prompt"][-1]["content"]
    assert row["prompt"][-1]["tool_call_id"] == "call_1"
    items = items_of(Judgments.from_rows([ROW]))
    values = text_features(items, dimensions=4, reads="response")
    assert (values[0] != values[1]).any()


def test_templates_get_objects_and_datasets_keep_them(monkeypatch):
    assert for_template(calling("Porto"))[0]["tool_calls"][0]["function"]["arguments"] == {"town": "Porto"}
    broken = [{"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]
    assert for_template(broken) == broken
    row = {**ROW, "responses": [calling("Porto"), [{**calling("x")[0], "tool_calls": [call_of_other_keys()]}]]}
    judgments = Judgments.from_rows([{**row, "ranks": [1, 1]}])
    data = completions(judgments)
    assert [each["completion"] for each in data] == [for_template(response) for response in row["responses"]]
    assert data[0]["prompt"] == for_template(PROMPT)
    monkeypatch.setattr(rlhf, "prompts_that_fit", lambda judgments, *_: judgments.unique_prompts())
    assert rlhf._prompt_dataset(judgments, SimpleNamespace(), 8)[0]["prompt"] == for_template(PROMPT)


def call_of_other_keys():
    return {"type": "function", "function": {"name": "clock", "arguments": '{"zone": 2}'}}


def in_parts(messages):
    return [message | {"content": [{"type": "text", "text": message["content"]}]} for message in messages]


def test_rows_of_the_table_may_hold_contents_as_parts(tmp_path):
    row = {"prompt": [{"role": "user", "content": "Tea?"}], "responses": [said("Yes"), said("No")], "ranks": [1, 2]}
    other = row | {"prompt": in_parts(row["prompt"]), "responses": [in_parts(said("Yes")), said("No")]}
    expected = list(Judgments.from_rows([row]).rows())
    assert list(Judgments.from_rows([other]).rows()) == expected
    assert imported(tmp_path, other) == expected[0]
    table = other | {"responses": [in_parts(response) for response in row["responses"]]}
    assert list(read(pa.Table.from_pylist([table])).rows()) == expected
    asked = {"role": "assistant", "content": None, "tool_calls": [call("Porto")]}
    (found,) = Judgments.from_rows([row | {"responses": [[asked], said("No")]}]).rows()
    assert found["responses"][0] == calling("Porto")
    image = [{"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    with pytest.raises(PluralignError, match="column 'responses': found .*image_url.*other content is not read"):
        Judgments.from_rows([row | {"responses": [image, said("No")]}])
