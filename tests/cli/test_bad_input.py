"""Bad input through the command line: one clear line, exit code 2, nothing left behind."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from pluralign.judgments import read

GOOD = {"prompt": "Tea?", "responses": ["yes", "no"], "ranks": [1, 2]}
LABELLED = {"prompt": "Tea?", "responses": ["yes"], "labels": ["agree"]}


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


BAD_ROWS = {
    "malformed line": (lines(GOOD) + '{"prompt": "Tea?", \n', [], "in.jsonl, row 2: malformed JSON"),
    "wrong type": (lines(GOOD, {**GOOD, "prompt": 5}), [], "row 2, column 'prompt': found 5, expected text"),
    "response of wrong type": (lines({**GOOD, "responses": ["a", 7]}), [], "row 1, column 'responses': found 7"),
    "unknown label": (
        lines(LABELLED, {**LABELLED, "labels": ["agre"]}),
        ["--label-scale", "agree-pass-disagree"],
        "row 2, column 'labels': 'agre' is not on the scale 'agree-pass-disagree' (agree, pass, disagree) (did you mean",
    ),
    "labels without a scale": (lines(LABELLED), [], "no label scale: name one with --label-scale"),
    "rank for no response": (lines(GOOD, {**GOOD, "ranks": [1, 2, 3]}), [], "column 'ranks': found 3 ranks for 2"),
    "rank from zero": (lines({**GOOD, "ranks": [0, 1]}), [], "column 'ranks': found 0, expected whole numbers from 1"),
    "no best rank": (lines({**GOOD, "ranks": [2, 3]}), [], "the best rank is 2, expected 1"),
    "duplicate response": (lines({**GOOD, "responses": ["yes", "yes"]}), [], "response 2 repeats response 1"),
    "empty response": (lines({**GOOD, "responses": ["yes", " "]}), [], "column 'responses': response 2 is empty"),
    "no rank and no label": (lines({"prompt": "", "responses": ["a"]}), [], "needs at least one of them"),
    "NaN": (lines(GOOD) + '{"prompt": "", "responses": ["a", "b"], "ranks": [NaN, 1]}\n', [], "row 2"),
    "bad weight": (lines({**GOOD, "weight": -1}), [], "column 'weight': found -1, expected a finite number"),
    "bad time": (lines({**GOOD, "time": "yesterday"}), [], "column 'time': found 'yesterday', expected a time like"),
    "id twice": (lines({**GOOD, "id": "x"}, {**GOOD, "id": "x"}), [], "row 2, column 'id': 'x' is already used"),
    "unknown column": (lines({**GOOD, "respones": []}), [], "unknown column 'respones' (did you mean 'responses'?)"),
    "mixed forms": (
        lines(GOOD, {**GOOD, "prompt": [{"role": "user", "content": "a"}],
                     "responses": [[{"role": "assistant", "content": text}] for text in "ab"]}),
        [],
        "row 2, column 'prompt': found messages where the rows before have text",
    ),
    "not UTF-8": (lines(GOOD).encode() + b'{"prompt": "caf\xe9"}\n', [], "row 2: byte 16 is not UTF-8"),
    "empty file": ("", [], "in.jsonl: the file is empty"),
    "only blank lines": ("\n\n", [], "in.jsonl: the file has no rows"),
    "lone surrogate": ('{"prompt": "\\ud800", "responses": ["a", "b"], "ranks": [1, 2]}\n', [], "not valid UTF-8"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_stops_the_import_with_its_place(name, run, tmp_path):
    content, options, expected = BAD_ROWS[name]
    source = tmp_path / "in.jsonl"
    source.write_bytes(content if isinstance(content, bytes) else content.encode())
    code, _, err = run("import", source, "--out", tmp_path / "out.parquet", *options)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert expected in err
    assert str(source) in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_other_formats_name_their_places(run, tmp_path):
    (tmp_path / "votes.csv").write_text("a,b,who,score_a,score_b\nyes,no,ann,1,nan\n")
    (tmp_path / "latin.csv").write_bytes(b"a,b,who,score_a,score_b\ncaf\xe9,no,ann,1,2\n")
    (tmp_path / "short.csv").write_text("a,b,who,score_a,score_b\nyes,no\n")
    (tmp_path / "map.yaml").write_text(
        'responses: ["{a}", "{b}"]\nscores: ["{score_a}", "{score_b}"]\nannotator: "{who}"\n'
    )
    (tmp_path / "column.yaml").write_text('responses: ["{a}", "{b}"]\nscores: ["{score_a}", "{scoreb}"]\n')
    (tmp_path / "key.yaml").write_text('respones: ["{a}", "{b}"]\n')
    (tmp_path / "kind.yaml").write_text('responses: ["{a}", "{b}"]\nchoice: "{who}"\nchoices: {ann: first}\n')
    (tmp_path / "pairs.jsonl").write_text(lines({"prompt": "Tea?", "chosen": "yes"}))
    (tmp_path / "hh.jsonl").write_text(lines({"chosen": "hello", "rejected": "bye"}))
    before = sorted(path.name for path in tmp_path.iterdir())
    for file, options, expected in (
        ("votes.csv", ["mapping", "--mapping", "map.yaml"], "votes.csv, row 1, column 'scores': found 'nan'"),
        (
            "latin.csv",
            ["mapping", "--mapping", "map.yaml"],
            "latin.csv, row 1, column 'a': bytes that are not UTF-8",
        ),
        ("short.csv", ["mapping", "--mapping", "map.yaml"], "short.csv, row 1: found 2 fields, expected 5"),
        ("votes.csv", ["mapping", "--mapping", "column.yaml"], "column.yaml, line 2"),
        ("votes.csv", ["mapping", "--mapping", "column.yaml"], "unknown column 'scoreb' (did you mean 'score_b'?)"),
        (
            "votes.csv",
            ["mapping", "--mapping", "key.yaml"],
            "key.yaml, line 1, key 'respones': unknown key 'respones' (did",
        ),
        ("votes.csv", ["mapping", "--mapping", "kind.yaml"], "expected ranks like [1, 2]"),
        ("votes.csv", ["mapping", "--mapping", "none.yaml"], "none.yaml: no such file"),
        ("votes.csv", ["mapping"], "needs --mapping"),
        (
            "votes.csv",
            ["maping"],
            "(did you mean 'mapping'?)",
        ),
        ("pairs.jsonl", ["trl"], "row 1, column 'rejected': is missing"),
        ("hh.jsonl", ["hh-rlhf"], "share no turn"),
        ("none.csv", ["polis"], "none.csv: no such file"),
    ):
        options = [str(tmp_path / word) if word.endswith(".yaml") else word for word in options]
        code, _, err = run("import", tmp_path / file, "--out", tmp_path / "out.parquet", "--format", *options)
        assert (code, len(err.splitlines())) == (2, 1), err
        assert expected in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_cut_off_gzip_file_is_named(run, tmp_path):
    whole = gzip.compress(lines(*[{**GOOD, "prompt": f"{n}"} for n in range(5000)]).encode())
    (tmp_path / "in.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    code, _, err = run("import", tmp_path / "in.jsonl.gz", "--out", tmp_path / "out.parquet")
    assert code == 2
    assert "in.jsonl.gz: the gzip file is damaged or cut off after row" in err
    (tmp_path / "in.parquet").write_bytes(b"PAR1 not at all")
    code, _, err = run("import", tmp_path / "in.parquet", "--out", tmp_path / "out.parquet")
    assert (code, "not a readable Parquet file" in err) == (2, True)
    assert not (tmp_path / "out.parquet").exists()


def test_places_that_cannot_be_written_are_named(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(lines(GOOD))
    (tmp_path / "file").write_text("in the way")
    for out, expected in (
        (tmp_path / "file" / "out.parquet", "a part of the path is a file"),
        (tmp_path, "must end in .parquet"),
        (tmp_path / "out.csv", "must end in .parquet"),
        (tmp_path / "in.jsonl", "is an input file"),
    ):
        code, _, err = run("import", tmp_path / "in.jsonl", "--out", out)
        assert (code, expected in err) == (2, True), err


def test_a_full_disk_is_one_clear_line_and_leaves_nothing(tmp_path):
    """A limit on the file size stands in for the full disk: both refuse a write in the middle."""
    (tmp_path / "in.jsonl").write_text(lines(*[{**GOOD, "prompt": os.urandom(60).hex()} for _ in range(20000)]))
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
        f"sys.argv = ['pluralign', 'import', {str(tmp_path / 'in.jsonl')!r}, '--out', {str(tmp_path / 'out.parquet')!r}];"
        "from pluralign.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "out.parquet" in done.stderr
    assert "choose another place" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_skipped_rows_are_written_out_and_counted(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(
        lines(GOOD, {**GOOD, "ranks": [0, 1]}) + "{oops\n" + lines({**GOOD, "prompt": "b"})
    )
    options = ["--on-error", "skip", "--rejects", tmp_path / "bad.jsonl"]
    code, out, _ = run("import", tmp_path / "in.jsonl", "--out", tmp_path / "out.parquet", *options)
    assert code == 0
    assert "2 judgments from 4 rows" in out
    assert "rejected: 2" in out
    rejected = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [(row["row"], row["column"]) for row in rejected] == [(2, "ranks"), (3, None)]
    assert rejected[0]["found"]["ranks"] == [0, 1]
    assert rejected[1]["found"].startswith("{oops")
    assert run("import", tmp_path / "in.jsonl", "--out", tmp_path / "x.parquet", "--on-error", "skip")[0] == 2

    (tmp_path / "in.jsonl").write_text(lines({**GOOD, "ranks": [0, 1]}))
    (tmp_path / "out.parquet").unlink()
    (tmp_path / "bad.jsonl").unlink()
    code, _, err = run("import", tmp_path / "in.jsonl", "--out", tmp_path / "out.parquet", *options)
    assert code == 2
    assert "no judgment is left of 1 rows: '1 rejected for ranks'" in err
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


@pytest.mark.parametrize("objective", ["plackett-luce", "em-dpo", "more"])
def test_no_judgment_left_after_the_filter_of_training(run, tmp_path, tiny_model, monkeypatch, objective):
    """It is said at once, with the flag, before types are sought."""
    monkeypatch.setattr("pluralign.scoring.annotator_types.findings", lambda *given, **options: pytest.fail("sought"))
    (tmp_path / "in.jsonl").write_text(lines({"prompt": "", "responses": ["alone"], "ranks": [1]}))
    (tmp_path / "c.yaml").write_text(
        f"objective: {objective}\nmodel_name_or_path: {tiny_model}\ntrain_files: [{tmp_path / 'in.jsonl'}]\n"
        f"output_dir: {tmp_path / 'run'}\nreport_to: none\nuse_cpu: true\n"
    )
    code, _, err = run("train", tmp_path / "c.yaml")
    assert code == 2
    assert "no judgment is left: 1 row(s) rank nothing" in err
    assert "--shape people" in err


def test_an_import_killed_in_the_middle_gives_the_same_file_afterwards(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text(lines(*[{**GOOD, "prompt": f"question {n}"} for n in range(60000)]))
    command = [sys.executable, "-m", "pluralign", "import", str(source), "--out"]
    subprocess.run([*command, str(tmp_path / "calm.parquet")], check=True, capture_output=True)
    process = subprocess.Popen([*command, str(tmp_path / "shaken.parquet")], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not any(partial.stat().st_size > 0 for partial in tmp_path.glob(".shaken.parquet.*.partial")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(tmp_path.glob(".shaken.parquet.*.partial"))
    assert not (tmp_path / "shaken.parquet").exists()
    subprocess.run([*command, str(tmp_path / "shaken.parquet")], check=True, capture_output=True)
    assert (tmp_path / "shaken.parquet").read_bytes() == (tmp_path / "calm.parquet").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_pseudonyms_are_keyed_and_stable(run, tmp_path, monkeypatch):
    (tmp_path / "in.jsonl").write_text(
        lines(*[{**GOOD, "prompt": str(n), "annotator": name} for n, name in enumerate("aab")])
    )
    names = {}
    for key in ("a key of sixteen bytes", "another key of many bytes"):
        monkeypatch.setenv("PLURALIGN_KEY", key)
        assert run("import", tmp_path / "in.jsonl", "--out", tmp_path / "out.parquet", "--anonymize")[0] == 0
        names[key] = read(tmp_path / "out.parquet").column("annotator")
    first, second = names.values()
    assert first[0] == first[1] != first[2]
    assert not set(first) & set(second)
    assert not set(first) & {"a", "b"}
    for key, expected in (("short", "fewer than 16 bytes"), ("", "--anonymize needs a key")):
        monkeypatch.setenv("PLURALIGN_KEY", key)
        code, _, err = run("import", tmp_path / "in.jsonl", "--out", tmp_path / "out.parquet", "--anonymize")
        assert (code, expected in err) == (2, True)


def test_export_says_what_is_lost_and_comes_back(run, tmp_path):
    rows = [{"prompt": f"{n}?", "chosen": "yes", "rejected": "no"} for n in range(3)]
    (tmp_path / "pairs.jsonl").write_text(lines(*rows))
    assert run("import", tmp_path / "pairs.jsonl", "--format", "trl", "--out", tmp_path / "table.parquet")[0] == 0
    assert run("export", tmp_path / "table.parquet", "--out", tmp_path / "back.jsonl")[0] == 0
    assert [json.loads(line) for line in (tmp_path / "back.jsonl").read_text().splitlines()] == rows
    ranking = {"responses": ["a", "b", "c", "d"], "ranks": [1, 1, 2, None], "annotator": "ann", "weight": 2.0}
    (tmp_path / "r.jsonl").write_text(lines(ranking))
    code, out, _ = run("export", tmp_path / "r.jsonl", "--out", tmp_path / "r-out.jsonl")
    assert code == 0
    assert "5 rows" in out
    for lost in ("1 tied pairs", "1 values of 'annotator'", "1 weights other than 1"):
        assert f"not carried: {lost}" in out
