"""What an import may never do: lose a file, merge people, misread a vote, or ignore an option."""

import json
import subprocess
import sys

import pytest

from pluralign.judgments import read
from pluralign.judgments.pseudonyms import pseudonymizer

GOOD = {"prompt": "Tea?", "responses": ["yes", "no"], "ranks": [1, 2]}
KEY = "a key of sixteen bytes"


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def refused(run, expected, *words):
    code, _, err = run(*words)
    assert code == 2, err
    assert len(err.splitlines()) == 1
    assert expected in err


def test_rejects_never_replace_the_source_or_the_result(run, tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text(lines(GOOD, {**GOOD, "ranks": [0, 1]}))
    before = source.read_bytes()
    for rejects in (source, tmp_path / "out.jsonl", tmp_path / "." / "out.jsonl"):
        words = ["--out", tmp_path / "out.jsonl", "--on-error", "skip", "--rejects", rejects]
        refused(run, "--rejects", "import", source, *words)
        assert source.read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_rejects_are_json_that_every_reader_takes(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        lines(GOOD) + '{"prompt": "", "responses": ["a", "b"], "ranks": [1, 2], "weight": NaN}\n'
    )
    words = ["--out", tmp_path / "out.parquet", "--on-error", "skip", "--rejects", tmp_path / "bad.jsonl"]
    assert run("import", tmp_path / "in.jsonl", *words)[0] == 0

    def no_number(word):
        raise AssertionError(f"{word} is not JSON")

    (line,) = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert json.loads(line, parse_constant=no_number)["found"]["weight"] == "nan"


def test_people_without_a_name_do_not_become_one_person(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PLURALIGN_KEY", KEY)
    (tmp_path / "votes.csv").write_text("a,b,who\nyes,no,\nno,yes,\nyes,no,ann\nyes,no,7\n")
    (tmp_path / "map.yaml").write_text('responses: ["{a}", "{b}"]\nranks: [1, 2]\nannotator: "{who}"\n')
    mapping = ["--format", "mapping", "--mapping", tmp_path / "map.yaml"]
    assert run("import", tmp_path / "votes.csv", *mapping, "--out", tmp_path / "o.parquet", "--anonymize")[0] == 0
    name = pseudonymizer(KEY.encode())
    assert read(tmp_path / "o.parquet").column("annotator") == [None, None, name("ann"), name("7")]
    (tmp_path / "in.jsonl").write_text(lines({**GOOD, "annotator": ""}, {**GOOD, "annotator": 7}))
    assert run("import", tmp_path / "in.jsonl", "--out", tmp_path / "o.parquet", "--anonymize")[0] == 0
    assert read(tmp_path / "o.parquet").column("annotator") == [None, name("7")]
    for wrong in (["ann"], 1.5, True):
        (tmp_path / "in.jsonl").write_text(lines({**GOOD, "annotator": wrong}))
        words = ["import", tmp_path / "in.jsonl", "--out", tmp_path / "x.parquet", "--anonymize"]
        refused(run, "row 1, column 'annotator'", *words)


def test_the_source_name_fills_blanks_only(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(lines({**GOOD, "source": ""}, {**GOOD, "source": "own"}, GOOD))
    assert run("import", tmp_path / "in.jsonl", "--out", tmp_path / "o.parquet", "--source-name", "given")[0] == 0
    assert read(tmp_path / "o.parquet").column("source") == ["given", "own", "given"]


def test_files_of_different_scales_are_not_merged(run, tmp_path):
    for name, reward in (("a", 1), ("b", 5)):
        (tmp_path / f"{name}.jsonl").write_text(lines({"responses": [f"tea {name}"], "labels": ["good"]}))
        (tmp_path / f"{name}.jsonl.scale.yaml").write_text(f"name: mood\nlabels: {{good: {reward}, bad: 0}}\n")
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    refused(run, "label scale 'mood' differs", "import", *files, "--out", tmp_path / "o.parquet")


def test_a_file_without_labels_does_not_inherit_the_scale_of_the_one_it_replaces(run, tmp_path):
    (tmp_path / "labels.jsonl").write_text(lines({"responses": ["tea"], "labels": ["1"]}))
    (tmp_path / "ranks.jsonl").write_text(lines(GOOD))
    out = tmp_path / "out.jsonl"
    assert run("import", tmp_path / "labels.jsonl", "--label-scale", "binary", "--out", out)[0] == 0
    assert read(out).label_scale.name == "binary"
    assert run("import", tmp_path / "ranks.jsonl", "--out", out)[0] == 0
    assert read(out).label_scale is None


def polis(folder, name, votes):
    (folder / f"{name}.participants-votes.csv").write_text(votes)
    (folder / f"{name}.comments.csv").write_text("comment-id,comment-body\n0,More trees\n1,Fewer cars\n2,\n")
    (folder / f"{name}.summary.csv").write_text("topic,The town\nurl,none\n")
    return folder / f"{name}.participants-votes.csv"


HEADER = "participant,group-id,n-agree,n-disagree,0,1,2\n"


def test_polis_votes_that_cannot_be_read_are_named(run, tmp_path):
    out = ["--format", "polis", "--out", tmp_path / "o.parquet"]
    for votes, expected in (
        ("7,0,0,1,1,,\n", "row 1, column 'n-agree': found '0', but the row has 1 votes that mean agree"),
        ("7,0,1,0,1,2,\n", "row 1, column '1': found '2', expected 1 (agree), 0 (pass), -1 (disagree) or blank"),
        ("7,0,1,0,1,,0\n", "row 1, column '2': the statement has no text"),
    ):
        refused(run, expected, "import", polis(tmp_path, "town", HEADER + votes), *out)
    file = polis(tmp_path, "town", HEADER + "7,0,1,0,1,,0\n8,1,1,1,-1,1,\n")
    hint = "each vote is a judgment, for audits and dprm; to train on comparisons, import with --shape people"
    assert hint in run("import", file, *out, "--drop-columns", "2")[1]
    assert hint not in run("import", file, *out, "--drop-columns", "2", "--shape", "people")[1]
    (row,) = read(tmp_path / "o.parquet").rows()
    assert (row["prompt"], row["responses"], row["ranks"]) == ("The town", ["More trees", "Fewer cars"], [2, 1])
    assert (row["annotator"], row["group"], row["source"]) == ("town/8", "town/1", "town")
    (tmp_path / "town.comments.csv").write_text("comment-id,comment-body\n0,Same\n1,Same\n2,Other\n")
    refused(
        run,
        "row 2, column '1': the statement has the same text as statement 0",
        "import",
        file,
        *out,
        "--shape",
        "people",
    )
    (tmp_path / "town.summary.csv").unlink()
    refused(run, "give the topic with --prompt", "import", file, *out)


def test_participants_of_two_conversations_are_not_merged(run, tmp_path):
    files = [polis(tmp_path, name, HEADER + "7,0,1,0,1,,\n") for name in ("town", "village")]
    assert run("import", *files, "--format", "polis", "--out", tmp_path / "o.parquet")[0] == 0
    table = read(tmp_path / "o.parquet")
    assert table.column("annotator") == ["town/7", "village/7"]
    assert table.column("group") == ["town/0", "village/0"]


def test_an_option_of_another_format_is_not_ignored(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(lines(GOOD))
    (tmp_path / "map.yaml").write_text('responses: "{responses}"\nranks: "{ranks}"\n')
    mapping = ["--format", "mapping", "--mapping", tmp_path / "map.yaml"]
    for words in (
        ["--shape", "people"],
        ["--comments", "c.csv"],
        ["--field", "prompt=query"],
        ["--format", "argilla", "--prompt", "Tea?"],
        ["--format", "preflib", "--label-scale", "binary"],
        [*mapping, "--drop-columns", "prompt"],
        ["--key-file", tmp_path / "key"],
    ):
        refused(run, words[-2], "import", tmp_path / "in.jsonl", "--out", tmp_path / "o.parquet", *words)
    assert run("import", tmp_path / "in.jsonl", "--out", tmp_path / "o.parquet", *mapping)[0] == 0


def test_orders_of_preflib_are_imported_voter_by_voter(run, tmp_path):
    (tmp_path / "town.soi").write_text(
        "# TITLE: Drinks\n# NUMBER ALTERNATIVES: 3\n# NUMBER VOTERS: 4\n# ALTERNATIVE NAME 1: Tea\n"
        "# ALTERNATIVE NAME 2: Coffee\n# ALTERNATIVE NAME 3: Water\n3: 2,1\n1: 3\n"
    )
    words = ["import", tmp_path / "town.soi", "--format", "preflib", "--out", tmp_path / "o.parquet"]
    code, out, err = run(*words)
    assert code == 0, err
    assert "3 judgments from 2 rows" in out
    assert "left out: 1 voters who ranked a single alternative" in out
    assert read(tmp_path / "o.parquet").column("responses") == [["Tea", "Coffee"]] * 3
    assert run(*words, "--shape", "ballot", "--prompt", "Which?")[0] == 0
    table = read(tmp_path / "o.parquet")
    assert table.column("ranks") == [[2, 1, None]] * 3 + [[None, None, 1]]
    assert set(table.column("prompt")) == {"Which?"}
    refused(run, "--shape: found 'votes', expected ranked or ballot", *words, "--shape", "votes")
    (tmp_path / "town.soi").write_text((tmp_path / "town.soi").read_text().replace("VOTERS: 4", "VOTERS: 5"))
    refused(run, "town.soi, line 3: NUMBER VOTERS is 5, but the orders give 4", *words)


def test_comparisons_of_label_studio_are_imported_under_the_names_that_were_said(run, tmp_path, monkeypatch):
    monkeypatch.setenv("PLURALIGN_KEY", KEY)
    chosen = {"type": "pairwise", "from_name": "pw", "to_name": "a,b", "value": {"selected": "right"}}
    marks = [{"completed_by": {"id": 1, "email": "ann@x.org"}, "result": [chosen]}, {"was_cancelled": True}]
    task = {"data": {"query": "Tea?", "answer1": "yes", "second": "no"}, "annotations": marks}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    words = ["import", tmp_path / "export.json", "--format", "label-studio", "--out", tmp_path / "o.parquet"]
    refused(run, "row 1, column 'data.answer2': there is no 'answer2'", *words, "--field", "prompt=query")
    code, out, err = run(*words, "--field", "prompt=query", "--field", "right=second", "--anonymize")
    assert code == 0, err
    assert "left out: 1 annotations that were cancelled" in out
    (row,) = read(tmp_path / "o.parquet").rows()
    assert (row["prompt"], row["responses"], row["ranks"]) == ("Tea?", ["yes", "no"], [2, 1])
    assert row["annotator"] == pseudonymizer(KEY.encode())("ann@x.org")
    refused(run, "--field: found 'rigt=second', expected prompt=NAME", *words, "--field", "rigt=second")


def test_rankings_and_ratings_of_argilla_are_imported(run, tmp_path):
    given = {"better": [{"value": ["b", "a"], "user_id": "u1", "status": "submitted"}]}
    given["rating"] = [{"value": 4, "user_id": "u1", "status": "submitted"}, {"value": 1, "status": "draft"}]
    record = {"id": "1", "fields": {"prompt": "Tea?", "a": "yes", "b": "no"}, "responses": given}
    (tmp_path / "records.jsonl").write_text(lines(record))
    words = ["import", tmp_path / "records.jsonl", "--format", "argilla", "--out", tmp_path / "o.parquet"]
    fields = ["--field", "ranking=better", "--field", "rating=rating:a"]
    code, out, err = run(*words, *fields, "--label-scale", "1-to-5")
    assert code == 0, err
    assert "2 judgments from 1 rows" in out
    assert "left out: 1 draft responses" in out
    table = read(tmp_path / "o.parquet")
    assert (table.column("ranks"), table.column("labels")) == ([[1, 2], None], [None, ["4"]])
    assert table.column("source") == ["better", "rating"]
    refused(run, "no judgment is left of 1 rows", *words, "--field", "ranking=best")
    refused(run, "no label scale: name one with --label-scale", *words, *fields)


@pytest.mark.parametrize(
    ("mapping", "row", "expected"),
    [
        ('prompt: "{q"\n', {}, "map.yaml, line 1, key 'prompt': a single brace"),
        ('prompt: "{}"\n', {}, "map.yaml, line 1, key 'prompt': a single brace"),
        ("prompt: {q}\n", {}, "map.yaml, line 1, key 'prompt': found {'q': None}, expected text"),
        ('prompt: "Q: {q}"\n', {"q": ["a", "b"]}, "row 1, column 'q': found ['a', 'b'], expected text or a number"),
        ('scores: ["{s.0}", "{s.1}"]\n', {"s": [3, None]}, "row 1, column 'scores': response 2 has no score"),
        ('scores: "{s}"\n', {"s": [3]}, "row 1, column 'scores': found 1 scores for 2 responses"),
        ('tables: {t: {file: none.csv, key: k}}\nprompt: "{t[q].x}"\n', {"q": 1}, "line 1, key 'tables.t.file'"),
        ("pairwise: {values: '{s}', first: 1, second: 1}\n", {"s": [1]}, "'first', 'second' and 'tie' must differ"),
        ("source: &a [*a]\n", {}, "map.yaml: "),
    ],
)
def test_a_mapping_that_would_misread_is_refused(mapping, row, expected, run, tmp_path):
    (tmp_path / "in.jsonl").write_text(lines({"a": "yes", "b": "no", **row}))
    verdict = "" if "scores" in mapping or "pairwise" in mapping else "ranks: [1, 2]\n"
    (tmp_path / "map.yaml").write_text(mapping + 'responses: ["{a}", "{b}"]\n' + verdict)
    words = ["--format", "mapping", "--mapping", tmp_path / "map.yaml", "--out", tmp_path / "o.parquet"]
    refused(run, expected, "import", tmp_path / "in.jsonl", *words)
    assert not (tmp_path / "o.parquet").exists()


def test_values_mean_the_same_as_words_numbers_and_truth_values(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        lines(*[{"v": value} for value in (True, "true", 2, 2.0, "2", " 2 ", False, "no", None, "")])
    )
    (tmp_path / "map.yaml").write_text(
        'prompt: "{{v}}"\nresponses: ["a", "b"]\nchoice: "{v}"\n'
        "choices: {true: [1, 2], 2: [1, 1], false: [2, 1], no: [2, 1]}\n"
    )
    words = ["--format", "mapping", "--mapping", tmp_path / "map.yaml", "--out", tmp_path / "o.parquet"]
    code, out, err = run("import", tmp_path / "in.jsonl", *words)
    assert code == 0, err
    assert read(tmp_path / "o.parquet").column("ranks") == [[1, 2]] * 2 + [[1, 1]] * 4 + [[2, 1]] * 2
    assert set(read(tmp_path / "o.parquet").column("prompt")) == {"{v}"}
    assert "left out: 2 judgments without ranks or labels" in out


def test_chat_preferences_come_back(run, tmp_path):
    def chat(role, text):
        return [{"role": role, "content": text}]

    rows = [
        {"prompt": chat("user", f"{n}?"), "chosen": chat("assistant", "a"), "rejected": chat("assistant", "b")}
        for n in range(3)
    ]
    (tmp_path / "pairs.jsonl").write_text(lines(*rows))
    assert run("import", tmp_path / "pairs.jsonl", "--format", "trl", "--out", tmp_path / "t.parquet")[0] == 0
    for name in ("back.jsonl", "back.parquet"):
        assert run("export", tmp_path / "t.parquet", "--out", tmp_path / name)[0] == 0
        assert run("import", tmp_path / name, "--format", "trl", "--out", tmp_path / f"{name}.again.parquet")[0] == 0
        assert read(tmp_path / f"{name}.again.parquet").fingerprint == read(tmp_path / "t.parquet").fingerprint
    assert [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()] == rows


def test_export_of_nothing_but_ties_leaves_no_file(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(lines({**GOOD, "ranks": [1, 1]}))
    refused(run, "no ranking holds a strict pair", "export", tmp_path / "in.jsonl", "--out", tmp_path / "o.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_bad_row_after_many_good_ones_is_one_line_on_the_error_stream(tmp_path):
    good = json.dumps({"prompt": "Tea?", "responses": ["yes", "no"], "ranks": [1, 2]})
    (tmp_path / "rows.jsonl").write_text("\n".join([good] * 20_000 + ["{}"]))
    command = [
        sys.executable,
        "-m",
        "pluralign",
        "import",
        tmp_path / "rows.jsonl",
        "--out",
        tmp_path / "out.parquet",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "row 20001" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.parquet").exists()


def test_statements_with_one_text_do_not_share_their_votes(run, tmp_path):
    """Otherwise one person would vote twice on one item."""
    file = polis(tmp_path, "town", HEADER + "7,0,1,1,1,-1,\n")
    (tmp_path / "town.comments.csv").write_text("comment-id,comment-body\n0,Same\n1,Same\n2,Other\n")
    out = ["--format", "polis", "--out", tmp_path / "o.parquet"]
    refused(run, "row 1, column '1': the statement has the same text as statement 0", "import", file, *out)
    assert run("import", file, *out, "--drop-columns", "0,n-agree")[0] == 0
    assert read(tmp_path / "o.parquet").column("labels") == [["disagree"]]
