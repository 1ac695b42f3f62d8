"""Known data sets and containers, on made-up rows of their true shape."""

import csv
import io
import json
import sys
import types
import zipfile

import datasets
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import read
from pluralign.judgments.formats import nearest_source
from pluralign.judgments.formats.conversations import tree_judgments
from pluralign.judgments.formats.convert import Tally
from pluralign.judgments.formats.known import SIGNATURES
from pluralign.judgments.formats.mapping import packaged_mappings
from pluralign.workflows.importing import export, import_files


def chat(*texts):
    return [{"role": ("user", "assistant")[at % 2], "content": text} for at, text in enumerate(texts)]


def said(text):
    return [{"role": "assistant", "content": text}]


def imported(tmp_path, rows, **options):
    """The judgments of rows that were written as JSON Lines, and the result."""
    file = tmp_path / "source.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return of_file(tmp_path, file, **options)


def of_file(tmp_path, file, **options):
    done = import_files([file], tmp_path / "out.parquet", **options)
    return list(read(tmp_path / "out.parquet").rows()), done


ULTRA = {
    "prompt": "Tea?", "prompt_id": "a1", "chosen": chat("Tea?", "Yes"), "rejected": chat("Tea?", "No"),
    "messages": chat("Tea?", "Yes"), "score_chosen": 8.0, "score_rejected": 4.0,
}  # fmt: skip
HELPSTEER3 = {
    "domain": "general", "language": "english", "context": chat("Hi", "Hello", "Tea?"), "response1": "Yes",
    "response2": "No", "overall_preference": -2,
    "individual_preference": [
        {"score": -3, "reasoning": "r", "feedback1": "f"}, {"score": 0, "reasoning": "r"}, {"score": 1, "reasoning": "r"}
    ],
}  # fmt: skip
MULTIPREF = {
    "comparison_id": "c", "prompt_id": "p", "text": "Tea?", "completion_a": "Yes", "completion_b": "No",
    "normal_worker_annotations": [{"evaluator": "w1", "overall_pref": "A-is-clearly-better", "time_spent": 9}],
    "expert_worker_annotations": [
        {"evaluator": "e1", "overall_pref": "Tie"}, {"evaluator": "e2", "overall_pref": "B-is-slightly-better"}
    ],
}  # fmt: skip
CASES = {
    "ultrafeedback-binarized": (
        [ULTRA],
        [{"prompt": chat("Tea?"), "responses": [said("Yes"), said("No")], "ranks": [1, 2]}],
    ),
    "ultrafeedback": (
        [{"source": "s", "instruction": "Tea?", "models": ["a", "b", "c"], "completions": [
            {"model": name, "response": name, "overall_score": score} for name, score in (("a", 7), ("b", 9.5), ("c", 7))
        ]}],
        [{"prompt": "Tea?", "responses": ["a", "b", "c"], "ranks": [2, 1, 2], "source": "s"}],
    ),
    "helpsteer2": (
        [{"prompt": p, "response": r, "helpfulness": h, "correctness": 1, "coherence": 4, "complexity": 1, "verbosity": 1}
         for p, r, h in (("Tea?", "Yes", 3), ("Rain?", "Maybe", 1), ("Tea?", "No", 4), ("Rain?", "Sun", 1))],
        [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [2, 1]},
         {"prompt": "Rain?", "responses": ["Maybe", "Sun"], "ranks": [1, 1]}],
    ),
    "helpsteer2-preference": (
        [{"split": "train", "prompt": "Tea?", "response_1": "Yes", "response_2": "No", "preference_strength": 2,
          "preference_statement": "s", "preference_elaboration": "e"}],
        [{"prompt": "Tea?", "ranks": [2, 1], "strength": 2.0}],
    ),
    "helpsteer3": (
        [HELPSTEER3],
        [{"prompt": chat("Hi", "Hello", "Tea?"), "responses": [said("Yes"), said("No")], "ranks": ranks,
          "strength": strength, "source": "general"} for ranks, strength in (([1, 2], 3.0), ([1, 1], 0.0), ([2, 1], 1.0))],
    ),
    "multipref": (
        [MULTIPREF],
        [{"annotator": "w1", "group": "normal", "ranks": [1, 2], "strength": 2.0, "responses": ["Yes", "No"]},
         {"annotator": "e1", "group": "expert", "ranks": [1, 1], "strength": 0.0},
         {"annotator": "e2", "group": "expert", "ranks": [2, 1], "strength": 1.0}],
    ),
    "nectar": (
        [{"prompt": "\n\nHuman: Tea?\n\nAssistant: ", "num_responses": len(ranks), "answers": [
            {"answer": f"a{at}", "model": "m", "rank": rank} for at, rank in enumerate(ranks)]}
         for ranks in ([2.0, 1.0, 3.0], [1.5, 3.0, 1.5, 4.0])],
        [{"responses": ["a0", "a1", "a2"], "ranks": [2, 1, 3]},
         {"responses": ["a0", "a1", "a2", "a3"], "ranks": [1, 3, 1, 4]}],
    ),
    "shp": (
        [{"history": "Tea?", "human_ref_A": "Yes", "human_ref_B": "No", "labels": label, "domain": "askculinary_train",
          "score_A": 1, "score_B": 2} for label in (1, 0)],
        [{"prompt": "Tea?", "ranks": [1, 2], "source": "askculinary_train"}, {"ranks": [2, 1]}],
    ),
    "summarize-from-feedback": (
        [{"info": {"id": "i", "post": "Long.", "title": "T", "subreddit": "r"}, "summaries": [
            {"text": "a", "policy": "ref"}, {"text": "b", "policy": "sup"}], "choice": 1, "worker": "w", "extra": {}}],
        [{"prompt": "T\n\nLong.", "responses": ["a", "b"], "ranks": [2, 1], "annotator": "w"}],
    ),
    "summarize-from-feedback-axis": (
        [{"info": {"title": "T", "article": "Long."}, "summary": {"text": "a", "axes": {"overall": 6}}, "worker": "w"}],
        [{"prompt": "T\n\nLong.", "responses": ["a"], "labels": ["6"], "annotator": "w"}],
    ),
    "openai-preference": (
        [{"input": {"messages": [{"role": "user", "content": [{"type": "text", "text": "Tea?"}]}], "tools": []},
          "preferred_output": said("Yes"), "non_preferred_output": said("No")}],
        [{"prompt": chat("Tea?"), "responses": [said("Yes"), said("No")]}],
    ),
    "sharegpt-preference": (
        [{"conversations": [{"from": "human", "value": "Tea?"}], "chosen": {"from": "gpt", "value": "Yes"},
          "rejected": {"from": "gpt", "value": "No"}}],
        [{"prompt": chat("Tea?"), "responses": [said("Yes"), said("No")], "ranks": [1, 2]}],
    ),
    "kto": (
        [{"prompt": "Tea?", "completion": "Yes", "label": True}, {"prompt": "Tea?", "completion": "No", "label": False}],
        [{"responses": ["Yes"], "labels": ["1"]}, {"responses": ["No"], "labels": ["0"]}],
    ),
}  # fmt: skip


