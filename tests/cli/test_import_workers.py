"""`import --workers`: what several processes make of files is what one makes of them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.core.locks import file_lock
from pluralign.judgments import read
from pluralign.workflows.importing import import_files

TEA = {"prompt": "Tea?", "responses": ["yes", "no"], "ranks": [1, 2]}
CHAT = {**TEA, "prompt": [], "responses": [[{"role": "assistant", "content": text}] for text in ("yes", "no")]}


def lines(*rows):
    return "".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows)


def people(count):
    return [{**TEA, "annotator": f"p{number}", "ranks": [1 + number % 2, 2 - number % 2]} for number in range(count)]


def outcome(sources, out, workers, **options):
    """The rows in order, the summary, and the rejects of an import, or its message."""
    rejects = out.with_name(f"{out.name}.rejects.jsonl")
    options |= {"rejects": rejects} if options.get("on_error") == "skip" else {}
    try:
        result = import_files(sources, out, workers=workers, **options)
    except PluralignError as fault:
        assert not out.exists()
        assert not list(out.parent.glob(f".{out.name}*"))
        return str(fault)
    rows = list(read(out).rows())
    summary = [line.replace(str(out), "OUT").replace(str(rejects), "REJECTS") for line in result.summary()]
    return rows, summary, rejects.read_text() if rejects.exists() else ""


def same(tmp_path, sources, **options):
    """Check that one file, one worker and three workers agree, and give the outcome."""
    alone = outcome(sources, tmp_path / "alone.parquet", None, **options)
    for workers in (1, 3):
        out = tmp_path / f"of-{workers}"
        found = outcome(sources, out, workers, **options)
        assert found == alone
    return alone


MIXED = [
    *people(4),
    "\n",
    {**TEA, "ranks": [2, 1]},
    {**TEA, "ranks": [0, 1]},
    "{not json\n",
    TEA,
    {**TEA, "id": "own"},
    "   \n",
    TEA,
    CHAT,
    {**TEA, "ranks": [3, 1]},
    {**TEA, "id": "own", "ranks": [2, 1]},
    TEA,
    {**TEA, "weight": 2},
    *people(2),
]
"""Rows that repeat, also with ids of their own, and rows that are wrong in several ways, among good ones."""


@pytest.mark.parametrize("order", [1, -1])
def test_several_processes_give_the_rows_ids_and_rejects_of_one(tmp_path, order):
    (tmp_path / "in.jsonl").write_text(lines(*MIXED[::order]))
    rows, summary, rejects = same(tmp_path, [tmp_path / "in.jsonl"], on_error="skip")
    assert len(rows) == 13
    assert sum(row["id"].endswith("-3") for row in rows) == 1
    assert summary[1].startswith("rejected: 4 (1 for ")
    assert len(list((tmp_path / "of-3").iterdir())) >= 3
    numbers = [json.loads(line)["row"] for line in rejects.splitlines()]
    assert numbers == ([7, 8, 13, 15] if order == 1 else [7, 10, 12, 13])


def test_the_first_fault_of_a_file_is_named_with_its_row(tmp_path):
    own = [{**row, "id": str(number)} for number, row in enumerate(people(9))]
    cases = {
        "row 11, column 'ranks'": [*people(10), {**TEA, "ranks": [0, 1]}, *people(2), "{\n"],
        "row 10: malformed JSON": [*people(9), "{\n", {**TEA, "ranks": [0, 1]}],
        "row 10, column 'id': '1' is already used": [*own, {**own[1], "ranks": [1, 1]}, {**TEA, "ranks": [0, 1]}],
        "row 8, column 'prompt': found messages where": [*people(7), CHAT, "{\n"],
    }
    for expected, rows in cases.items():
        (tmp_path / "in.jsonl").write_text(lines(*rows))
        assert expected in same(tmp_path, [tmp_path / "in.jsonl"]), expected


def test_a_csv_file_is_cut_between_rows_and_not_within_quotes(tmp_path):
    rows = [f'"Tea,\n""or"" milk {number}?",yes,no,{"left" if number % 3 else "?"},p{number}\n' for number in range(12)]
    (tmp_path / "in.csv").write_text("question,left,right,winner,who\n" + "".join(rows))
    (tmp_path / "map.yaml").write_text(
        'prompt: "{question}"\nresponses: ["{left}", "{right}"]\nchoice: "{winner}"\nannotator: "{who}"\n'
        "choices: {left: [1, 2], right: [2, 1]}\n"
    )
    options = {"mapping": str(tmp_path / "map.yaml"), "source": "town", "on_error": "skip"}
    found, _, rejects = same(tmp_path, [tmp_path / "in.csv"], **options)
    assert [row["prompt"] for row in found][:2] == ['Tea,\n"or" milk 1?', 'Tea,\n"or" milk 2?']
    assert [json.loads(line)["row"] for line in rejects.splitlines()] == [1, 4, 7, 10]
    (tmp_path / "in.csv").write_text((tmp_path / "in.csv").read_text().replace("yes,no", 'y"es,no', 1))
    same(tmp_path, [tmp_path / "in.csv"], **options)  # a quote within a field: read as one part


def test_several_files_are_dealt_out_whole_where_they_cannot_be_cut(tmp_path):
    import gzip

    everyone = people(12)
    (tmp_path / "a.jsonl").write_text(lines(*everyone[:5]))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(*everyone[5:8]).encode()))
    pq.write_table(read(everyone[8:]).table, tmp_path / "c.parquet")
    rows, *_ = same(tmp_path, [tmp_path / name for name in ("a.jsonl", "b.jsonl.gz", "c.parquet")])
    assert [row["annotator"] for row in rows] == [f"p{number}" for number in range(12)]


def test_a_folder_of_an_earlier_import_is_replaced_and_others_are_kept(run, tmp_path):
    (tmp_path / "in.jsonl").write_text(lines(*people(6)))
    out = tmp_path / "out"
    assert run("import", tmp_path / "in.jsonl", "--out", out, "--workers", 2)[0] == 0
    (tmp_path / "in.jsonl").write_text(lines(*people(2)))
    assert run("import", tmp_path / "in.jsonl", "--out", out, "--workers", 1)[0] == 0
    assert len(read(out)) == 2
    for words, expected in (
        (["in.jsonl", "--out", "own", "--workers", 2], "own: holds notes.txt, which would be lost"),
        (["in.jsonl", "--out", "x.parquet", "--workers", 2], "--workers writes a folder of Parquet files"),
        ([out / "part-00000.parquet", "--out", out, "--workers", 2], "is an input folder"),
        (["in.jsonl", "--out", "x", "--workers", 0], "--workers"),
    ):
        (tmp_path / "own").mkdir(exist_ok=True)
        (tmp_path / "own" / "notes.txt").write_text("mine")
        names = [tmp_path / word if word in ("in.jsonl", "own", "x", "x.parquet") else word for word in words]
        code, _, message = run("import", *names)
        assert code == 2
        assert expected in message
    with file_lock(out):
        code, _, message = run("import", tmp_path / "in.jsonl", "--out", out, "--workers", 1)
    assert code == 2
    assert "another process is writing there" in message
    assert len(read(out)) == 2


def worker_of(process):
    """One of the processes that a process has started to work for it."""
    children = map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    return next(child for child in children if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text())


def importing(tmp_path):
    """A running import with three workers that are busy."""
    tmp_path.joinpath("in.jsonl").write_text(lines(TEA) * 400_000)
    words = ["import", tmp_path / "in.jsonl", "--out", tmp_path / "out", "--workers", "3"]
    command = [sys.executable, "-c", "from pluralign.cli.main import main; main()", *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob(".out.*.partial/.part-*")):
        time.sleep(0.02)
    assert process.poll() is None
    return process


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="finds the workers in /proc")
def test_a_killed_worker_ends_the_import_with_one_line(tmp_path):
    process = importing(tmp_path)
    os.kill(worker_of(process.pid), signal.SIGKILL)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 2
    assert message.count("\n") == 1
    assert "one of 3 processes has ended before its work was done: it was killed" in message
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_killed_import_leaves_nothing_finished_and_is_cleaned_up_by_the_next(tmp_path):
    process = importing(tmp_path)
    process.kill()
    process.wait()
    assert not (tmp_path / "out").exists()
    assert list(tmp_path.glob(".out.*.partial"))
    tmp_path.joinpath("in.jsonl").write_text(lines(*people(6)))
    import_files([tmp_path / "in.jsonl"], tmp_path / "out", workers=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out"]
