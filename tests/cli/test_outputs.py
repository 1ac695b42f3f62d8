"""No command writes over what it reads, takes a file or an option twice, or gives a file a false ending."""

import os
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

from pluralign.judgments import Judgments, read

ROWS = [{"prompt": f"Tea {n}?", "responses": ["yes", "no"], "ranks": [1, 2], "annotator": f"a{n}"} for n in range(5)]


@pytest.fixture
def data(tmp_path):
    Judgments.from_rows(ROWS).write(tmp_path / "votes.parquet")
    (tmp_path / "link.parquet").symlink_to(tmp_path / "votes.parquet")
    os.link(tmp_path / "votes.parquet", tmp_path / "hard.parquet")
    return tmp_path


def refused(run, expected, *words):
    code, said = complaints(run, *words)
    assert (code, len(said)) == (2, 1), said
    assert expected in said[0]


def complaints(run, *words):
    """The exit code and what is said beside progress."""
    code, _, err = run(*words)
    return code, [line for line in err.splitlines() if line.startswith("pluralign:") or "Traceback" in line]


@pytest.mark.parametrize("name", ["votes.parquet", "link.parquet", "hard.parquet", "./votes.parquet"])
def test_no_command_writes_over_its_input(name, data, run, tiny_model):
    before = (data / "votes.parquet").read_bytes()
    file, out = data / "votes.parquet", f"{data}/{name}"
    for words in (
        ["score", tiny_model, file, "--out", out],
        ["route", tiny_model, file, "--out", out],
        ["export", file, "--out", out],
        ["import", file, "--out", out],
        ["best-of", tiny_model, file, "--reward", tiny_model, "--out", out],
        ["votes", "update", out, file],
        [
            "votes",
            "simulate",
            file,
            "--out",
            out,
            "--model",
            tiny_model,
            "--personas",
            "p.yaml",
            "--label-scale",
            "binary",
        ],
    ):
        refused(run, "is an input file and would be overwritten", *words)
        assert (data / "votes.parquet").read_bytes() == before
    folder = data / "parts"
    folder.mkdir()
    (folder / "train.parquet").symlink_to(data / "votes.parquet")
    refused(run, "is an input file", "split", file, "--by", "prompt", "--out", folder)
    refused(run, "holds the input", "audit", file, "--out", data)
    refused(run, "holds the input", "evaluate", tiny_model, file, "--out", data)
    assert (data / "votes.parquet").read_bytes() == before


def test_training_does_not_write_over_its_model(data, run, tiny_model, tmp_path):
    weights = (tiny_model / "model.safetensors").read_bytes()
    config = data / "c.yaml"
    text = f"objective: plackett-luce\nmodel_name_or_path: {tiny_model}\ntrain_files: [{data / 'votes.parquet'}]\n"
    for out in (tiny_model, tiny_model.parent):
        config.write_text(text + f"output_dir: {out}\nreport_to: none\nuse_cpu: true\n")
        refused(run, "is or holds the model", "train", config)
    assert (tiny_model / "model.safetensors").read_bytes() == weights
    config.write_text(text + f"output_dir: {data}\nreport_to: none\nuse_cpu: true\n")
    refused(run, "holds the input", "train", config)


def test_the_ending_says_what_a_file_holds(data, run, tiny_model):
    file = data / "votes.parquet"
    for words in (["score", tiny_model, file], ["route", tiny_model, file]):
        refused(run, "the name must end in .parquet", *words, "--out", data / "s.jsonl")
    refused(run, "the name must end in .html", "report", data, "--out", data / "page.parquet")
    assert run("import", file, "--out", data / "OUT.JSONL.GZ")[0] == 0
    assert (data / "OUT.JSONL.GZ").read_bytes()[:2] == b"\x1f\x8b"
    assert read(data / "OUT.JSONL.GZ").column("id") == read(file).column("id")
    assert run("import", data / "OUT.JSONL.GZ", "--out", data / "Back.PARQUET")[0] == 0
    assert pq.read_table(data / "Back.PARQUET").num_rows == 5
    words = ["import", file, "--out", data / "o.parquet", "--on-error", "skip"]
    refused(run, "--rejects", *words, "--rejects", data / "bad.parquet")
    refused(run, "--rejects", *words, "--rejects", data / "bad.jsonl.gz")


def test_a_file_given_twice_is_refused(data, run):
    file = data / "votes.parquet"
    (data / "copy.parquet").write_bytes(file.read_bytes())
    for other in ("votes.parquet", "link.parquet", "hard.parquet", "copy.parquet"):
        expected = "has the same content as" if other == "copy.parquet" else "is given twice"
        refused(run, expected, "votes", "update", data / "state.parquet", file, data / other)
        refused(run, expected, "import", file, data / other, "--out", data / "o.parquet")
    assert not (data / "state.parquet").exists()
    assert run("votes", "update", data / "state.parquet", file)[1].startswith("new judgments: 5")


def test_an_option_given_twice_is_refused(data, run):
    file = data / "votes.parquet"
    refused(run, "--out is given twice", "export", file, "--out", data / "a.jsonl", "--out", data / "b.jsonl")
    words = ["votes", "update", data / "s.parquet", file, "--kind", "pairs", "--kind", "labels"]
    refused(run, "--kind is given twice", *words)
    (data / "c.yaml").write_text("objective: plackett-luce\n")
    refused(
        run,
        "is given twice: give it once; the values of a list",
        "train",
        data / "c.yaml",
        "--train_files",
        "a",
        "--train-files",
        "b",
    )


