"""`votes update` through the command line."""

import json
import subprocess
import sys

from pluralign.judgments.votes import read_votes


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_update_makes_a_state_and_says_what_moved(run, tmp_path):
    row = {"prompt": "Tea?", "responses": ["yes", "no"], "ranks": [1, 2]}
    pairs, state = write(tmp_path / "pairs.jsonl", row, row, {**row, "ranks": [1, 1]}), tmp_path / "state.parquet"
    code, out, err = run("votes", "update", state, pairs, "--strength", "4", "--most", "5")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "new judgments: 3",
        "already known: 0",
        "new items: 1 of 1",
        "prior: counts as 4 votes an item",
        "moved most (total variation, votes, mean before -> after):",
        "  0.143  3 votes  A 0.50 -> 0.36, B 0.50 -> 0.64  'Tea?' | 'no' | 'yes'",
        f"created {state}",
    ]
    code, out, _ = run("votes", "update", state, pairs)
    assert code == 0
    assert out.splitlines()[1] == "already known: 3"
    assert out.splitlines()[-1] == f"nothing new; {state} is unchanged"


def test_every_option_reaches_the_state(run, tmp_path):
    row = {"prompt": "p", "responses": ["a", "b"], "labels": ["1", "0"], "annotator": "w", "time": "2024-03-01"}
    votes, state = write(tmp_path / "votes.jsonl", row), tmp_path / "state.parquet"
    write(tmp_path / "people.jsonl", {"annotator": "w", "region": "north"})
    write(tmp_path / "prior.jsonl", {"prompt": "p", "response": "a", "other": "b", "A": 0.25, "B": 0.75})
    (tmp_path / "shares.yaml").write_text("north: 0.5\nsouth: 0.5\n")
    code, out, err = run(
        "votes", "update", state, votes, "--prior", tmp_path / "prior.jsonl", "--strength", "8", "--decay", "0.5",
        "--window", "30", "--origin", "2024-01-01", "--shares", tmp_path / "shares.yaml", "--strata", "region",
        "--annotators", tmp_path / "people.jsonl", "--label-scale", "binary", "--kind", "pairs",
        "--pair-votes", "full", "--most", "0",
    )  # fmt: skip
    assert (code, err) == (0, "")
    assert "no vote of stratum 'south': 1 of 1 items (its share went to the others)" in out
    assert "moved most" not in out
    found = read_votes(state)
    assert found.start.tolist() == [[2, 6]]
    assert found.window.tolist() == [2]
    assert found.settings.as_dict() | {"prior": None} == {
        "strength": 8.0, "decay": 0.5, "window_days": 30.0, "origin": "2024-01-01T00:00:00+00:00",
        "shares": {"north": 0.5, "south": 0.5}, "strata": "region", "pair_votes": "full", "prior": None,
    }  # fmt: skip


def test_bad_input_is_one_line_and_code_2(run, tmp_path):
    row = {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}
    votes, state = write(tmp_path / "votes.jsonl", row), tmp_path / "state.parquet"
    for words, expected in (
        (["--decay", "0.5", "--window", "7"], "1 of 1 judgments with a vote have no time"),
        (["--decay", "0.5"], "a decay under 1 needs a window"),
        (["--kind", "labels"], "no labels and no label scale"),
        (["--shares", tmp_path / "none.yaml"], "none.yaml: no such file"),
    ):
        code, _, err = run("votes", "update", state, votes, *words)
        assert code == 2
        assert len(err.splitlines()) == 1
        assert expected in err
        assert not state.exists()


def test_an_update_loads_no_heavy_library(tmp_path):
    votes = write(tmp_path / "votes.jsonl", {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]})
    words = ["votes", "update", str(tmp_path / "state.parquet"), str(votes)]
    code = f"import sys; sys.argv = ['pluralign', *{words!r}]\n"
    code += "from pluralign.cli.main import main\ntry: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
    code += "heavy = {'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
