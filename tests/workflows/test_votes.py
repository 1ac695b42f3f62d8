"""`update_votes`: what is fixed, what is refused, what moved, and an update that is killed."""

import json
import multiprocessing
import signal
import subprocess
import sys

import numpy as np
import pytest

import pluralign
from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments
from pluralign.judgments.votes import read_votes, votes_of
from pluralign.workflows.votes.update import update_votes

MOOD = BUILT_IN_SCALES["agree-pass-disagree"]


def rows(votes, **more):
    """Judgments from `{response: labels}`."""
    return [
        {"prompt": "Topic", "responses": [text], "labels": [label], **more}
        for text, labels in votes.items()
        for label in labels
    ]


@pytest.fixture
def files(tmp_path):
    def write(name, made):
        Judgments.from_rows(made, MOOD).write(tmp_path / name)
        return tmp_path / name

    return write


def test_files_in_any_order_give_the_state_of_all_at_once(files, tmp_path):
    first = rows({"a": ["agree"] * 3, "b": ["pass"]})
    second = rows({"b": ["disagree"] * 5, "c": ["agree"]})
    one, two = files("one.parquet", first), files("two.parquet", second)
    done = pluralign.update_votes(tmp_path / "s.parquet", [one, two])
    pluralign.update_votes(tmp_path / "t.parquet", two)
    pluralign.update_votes(tmp_path / "t.parquet", one)
    s, t = read_votes(tmp_path / "s.parquet"), read_votes(tmp_path / "t.parquet")
    whole = votes_of(Judgments.from_rows(first + second, MOOD))
    for key, place in whole.place.items():
        for found in (s, t):
            np.testing.assert_allclose(found.parameters[found.place[key]], whole.parameters[place], atol=1e-12)
    assert done.created
    assert (done.merged.new, done.merged.new_items, done.items) == (10, 3, 3)


def test_the_same_file_twice_leaves_the_bytes(files, tmp_path):
    file, state = files("one.parquet", rows({"a": ["agree"] * 3})), tmp_path / "s.parquet"
    pluralign.update_votes(state, file)
    before = state.read_bytes(), state.stat().st_mtime_ns
    again = pluralign.update_votes(state, file)
    assert (again.merged.new, again.merged.known, again.moved) == (0, 3, [])
    assert (state.read_bytes(), state.stat().st_mtime_ns) == before
    assert f"nothing new; {state} is unchanged" in again.summary()


def test_what_moved_most_comes_first(files, tmp_path):
    state = tmp_path / "s.parquet"
    pluralign.update_votes(state, files("one.parquet", rows({"a": ["agree"] * 3, "b": ["pass"] * 6})))
    done = pluralign.update_votes(state, files("two.parquet", rows({"a": ["disagree"] * 3, "c": ["agree"]})))
    # a: (4, 1, 1) / 6 to (4, 1, 4) / 9; c: (1, 1, 1) / 3 to (2, 1, 1) / 4; b has no new vote.
    assert [one.response for one in done.moved] == ["a", "c"]
    assert done.moved[0].total_variation == pytest.approx(4 / 9 - 1 / 6)
    assert done.moved[1].total_variation == pytest.approx(1 / 2 - 1 / 3)
    assert done.moved[0].before["disagree"] == pytest.approx(1 / 6)
    assert done.moved[0].after["disagree"] == pytest.approx(4 / 9)
    assert done.moved[0].votes == 6
    assert done.merged.new_items == 1
    assert "  0.278  6 votes  disagree 0.17 -> 0.44, agree 0.67 -> 0.44" in "\n".join(done.summary())
    done = pluralign.update_votes(state, files("three.parquet", rows({"d": ["agree"], "e": ["pass"] * 2})), most=1)
    assert [one.response for one in done.moved] == ["e"]