def test_a_terminal_that_cannot_print_gets_replacement_characters(tmp_path):
    text = "Grüße \u2192 \U0001f600"
    Judgments.from_rows([{**ROWS[0], "prompt": text}]).write(tmp_path / "votes.parquet")
    command = [sys.executable, "-m", "pluralign", "votes", "update", str(tmp_path / "s.parquet")]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*command, str(tmp_path / "votes.parquet")], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Grüße ? ?".encode("latin-1") in done.stdout


def test_odd_paths_are_one_line(data, run, tmp_path, tiny_model):
    file = data / "votes.parquet"
    (data / "loop").symlink_to(data / "loop")
    long = data / ("n" * 300 + ".parquet")
    for words, expected in (
        (["import", long, "--out", data / "o.parquet"], "too long"),
        (["import", file, "--out", long], "too long"),
        (["import", file, "--out", "."], "must end in"),
        (["import", data / "loop" / "x.parquet", "--out", data / "o.parquet"], "circle"),
        (["import", file, "--out", data / "loop" / "o.parquet"], "choose another place"),
        (["split", file, "--by", "prompt", "--out", data / "loop"], "choose another place"),
        (["split", file, "--by", "prompt", "--out", file], "is a file"),
        (["evaluate", tiny_model, file, "--out", data / "loop"], "choose another place"),
        (["audit", file, "--out", data / ("n" * 300)], "too long"),
        (["evaluate", data / ("n" * 300), file, "--out", data / "e"], "n" * 300),
        (["report", data / ("n" * 300), "--out", data / "r.html"], "too long"),
        (["votes", "update", long, file], "too long"),
        (["train", data / ("n" * 300)], "too long"),
        (["import", os.fsdecode(b"caf\xe9.jsonl"), "--out", data / "o.parquet"], "not UTF-8"),
    ):
        refused(run, expected, *words)


def test_a_damaged_page_of_parquet_is_one_line(data, run):
    whole = bytearray((data / "votes.parquet").read_bytes())
    for place in range(8, 600, 40):
        damaged = bytearray(whole)
        damaged[place : place + 8] = b"\xff" * 8
        (data / "damaged.parquet").write_bytes(damaged)
        code, _, err = run("import", data / "damaged.parquet", "--out", data / "o.parquet")
        assert code == 0 or (code == 2 and "damaged.parquet" in err and len(err.splitlines()) == 1), err


def test_numbers_out_of_range_are_one_line(data, run, tiny_model):
    file, out, timed = data / "votes.parquet", data / "out", data / "timed.parquet"
    Judgments.from_rows([{**row, "time": f"2026-01-0{day}T00:00:00Z"} for day, row in enumerate(ROWS, 1)]).write(timed)
    for words, expected in (
        (["split", file, "--by", "prompt", "--out", out, "--seed", "-1"], "--seed"),
        (["split", file, "--by", "prompt", "--out", out, "--seed", 2**32], "--seed"),
        (["split", file, "--by", "prompt", "--out", out, "--test", "nan"], "nan"),
        (["split", file, "--by", "prompt", "--out", out, "--test-units", "-3"], "-3"),
        (["audit", file, "--out", out, "--dimensions", "0"], "--dimensions"),
        (["audit", file, "--out", out, "--most-types", "0"], "--most-types"),
        (["audit", file, "--out", out, "--types", "-2"], "-2"),
        (["evaluate", tiny_model, file, "--out", out, "--samples", "0"], "--samples"),
        (["evaluate", tiny_model, file, "--out", out, "--beta", "nan", "--reference", tiny_model], "beta"),
        (["best-of", tiny_model, file, "--reward", "r", "--out", data / "b.parquet", "--n", "0"], "--n"),
        (["votes", "update", data / "s.parquet", file, "--strength", "1e400"], "strength"),
        (["votes", "update", data / "s.parquet", timed, "--decay", "0.5", "--window", "1e-9"], "window"),
        (["votes", "update", data / "s.parquet", timed, "--decay", "0.5", "--window", "1e300"], "window"),
        (["calibrate", tiny_model, file, "--folds", "1"], "--folds"),
    ):
        refused(run, expected, *words)


def test_judgments_of_weight_zero_are_no_traceback(data, run, tiny_model):
    Judgments.from_rows([{**row, "weight": 0.0} for row in ROWS]).write(data / "none.parquet")
    for words in (
        ["audit", data / "none.parquet", "--out", data / "audit", "--simulations", "0"],
        ["evaluate", tiny_model, data / "none.parquet", "--out", data / "evaluated"],
        ["votes", "update", data / "state.parquet", data / "none.parquet"],
        ["split", data / "none.parquet", "--by", "prompt", "--out", data / "parts"],
    ):
        code, said = complaints(run, *words)
        assert code in (0, 2), (words, said)
        assert code == 0 or len(said) == 1


def test_a_joined_table_is_not_written_over(run, tmp_path):
    (tmp_path / "votes.csv").write_text("one,two\n1,2\n")
    texts = '{"key": 1, "text": "yes"}\n{"key": 2, "text": "no"}\n'
    (tmp_path / "texts.jsonl").write_text(texts)
    (tmp_path / "map.yaml").write_text(
        'tables: {t: {file: texts.jsonl, key: key}}\nresponses: ["{t[one].text}", "{t[two].text}"]\nranks: [1, 2]\n'
    )
    words = ["import", tmp_path / "votes.csv", "--format", "mapping", "--mapping", tmp_path / "map.yaml"]
    refused(run, "is an input file", *words, "--out", tmp_path / "texts.jsonl")
    assert (tmp_path / "texts.jsonl").read_text() == texts
    assert run(*words, "--out", tmp_path / "out.jsonl")[0] == 0