def test_every_packaged_mapping_has_a_case_and_a_signature():
    names = set(packaged_mappings())
    assert set(CASES) == names == {name.removeprefix("--mapping ") for name in SIGNATURES if "--mapping" in name}


@pytest.mark.parametrize("name", CASES)
def test_a_packaged_mapping_reads_its_data_set(name, tmp_path):
    rows, expected = CASES[name]
    found, _ = imported(tmp_path, rows, mapping=name)
    assert [{key: row[key] for key in want} for row, want in zip(found, expected, strict=True)] == expected
    with pytest.raises(PluralignError, match=rf"looks like (--mapping {name}|--format trl)"):
        imported(tmp_path, rows)


def test_an_unknown_mapping_names_the_nearest(tmp_path):
    with pytest.raises(PluralignError, match="did you mean 'helpsteer3'"):
        imported(tmp_path, [HELPSTEER3], mapping="helpster3")
    assert nearest_source(["nothing", "known"]) is None


def test_trl_rows_in_mixed_forms(tmp_path):
    rows = [{"prompt": chat("Tea?"), "chosen": "Yes", "rejected": "No", "margin": 2}]
    (row,), _ = imported(tmp_path, rows, format="trl")
    assert (row["prompt"], row["responses"]) == (chat("Tea?"), [said("Yes"), said("No")])
    assert row["strength"] == 2.0
    kept = {key: ULTRA[key] for key in ("prompt", "chosen", "rejected")}
    (row,), _ = imported(tmp_path, [kept], format="trl")
    assert (row["prompt"], row["responses"]) == (chat("Tea?"), [said("Yes"), said("No")])
    (row,), _ = imported(tmp_path, [{"prompt": "Tea?", "chosen": said("Yes"), "rejected": said("No")}], format="trl")
    assert row["prompt"] == chat("Tea?")