def test_settings_are_fixed_by_the_first_update(files, tmp_path):
    state = tmp_path / "s.parquet"
    made = rows({"a": ["agree"]}, time="2024-01-01", group="x")
    one, two = files("one.parquet", made), files("two.parquet", rows({"b": ["pass"]}, time="2024-02-01", group="y"))
    (tmp_path / "shares.yaml").write_text("x: 0.75\ny: 0.25\n")
    prior = [{"prompt": "Topic", "response": "a", "agree": 1, "pass": 2, "disagree": 1}]
    (tmp_path / "prior.jsonl").write_text(json.dumps(prior[0]))
    (tmp_path / "other.jsonl").write_text(json.dumps({**prior[0], "agree": 2}))
    settings = {
        "strength": 5.0, "decay": 0.5, "window_days": 7.0, "origin": "2024-01-01", "prior": tmp_path / "prior.jsonl",
        "shares": tmp_path / "shares.yaml", "kind": "labels", "pair_votes": "full",
    }  # fmt: skip
    done = pluralign.update_votes(state, one, **settings)
    assert done.dropped == {"y": 1}
    before = state.read_bytes()
    for name, value, expected in (
        ("strength", 6.0, "strength (5.0 before, 6.0 now)"),
        ("decay", 0.9, "decay (0.5 before, 0.9 now)"),
        ("window_days", 8.0, "window_days (7.0 before, 8.0 now)"),
        ("origin", "2024-01-02", "origin ("),
        ("shares", {"x": 0.5, "y": 0.5}, "shares ("),
        ("strata", "region", "strata ('group' before, 'region' now)"),
        ("kind", "pairs", "kind ('labels' before, 'pairs' now)"),
        ("pair_votes", "shared", "pair_votes ('full' before, 'shared' now)"),
        ("prior", tmp_path / "other.jsonl", "prior (another before,"),
    ):
        with pytest.raises(PluralignError) as complaint:
            pluralign.update_votes(state, two, **{**settings, name: value})
        assert expected in str(complaint.value)
        assert "other settings" in str(complaint.value)
    assert state.read_bytes() == before
    pluralign.update_votes(state, two, **settings)  # said again
    again = pluralign.update_votes(state, two)  # or left out
    assert again.merged.known == 1
    found = read_votes(state)
    np.testing.assert_allclose(found.start[found.place["Topic", "a"]], [1.25, 2.5, 1.25])


def test_labels_without_a_scale_are_read_by_the_states(files, tmp_path):
    state = tmp_path / "s.parquet"
    pluralign.update_votes(state, files("one.parquet", rows({"a": ["agree"]})))
    file = tmp_path / "bare.jsonl"
    file.write_text(json.dumps(rows({"a": ["pass"]})[0]))
    assert pluralign.update_votes(state, file).merged.new == 1


def test_strata_of_a_table_of_annotators(files, tmp_path):
    made = [{**row, "annotator": f"w{i}"} for i, row in enumerate(rows({"a": ["agree"] * 3 + ["disagree"]}))]
    (tmp_path / "people.csv").write_text("annotator,region\nw0,north\nw1,north\nw2,north\nw3,south\n")
    settings = {"shares": {"north": 1, "south": 1}, "strata": "region"}
    file = files("one.parquet", made)
    pluralign.update_votes(tmp_path / "s.parquet", file, **settings, annotators=tmp_path / "people.csv")
    np.testing.assert_allclose(read_votes(tmp_path / "s.parquet").crowd, [[1.5, 0, 1.5]], atol=1e-12)
    with pytest.raises(PluralignError, match="give that table"):
        pluralign.update_votes(tmp_path / "t.parquet", file, **settings)
    (tmp_path / "people.csv").write_text("annotator,regoin\nw0,north\n")
    with pytest.raises(PluralignError, match="row 1: has no column 'region' .did you mean 'regoin'"):
        pluralign.update_votes(tmp_path / "t.parquet", file, **settings, annotators=tmp_path / "people.csv")
    (tmp_path / "people.csv").write_text("annotator,region\nw0,north\nw0,south\n")
    with pytest.raises(PluralignError, match="row 2, column 'region': 'w0' has 'north'"):
        pluralign.update_votes(tmp_path / "t.parquet", file, **settings, annotators=tmp_path / "people.csv")
    assert not (tmp_path / "t.parquet").exists()


KILL = """
import os, signal, sys
import pluralign.core.files as files
import pyarrow.parquet as pq
import pluralign

def die(*_): os.kill(os.getpid(), signal.SIGKILL)

where, state, votes = sys.argv[1:]
if where == "before the rename":
    files.os.replace = die
elif where == "half written":
    whole = pq.write_table
    def half(table, out, **options):
        whole(table, out, **options)
        out.truncate(out.tell() // 2)
        out.flush()
        die()
    pq.write_table = half
else:
    rename = os.replace
    files.os.replace = lambda *names: (rename(*names), die())
pluralign.update_votes(state, votes)
"""