ARENA = {
    "question_id": "q1", "model_a": "m", "model_b": "n", "judge": "arena_user_9", "turn": 2, "tstamp": 1682351591.13,
    "conversation_a": chat("Tea?", "Yes", "Sure?", "No"), "conversation_b": chat("Tea?", "Yes", "Sure?", "Yes"),
}  # fmt: skip


def test_chatbot_arena(tmp_path):
    rows = [{**ARENA, "winner": "model_b"}, {**ARENA, "winner": "tie (bothbad)", "question_id": "q2"}]
    found, done = imported(tmp_path, rows, format="chatbot-arena")
    assert found[0]["prompt"] == chat("Tea?", "Yes", "Sure?")
    assert [row["ranks"] for row in found] == [[2, 1], [1, 1]]
    assert (found[0]["annotator"], found[0]["id"], found[0]["time"].year) == ("arena_user_9", "q1", 2023)
    assert sum(done.tally.left_out.values()) == 1
    with pytest.raises(
        PluralignError, match=r"column 'winner': found 'modelb', expected .* \(did you mean 'model_b'\?\)"
    ):
        imported(tmp_path, [{**ARENA, "winner": "modelb"}], format="chatbot-arena")


def test_chatbot_arena_as_in_kaggle(tmp_path):
    with open(tmp_path / "train.csv", "w", newline="") as file:
        names = ["id", "model_a", "model_b", "prompt", "response_a", "response_b"]
        writer = csv.writer(file)
        writer.writerow([*names, "winner_model_a", "winner_model_b", "winner_tie"])
        writer.writerow([30192, "m", "n", '["Tea?","Sure?"]', '["Yes","No"]', '["Yes","Yes, \\"sure\\""]', 0, 1, 0])
        writer.writerow([30193, "m", "n", '["Tea?"]', '["Yes"]', '["No"]', 0, 0, 1])
    found, _ = of_file(tmp_path, tmp_path / "train.csv", format="chatbot-arena")
    assert found[0]["prompt"] == chat("Tea?", "Yes", "Sure?")
    assert found[0]["responses"] == [said("No"), said('Yes, "sure"')]
    assert [row["ranks"] for row in found] == [[2, 1], [1, 1]]


def oasst_node(text, role, replies=(), **more):
    return {"message_id": f"m-{text}", "text": text, "role": role, "lang": "en", "replies": list(replies), **more}


def test_trees_of_openassistant(tmp_path):
    later = oasst_node("And milk?", "prompter", [
        oasst_node("No milk", "assistant", rank=1), oasst_node("Milk", "assistant", rank=0),
    ])  # fmt: skip
    tree = oasst_node("Tea?", "prompter", [
        oasst_node("No", "assistant", rank=2), oasst_node("Yes", "assistant", [later], rank=0),
        oasst_node("Gone", "assistant", rank=1, deleted=True), oasst_node("Hm", "assistant", rank=None),
    ])  # fmt: skip
    found, done = imported(tmp_path, [{"message_tree_id": "t", "tree_state": "ready", "prompt": tree}], format="oasst")
    assert [(row["prompt"], row["ranks"], row["id"]) for row in found] == [
        (chat("Tea?"), [2, 1], "m-Tea?"),
        (chat("Tea?", "Yes", "And milk?"), [2, 1], "m-And milk?"),
    ]
    assert found[0]["responses"] == [said("No"), said("Yes")]
    assert sorted(done.tally.left_out.values()) == [1, 1]


def test_a_tree_deeper_than_the_stack(tmp_path):
    """Parquet and JSON end earlier; a tree in memory may be as deep as it likes."""
    node = oasst_node("last", "prompter", [oasst_node("a", "assistant", rank=1), oasst_node("b", "assistant", rank=0)])
    for depth in range(3000):
        node = oasst_node(f"turn {depth}", ("assistant", "prompter")[depth % 2], [node], rank=0)
    (made,) = tree_judgments({"message_tree_id": "t", "prompt": node}, Tally())
    assert (len(made["prompt"]), made["ranks"]) == (3001, [2, 1])


def test_prism(tmp_path):
    history = [
        {"turn": 0, "role": "user", "content": "Tea?"},
        {"turn": 0, "role": "model", "content": "Yes", "score": 90, "if_chosen": True, "within_turn_id": 0},
        {"turn": 0, "role": "model", "content": "No", "score": 10, "if_chosen": False, "within_turn_id": 1},
        {"turn": 1, "role": "user", "content": "Sure?"},
        {"turn": 1, "role": "model", "content": "Yes!", "score": 50, "if_chosen": False, "within_turn_id": 0},
        {"turn": 1, "role": "model", "content": "No!", "score": 51, "if_chosen": True, "within_turn_id": 1},
    ]
    row = {"conversation_id": "c1", "user_id": "u1", "conversation_type": "unguided", "conversation_history": history}
    found, _ = imported(tmp_path, [row], format="prism")
    assert [(each["prompt"], each["ranks"], each["annotator"]) for each in found] == [
        (chat("Tea?"), [1, 2], "u1"),
        (chat("Tea?", "Yes", "Sure?"), [2, 1], "u1"),
    ]


def test_le_wi_di(tmp_path):
    items = {
        "7": {"text": "Nice.", "annotation task": "t", "number of annotations": 2, "annotations": "0,1",
              "annotators": "Ann1,Ann2", "lang": "en", "hard_label": "0", "soft_label": {"0": 0.5, "1": 0.5}},
        "8": {"text": "Bad.", "annotations": {"Ann1": 1, "Ann3": 0}, "annotators": "Ann1,Ann3"},
    }  # fmt: skip
    (tmp_path / "HS_train.json").write_text(json.dumps(items))
    found, _ = of_file(tmp_path, tmp_path / "HS_train.json", format="le-wi-di", label_scale="binary", prompt="Hateful?")
    assert [(row["annotator"], row["responses"], row["labels"]) for row in found] == [
        ("Ann1", ["Nice."], ["0"]), ("Ann2", ["Nice."], ["1"]), ("Ann1", ["Bad."], ["1"]), ("Ann3", ["Bad."], ["0"]),
    ]  # fmt: skip
    items["7"]["annotators"] = "Ann1"
    (tmp_path / "HS_train.json").write_text(json.dumps(items))
    with pytest.raises(PluralignError, match=r"row 1, column 'annotators': found 1 annotators for 2 labels"):
        of_file(tmp_path, tmp_path / "HS_train.json", format="le-wi-di", label_scale="binary")