@pytest.mark.parametrize("where", ["half written", "before the rename", "after the rename"])
def test_a_killed_update_leaves_the_old_state_or_the_new_one(where, files, tmp_path):
    state, first = tmp_path / "s.parquet", files("one.parquet", rows({"a": ["agree"] * 3}))
    second = files("two.parquet", rows({"a": ["pass"] * 3}))
    pluralign.update_votes(state, first)
    before = state.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", KILL, where, str(state), str(second)], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    counts = read_votes(state).counts.tolist()
    if where == "after the rename":
        assert counts == [[3, 3, 0]]
    else:
        assert state.read_bytes() == before
    # The same command again ends as an undisturbed one, whatever the kill left.
    again = pluralign.update_votes(state, second)
    assert again.merged.new == (0 if where == "after the rename" else 3)
    assert read_votes(state).counts.tolist() == [[3, 3, 0]]


def test_a_first_update_that_is_killed_leaves_no_state(files, tmp_path):
    state, file = tmp_path / "s.parquet", files("one.parquet", rows({"a": ["agree"]}))
    subprocess.run([sys.executable, "-c", KILL, "before the rename", str(state), str(file)], check=False)
    assert not state.exists()
    assert pluralign.update_votes(state, file).created


def test_bad_input_leaves_the_state(files, tmp_path):
    state = tmp_path / "s.parquet"
    one = files("one.parquet", rows({"a": ["agree"]}))
    pluralign.update_votes(state, one)
    before = state.read_bytes()
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}))
    (tmp_path / "ones.jsonl").write_text(json.dumps({"prompt": "p", "responses": ["a"], "labels": ["1"]}))
    (tmp_path / "shares.yaml").write_text("x: much\n")
    for call, expected in (
        (lambda: pluralign.update_votes(state, tmp_path / "none.parquet"), "none.parquet: no such file"),
        (lambda: pluralign.update_votes(state, tmp_path / "ones.jsonl", label_scale="binary"), "differs from the"),
        (lambda: pluralign.update_votes(one, one), "one.parquet: is an input file and would be overwritten"),
        (lambda: pluralign.update_votes(tmp_path / "s.json", one), "s.json: the name must end in .parquet"),
        (lambda: pluralign.update_votes(state, one, most=-1), "most: found -1"),
        (lambda: pluralign.update_votes(state, one, annotators=one), "name the column that holds the strata"),
        (
            lambda: pluralign.update_votes(tmp_path / "t.parquet", one, shares=tmp_path / "shares.yaml"),
            "shares.yaml, line 1, key 'x': found 'much', expected a share",
        ),
        (
            lambda: pluralign.update_votes(tmp_path / "t.parquet", one, kind="pairs"),
            "no judgment votes on pairs",
        ),
    ):
        with pytest.raises(PluralignError) as complaint:
            call()
        assert expected in str(complaint.value)
    assert state.read_bytes() == before
    assert not (tmp_path / "t.parquet").exists()
    # Judgments without a vote of the state's kind are counted, and change nothing.
    found = pluralign.update_votes(state, tmp_path / "pairs.jsonl", label_scale=MOOD)
    assert (found.merged.new, found.merged.left_out) == (0, 1)
    assert state.read_bytes() == before


def test_updates_at_the_same_time_lose_nothing(tmp_path):
    """Two processes merge different votes into one state, many times: each pair leaves the votes of both."""
    rows = [
        {"prompt": f"Tea {n}?", "responses": ["yes", "no"], "ranks": [1, 2], "annotator": f"a{n}"} for n in range(20)
    ]
    table = Judgments.from_rows(rows)
    context = multiprocessing.get_context("fork")
    for pair in range(10):
        state, files = tmp_path / f"state-{pair}.parquet", []
        for half in range(2):
            files.append(tmp_path / f"{pair}-{half}.parquet")
            table.select(range(half * 10, half * 10 + 10)).write(files[-1])
        both = [context.Process(target=update_votes, args=(state, [file])) for file in files]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
        assert [process.exitcode for process in both] == [0, 0]
        assert len(read_votes(state).digests) == 20
    assert not list(tmp_path.glob(".*"))