def test_chats_of_other_tools(tmp_path):
    parts = [{"type": "text", "text": "Te"}, {"type": "text", "text": "a?"}]
    rows = [{"prompt": [{"role": "user", "content": parts}], "chosen": said("Yes"), "rejected": said("No")}]
    (row,), _ = imported(tmp_path, rows, format="trl")
    assert row["prompt"] == chat("Tea?")
    rows[0]["chosen"] = [{"role": "assistant", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]
    with pytest.raises(PluralignError, match="column 'chosen': .* expected parts with text, tool_use or a tool_result"):
        imported(tmp_path, rows, format="trl")


MAPPING = 'prompt: "{q}"\nresponses: ["{a}", "{b}"]\nplaces: ["{x}", "{y}"]\nannotator: "{who}"\n'
LINES = [
    ["q", "a", "b", "x", "y", "who"],
    ["Tée?", "Yes, please", "No", "0", "1", "7.0"],
    ["Tée?", "Yes", "No", "1.5", "1.5", ""],
]


def as_text(delimiter=","):
    held = io.StringIO()
    csv.writer(held, delimiter=delimiter).writerows(LINES)
    return held.getvalue()


def workbook(path):
    """A workbook as Excel writes it: shared strings, numbers as values, empty cells left out."""
    strings = [text for row in LINES for text in row if text and not text.replace(".", "").isdigit()]
    cells = []
    for number, row in enumerate(LINES, start=1):
        each = []
        for column, text in zip("ABCDEF", row, strict=True):
            if text in strings:
                each.append(f'<c r="{column}{number}" t="s"><v>{strings.index(text)}</v></c>')
            elif text:
                each.append(f'<c r="{column}{number}"><v>{text}</v></c>')
        cells.append(f'<row r="{number}">{"".join(each)}</row>')
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    with zipfile.ZipFile(path, "w") as book:
        book.writestr("xl/sharedStrings.xml", f"<sst {space}>{''.join(f'<si><t>{s}</t></si>' for s in strings)}</sst>")
        book.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{''.join(cells)}</sheetData></worksheet>"
        )


@pytest.mark.parametrize("container", ["comma", "semicolon", "utf-16", "zip", "xlsx", "standard input"])
def test_containers_hold_the_same_judgments(container, tmp_path, monkeypatch):
    (tmp_path / "m.yaml").write_text(MAPPING)
    file = tmp_path / "votes.csv"
    if container == "utf-16":
        file.write_bytes(as_text().encode("utf-16"))
    elif container == "zip":
        file = tmp_path / "votes.zip"
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("folder/votes.csv", as_text())
            archive.writestr("__MACOSX/votes.csv", "x")
            archive.writestr("readme.txt", "x")
    elif container == "xlsx":
        file = tmp_path / "votes.xlsx"
        workbook(file)
    elif container == "standard input":
        file = "-"
        monkeypatch.setattr(sys, "stdin", types.SimpleNamespace(buffer=io.BytesIO(as_text().encode())))
    else:
        file.write_text(as_text(";" if container == "semicolon" else ","), encoding="utf-8")
    found, _ = of_file(tmp_path, file, mapping=str(tmp_path / "m.yaml"))
    assert [(row["prompt"], row["responses"], row["ranks"], row["annotator"]) for row in found] == [
        ("Tée?", ["Yes, please", "No"], [1, 2], "7"),
        ("Tée?", ["Yes", "No"], [1, 1], None),
    ]


def test_faults_in_containers_name_the_file_that_was_given(tmp_path):
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.jsonl", "{}")
        archive.writestr("b.jsonl", "{}")
    with pytest.raises(PluralignError, match=r"two.zip: holds 2 files of data \(.*a.jsonl.*b.jsonl"):
        of_file(tmp_path, tmp_path / "two.zip")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("a.jsonl", '{"responses": ["a", "b"], "ranks": [0, 1]}')
    with pytest.raises(PluralignError, match=r"bad.zip, row 1, column 'ranks'"):
        of_file(tmp_path, tmp_path / "bad.zip")
    for name in ("x.zip", "x.xlsx"):
        (tmp_path / name).write_text("not an archive")
        with pytest.raises(PluralignError, match=name):
            of_file(tmp_path, tmp_path / name)


def test_a_mapping_over_columns_is_the_mapping_of_rows(tmp_path):
    """CSV is mapped in columns, the same rows as JSON Lines one by one."""
    text = (
        'prompt: "About {topic}: {q}"\nresponses: ["{a}", "{b}"]\nchoice: "{w}"\nannotator: "{who}"\nweight: "{n}"\n'
        'choices: {left: [1, 2], right: [2, 1], both: [1, 1]}\nstrength: "{n}"\ntime: "{t}"\n'
    )
    (tmp_path / "m.yaml").write_text(text)
    values = {
        "w": ["left", "right", "both", " left ", "", "leftt"], "n": ["1", "2.50", "", "x", "-1"], "who": ["7.0", "", " ann"],
        "t": ["2024-05-31", "", "never"], "a": ["Yes", "Yes!", ""], "b": ["No", "Yes"], "q": ["Tea?", ""], "topic": ["x"],
    }  # fmt: skip
    rows = [{name: each[number % len(each)] for name, each in values.items()} for number in range(400)]
    with open(tmp_path / "d.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(values))
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = {}
    for name in ("d.csv", "d.jsonl"):
        rejects = tmp_path / f"{name}.rejects.jsonl"
        options = {"mapping": str(tmp_path / "m.yaml"), "on_error": "skip", "rejects": rejects}
        found, done = of_file(tmp_path, tmp_path / name, **options)
        refused = [json.loads(line) for line in rejects.read_text().splitlines()]
        made[name] = found, done.tally, [{**reject, "file": None} for reject in refused]
    assert made["d.csv"] == made["d.jsonl"]
    assert len(made["d.csv"][0]) > 20


def test_labels_of_a_column_mapping_keep_their_scale(tmp_path):
    (tmp_path / "m.yaml").write_text(
        'responses: ["{a}"]\nlabels: ["{l}"]\nlabel_map: {good: "1", bad: "0"}\nlabel_scale: binary\n'
    )
    (tmp_path / "d.csv").write_text("a,l\nYes,good\nNo,bad\nHm,\nSo,1\n")
    found, done = of_file(tmp_path, tmp_path / "d.csv", mapping=str(tmp_path / "m.yaml"))
    assert [row["labels"] for row in found] == [["1"], ["0"], ["1"]]
    assert sum(done.tally.left_out.values()) == 1


COMMENTS = (
    "timestamp,datetime,comment-id,author-id,agrees,disagrees,moderated,comment-body\n"
    "1,x,0,1,2,0,1,More trees\n1,x,1,1,0,1,0,Fewer cars\n1,x,2,1,1,0,-1,Buy my book\n"
)


def polis_export(folder, join):
    """An export under the names of today (`-`) or of before (`.`)."""
    (folder / f"town{join}comments.csv").write_text(COMMENTS)
    (folder / f"town{join}summary.csv").write_text("topic,The town\nurl,none\n")
    singular = "participant" if join == "-" else "participants"
    votes = folder / f"town{join}{singular}-votes.csv"
    votes.write_text(
        "participant,xid,group-id,n-comments,n-votes,n-agree,n-disagree,0,1,2\n"
        "7.0,,1.0,0,3,2,1,1.0,-1.0,1.0\n8,acme-42,0,0,1,1,0,1,,\n"
    )
    return votes


@pytest.mark.parametrize("join", ["-", "."])
def test_polis_of_today_and_of_before(join, tmp_path):
    found, done = of_file(tmp_path, polis_export(tmp_path, join), format="polis")
    assert [(row["annotator"], row["group"], *row["responses"], *row["labels"]) for row in found] == [
        ("town/7", "town/1", "More trees", "agree"),
        ("town/7", "town/1", "Fewer cars", "disagree"),
        ("acme-42", "town/0", "More trees", "agree"),
    ]
    assert done.tally.left_out == {"votes on statements that the moderators rejected (--keep-moderated)": 1}
    found, _ = of_file(tmp_path, tmp_path / polis_export(tmp_path, join), format="polis", keep_moderated=True)
    assert len(found) == 4


def test_polis_with_a_row_per_vote(tmp_path):
    polis_export(tmp_path, "-")
    votes = tmp_path / "town-votes.csv"
    lines = ["1717156800000,x,0,7,-1", "1717156801000,x,0,7,1", "1717156802000,x,1,7,-1", "1717156803000,x,0,8,1"]
    votes.write_text("timestamp,datetime,comment-id,voter-id,vote\n" + "\n".join(lines) + "\n")
    found, done = of_file(tmp_path, votes, format="polis")
    assert [(row["annotator"], *row["responses"], *row["labels"], row["time"].second) for row in found] == [
        ("town/7", "More trees", "agree", 1), ("town/7", "Fewer cars", "disagree", 2), ("town/8", "More trees", "agree", 3),
    ]  # fmt: skip
    assert done.tally.left_out == {"votes that their participant replaced later": 1}
    (row,), _ = of_file(tmp_path, votes, format="polis", shape="people")
    assert (row["responses"], row["ranks"]) == (["More trees", "Fewer cars"], [1, 2])
    reversed_lines = [f"{line[: line.rindex(',')]},{-int(line[line.rindex(',') + 1 :])}" for line in lines]
    votes.write_text("timestamp,datetime,comment-id,voter-id,vote\n" + "\n".join(reversed_lines) + "\n")
    with pytest.raises(PluralignError, match="town-votes.csv: .* opposite sign"):
        of_file(tmp_path, votes, format="polis")


def test_argilla_1_as_records_and_as_columns(tmp_path):
    ranking = [{"value": "a", "rank": 2}, {"value": "b", "rank": 1}]
    nested = {
        "fields": {"prompt": "Tea?", "a": "Yes", "b": "No"}, "suggestions": [],
        "responses": [{"user_id": "u", "status": "submitted", "values": {"ranking": {"value": ranking}}}],
    }  # fmt: skip
    sideways = {"value": ["a", "b"], "rank": [2, 1]}
    flat = {
        "prompt": "Tea?",
        "a": "Yes",
        "b": "No",
        "ranking": [{"user_id": "u", "status": "submitted", "value": sideways}],
    }
    for record in (nested, flat):
        (row,), _ = imported(tmp_path, [record], format="argilla")
        assert (row["responses"], row["ranks"], row["annotator"]) == (["Yes", "No"], [2, 1], "u")


def test_label_studio_ratings_choices_and_0_x(tmp_path):
    results = [
        {"type": "rating", "from_name": "quality", "to_name": "answer", "value": {"rating": 4}},
        {"type": "choices", "from_name": "tone", "to_name": "answer", "value": {"choices": ["2"]}},
    ]
    for key in ("annotations", "completions"):
        annotation = {"id": 1, "created_at": 1598290000, "result": results}
        task = {"id": 1, "data": {"prompt": "Tea?", "response": "Yes"}, key: [annotation]}
        found, _ = imported(tmp_path, [task], format="label-studio", label_scale="1-to-5")
        assert [(row["source"], row["responses"], row["labels"], row["time"].year) for row in found] == [
            ("quality", ["Yes"], ["4"], 2020), ("tone", ["Yes"], ["2"], 2020),
        ]  # fmt: skip
    results[1]["value"]["choices"] = ["1", "2"]
    with pytest.raises(
        PluralignError, match=r"annotations.0.result.1.value.choices': found \['1', '2'\], expected one"
    ):
        imported(tmp_path, [{**task, "annotations": [annotation]}], format="label-studio", label_scale="1-to-5")


def test_preflib_categories_and_graphs(tmp_path):
    names = "".join(f"# ALTERNATIVE NAME {at}: {name}\n" for at, name in enumerate(("ann", "bo", "cy"), start=1))
    (tmp_path / "v.cat").write_text(
        f"# TITLE: Vote\n# DATA TYPE: cat\n# NUMBER ALTERNATIVES: 3\n# NUMBER VOTERS: 3\n# NUMBER CATEGORIES: 3\n{names}"
        "2: {1,3},{},2\n1: {},{2},{1,3}\n"
    )
    found, _ = of_file(tmp_path, tmp_path / "v.cat", format="preflib")
    assert [row["ranks"] for row in found] == [[1, 3, 1], [1, 3, 1], [2, 1, 2]]
    header = f"# TITLE: Vote\n# DATA TYPE: wmd\n# NUMBER ALTERNATIVES: 3\n# NUMBER EDGES: 4\n{names}"
    (tmp_path / "v.wmd").write_text(header + "1, 2, 0.5\n1, 3, 2.0\n2, 1, 1\n2, 3, 1\n3, 1, 9\n")
    found, done = of_file(tmp_path, tmp_path / "v.wmd", format="preflib")
    assert [(row["annotator"], row["responses"], row["ranks"]) for row in found] == [
        ("v.wmd/1", ["bo", "cy"], [2, 1]), ("v.wmd/2", ["ann", "cy"], [1, 1]),
    ]  # fmt: skip
    assert sum(done.tally.left_out.values()) == 1
    (tmp_path / "v.wmd").write_text(header + "1, 2\n")
    with pytest.raises(PluralignError, match=r"v.wmd, line 8: found '1, 2', expected an edge"):
        of_file(tmp_path, tmp_path / "v.wmd", format="preflib")


def test_the_same_text_twice_is_refused_or_merged(tmp_path):
    row = {"prompt": "Tea?", "responses": ["Yes", "No", "Yes", "No"], "ranks": [3, None, 1, 2]}
    with pytest.raises(PluralignError, match="response 3 repeats response 1"):
        imported(tmp_path, [row])
    (found,), _ = imported(tmp_path, [row], same_text="merge")
    assert (found["responses"], found["ranks"]) == (["Yes", "No"], [1, 2])
    row |= {"labels": ["good", None, "good", "bad"], "ranks": None}
    scale = tmp_path / "s.yaml"
    scale.write_text("labels: {good: 1, bad: 0}\n")
    (found,), _ = imported(tmp_path, [row], same_text="merge", label_scale=scale)
    assert (found["responses"], found["labels"]) == (["Yes", "No"], ["good", "bad"])
    row["labels"][2] = "bad"
    with pytest.raises(PluralignError, match="response 3 repeats response 1"):
        imported(tmp_path, [row], same_text="merge", label_scale=scale)


def test_exports_hold_the_judgments(tmp_path):
    rows = [
        {"prompt": "Tea?", "responses": ["Yes", "No", "Hm"], "ranks": [1, 2, 1], "annotator": "ann"},
        {"prompt": "Rain?", "responses": ["Yes", "No"], "ranks": [2, 1], "strength": 3, "source": "s"},
    ]
    imported(tmp_path, rows)
    table = read(tmp_path / "out.parquet")
    export(tmp_path / "out.parquet", tmp_path / "trl.jsonl")
    pairs = [json.loads(line) for line in (tmp_path / "trl.jsonl").read_text().splitlines()]
    assert [(row["chosen"], row["rejected"], row["margin"]) for row in pairs] == [
        ("Yes", "No", None), ("Hm", "No", None), ("No", "Yes", 3.0),
    ]  # fmt: skip
    again, _ = of_file(tmp_path, tmp_path / "trl.jsonl", format="trl")
    assert [row["strength"] for row in again] == [None, None, 3.0]
    table_file = tmp_path / "table.parquet"
    table.write(table_file)
    export(table_file, tmp_path / "best.jsonl", to="best-of-n")
    best = [json.loads(line) for line in (tmp_path / "best.jsonl").read_text().splitlines()]
    assert [(row["chosen"], row["rejected"], row["num_correct"], row["subset"]) for row in best] == [
        (["Yes", "Hm"], ["No"], 2, None), (["No"], ["Yes"], 1, "s"),
    ]  # fmt: skip
    export(table_file, tmp_path / "votes.csv", to="votes")
    with open(tmp_path / "votes.csv", newline="") as file:
        votes = list(csv.DictReader(file))
    assert [(vote["response"], vote["rank"], vote["annotator"]) for vote in votes[:3]] == [
        ("Yes", "1", "ann"), ("No", "2", "ann"), ("Hm", "1", "ann"),
    ]  # fmt: skip
    export(table_file, tmp_path / "folder", to="datasets")
    assert datasets.load_from_disk(str(tmp_path / "folder"))["responses"] == table.column("responses")
    for to, out, expected in (("votes", "v.jsonl", "must end in .csv"), ("trll", "v.jsonl", "did you mean 'trl'")):
        with pytest.raises(PluralignError, match=expected):
            export(table_file, tmp_path / out, to=to)
