"""Vote states: any order and chunking, ids known once, windows that fade, files that are whole."""

import datetime
import itertools
import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments
from pluralign.judgments.votes import VoteSettings, merge, new_state, read_votes, votes_of, write_votes

SCALE = BUILT_IN_SCALES["hh-6"]
MOOD = BUILT_IN_SCALES["agree-pass-disagree"]
DAY = datetime.timedelta(days=1)
BEGIN = datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)


def crowd(rows=300, seed=0, pairs=False):
    """Random judgments on a few items, over ten weeks, of three groups."""
    draw = np.random.default_rng(seed)
    made = []
    for number in range(rows):
        count = int(draw.integers(2, 5)) if pairs else int(draw.integers(1, 4))
        texts = [f"answer {one}" for one in draw.permutation(5)[:count]]
        row = {
            "id": f"j{seed}-{number}",
            "prompt": f"Question {draw.integers(3)}?",
            "responses": texts,
            "group": "abc"[int(draw.integers(3))],
            "annotator": f"w{number % 40}",
            "weight": float(draw.choice([0.5, 1.0, 2.0])),
            "time": BEGIN + float(draw.uniform(0, 70)) * DAY,
        }
        if pairs:
            ranks = draw.integers(1, 4, count)
            row["ranks"] = [int(rank) for rank in 1 + (ranks[:, None] > ranks).sum(1)]
        else:
            row["labels"] = [SCALE.labels[int(draw.integers(6))] for _ in texts]
        made.append(row)
    return made


def table(rows):
    return Judgments.from_rows(rows, SCALE if any("labels" in row for row in rows) else None)


def by_item(state):
    """Everything a state knows of an item, by its key."""
    votes, low = state.votes, state.interval()[0]
    return {
        key: np.concatenate(
            (state.prior[i], state.parameters[i], state.counts[i], [votes[i]], low[i], [float(state.window[i])])
        )
        for key, i in state.place.items()
    }


def assert_same(one, other, atol=1e-12):
    found, expected = by_item(one), by_item(other)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, rtol=0, atol=atol, err_msg=str(key))
    assert sorted(one.digests.tolist()) == sorted(other.digests.tolist())


SETTINGS = {
    "plain": {},
    "fading": {"decay": 0.6, "window_days": 7.0},
    "only the newest window": {"decay": 0.0, "window_days": 20.0, "origin": "2023-12-30T12:00:00Z"},
    "strata": {"shares": {"b": 0.2, "a": 0.5, "c": 0.3}},
    "strata, fading": {"shares": {"a": 0.5, "b": 0.5, "c": 0.0}, "decay": 0.9, "window_days": 1.0, "strength": 2.5},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("pairs", [False, True])
def test_any_order_and_chunking_of_updates_agree(name, pairs, tmp_path):
    """Late votes of windows long past included: they come with the decay that their window has suffered since."""
    rows = crowd(pairs=pairs)
    whole = votes_of(table(rows), **SETTINGS[name])
    draw = np.random.default_rng(5)
    for _ in range(3):
        shuffled = [rows[i] for i in draw.permutation(len(rows))]
        cuts = [0, *sorted(draw.integers(1, len(rows), 5).tolist()), len(rows)]
        empty = new_state(whole.kind, whole.form, whole.scale, whole.settings)
        state = empty
        for start, stop in itertools.pairwise(cuts):
            if start < stop:
                state, _ = merge(state, table(shuffled[start:stop]))
                write_votes(state, tmp_path / "state.parquet")
                state = read_votes(tmp_path / "state.parquet")
        assert_same(state, whole)


def test_counts_by_hand():
    rows = [
        {"prompt": "Tea?", "responses": ["Yes", "No"], "labels": ["agree", None]},
        {"prompt": "Tea?", "responses": ["Yes"], "labels": ["disagree"], "weight": 0.5},
        {"prompt": "Tea?", "responses": ["No", "Yes"], "labels": ["pass", "agree"]},
        {"prompt": "Rain?", "responses": ["Yes"], "labels": ["pass"], "weight": 2.0},
        {"prompt": "Rain?", "responses": ["Yes", "No"], "ranks": [1, 2]},  # no label: left out
    ]
    judgments = Judgments.from_rows(rows, MOOD)
    state, merged = merge(new_state("labels", "text", MOOD, VoteSettings(strength=3.0)), judgments)
    assert list(zip(state.prompt, state.response, strict=True)) == [
        ("Tea?", "Yes"),
        ("Tea?", "No"),
        ("Rain?", "Yes"),
    ]
    np.testing.assert_allclose(state.counts, [[2, 0, 0.5], [0, 1, 0], [0, 2, 0]], atol=1e-12)
    np.testing.assert_allclose(state.votes, [2.5, 1, 2])
    np.testing.assert_allclose(state.mean[0], np.array([3, 1, 1.5]) / 5.5)
    assert (merged.new, merged.known, merged.left_out, merged.new_items) == (4, 0, 1, 3)
    targets = state.targets()
    assert targets.prompt == state.prompt
    assert targets.scale == MOOD
    np.testing.assert_allclose(targets.distribution, state.mean)
    np.testing.assert_allclose(targets.low, state.interval()[0])
    assert (targets.low < targets.distribution).all()
    assert (targets.distribution < targets.high).all()


def test_pairs_by_hand():
    """Canonical order, ties half each way, unranked responses behind the ranked, weights shared among the pairs."""
    rows = [
        {"prompt": "p", "responses": ["b", "a"], "ranks": [1, 2]},
        {"prompt": "p", "responses": ["a", "b"], "ranks": [1, 1], "weight": 3.0},
        {"prompt": "p", "responses": ["c", "b", "a"], "ranks": [1, None, None], "weight": 4.0},  # c>b, c>a
        {"prompt": "p", "responses": ["a", "b", "c"], "ranks": [1, 2, 3], "weight": 6.0},  # three pairs
        {"prompt": "p", "responses": ["a", "b"], "ranks": [1, None]},
        {"prompt": "p", "responses": ["a"], "ranks": [1]},  # compares nothing: left out
    ]
    state = votes_of(Judgments.from_rows(rows))
    assert state.kind == "pairs"
    found = {key: counts.tolist() for key, counts in zip(state.place, state.counts, strict=True)}
    assert found == {
        ("p", "a", "b"): [1.5 + 2 + 1, 1 + 1.5],
        ("p", "b", "c"): [2, 2],
        ("p", "a", "c"): [2, 2],
    }
    full = votes_of(Judgments.from_rows(rows), pair_votes="full")
    assert full.counts[full.place["p", "a", "b"]].tolist() == [1.5 + 6 + 1, 1 + 1.5]
    targets = state.targets(smoothing=0.0)
    assert targets.response[0] == ["a", "b"]
    assert targets.distribution[0, 0] == pytest.approx((1 + 4.5) / (2 + 7))
    assert targets.low[0, 0] < targets.distribution[0, 0] < targets.high[0, 0]


def test_pairs_of_labels_are_ranked_by_their_rewards():
    rows = [{"prompt": "p", "responses": ["a", "b", "c"], "labels": ["pass", "agree", None]}]
    state = votes_of(Judgments.from_rows(rows, MOOD), kind="pairs")
    assert {key: counts.tolist() for key, counts in zip(state.place, state.counts, strict=True)} == {
        ("p", "a", "b"): [0, 1 / 3],
        ("p", "a", "c"): [1 / 3, 0],
        ("p", "b", "c"): [1 / 3, 0],
    }


def test_the_posterior_shares_of_a_crowd_of_pairs_are_beta_bernoulli():
    from scipy import stats

    yes = {"prompt": "Tea?", "responses": ["A", "B"], "ranks": [1, 2]}
    state = votes_of(Judgments.from_rows([yes] * 7 + [{**yes, "ranks": [2, 1]}] * 3), strength=4.0)
    posterior = stats.beta(2 + 7, 2 + 3)
    low, high = state.interval()
    assert state.mean[0, 0] == pytest.approx(posterior.mean(), rel=1e-14)
    np.testing.assert_allclose([low[0, 0], high[0, 0]], posterior.interval(0.95), rtol=1e-10)


def test_the_same_judgments_twice_change_nothing(tmp_path):
    rows = crowd()
    state = votes_of(table(rows))
    again, merged = merge(state, table(rows))
    assert again is state
    assert (merged.new, merged.known) == (0, 300)
    # Part of it known, and a row that stands twice in one table.
    more = crowd(20, seed=1)
    both, merged = merge(state, table(rows[:50] + more))
    assert (merged.new, merged.known) == (20, 50)
    assert_same(both, votes_of(table(rows + more)))
    twice = table(more).select([*range(20), *range(20)])
    _, merged = merge(state, twice)
    assert (merged.new, merged.known) == (20, 20)


def test_windows_fade_by_hand():
    row = {"prompt": "p", "responses": ["a"], "labels": ["agree"]}
    old = [{**row, "time": BEGIN}, {**row, "time": BEGIN + 0.9 * DAY}]
    new = [{**row, "labels": ["pass"], "time": BEGIN + 2 * DAY}]
    settings = VoteSettings(strength=3.0, decay=0.5, window_days=1.0, origin=BEGIN.isoformat())
    empty = new_state("labels", "text", MOOD, settings)
    first, _ = merge(empty, Judgments.from_rows(old, MOOD))
    assert first.window.tolist() == [0]
    np.testing.assert_allclose(first.parameters, [[3, 1, 1]])
    second, _ = merge(first, Judgments.from_rows(new, MOOD))
    np.testing.assert_allclose(second.parameters, [[1 + 2 / 4, 1 + 1, 1]])
    np.testing.assert_allclose(second.counts, [[2, 1, 0]], atol=1e-12)  # what was said stays
    late, _ = merge(second, Judgments.from_rows([{**row, "time": BEGIN + 1.5 * DAY}], MOOD))
    np.testing.assert_allclose(late.parameters, [[1 + 2 / 4 + 1 / 2, 2, 1]])
    assert late.present == 2
    early = {**row, "time": BEGIN - 0.5 * DAY}  # window -1, before the origin
    early_state, _ = merge(late, Judgments.from_rows([early], MOOD))
    np.testing.assert_allclose(early_state.crowd, [[1 + 1 / 8, 1, 0]], atol=1e-12)


def test_shares_count_each_group_by_its_share():
    """Nine of group a agree, one of group b disagrees; each is half of the population: see the choice tests."""
    row = {"prompt": "p", "responses": ["a"], "labels": ["agree"], "group": "a"}
    rows = [row] * 9 + [{**row, "labels": ["disagree"], "group": "b"}]
    state = votes_of(Judgments.from_rows(rows, MOOD), shares={"a": 0.5, "b": 0.5})
    size = 1 / (0.25 / 9 + 0.25)
    np.testing.assert_allclose(state.crowd, [[size / 2, 0, size / 2]], rtol=1e-14, atol=1e-12)
    np.testing.assert_allclose(state.votes, [size])
    plain = votes_of(Judgments.from_rows(rows, MOOD))
    sample = votes_of(Judgments.from_rows(rows, MOOD), shares={"a": 0.9, "b": 0.1})
    np.testing.assert_allclose(sample.parameters, plain.parameters, rtol=1e-12)


def test_strata_may_come_from_a_table_of_annotators():
    rows = crowd(60)
    group = {f"w{number}": "xy"[number % 2] for number in range(40)}
    from_table = votes_of(table(rows), shares={"x": 1, "y": 3}, strata="region", stratum_of=group)
    grouped = table([{**row, "group": group[row["annotator"]]} for row in rows])
    known = votes_of(grouped, shares={"x": 1, "y": 3})
    np.testing.assert_allclose(from_table.parameters, known.parameters, rtol=1e-14)


def test_priors_come_by_item_and_stay_where_nobody_voted():
    prior = [
        {"prompt": "p", "response": "a", "agree": 6, "pass": 3, "disagree": 1, "reward": 0.5},
        {"prompt": "p", "response": "never seen", "agree": "0.1", "pass": "0.1", "disagree": "0.8"},
    ]
    rows = [{"prompt": "p", "responses": [text], "labels": ["agree"]} for text in "ab"]
    state = votes_of(Judgments.from_rows(rows, MOOD), prior=prior, strength=10.0)
    found = {key: values.tolist() for key, values in zip(state.place, state.mean, strict=True)}
    np.testing.assert_allclose(found["p", "a"], np.array([7, 3, 1]) / 11)
    np.testing.assert_allclose(found["p", "b"], np.array([10 / 3 + 1, 10 / 3, 10 / 3]) / 11)
    np.testing.assert_allclose(found["p", "never seen"], [0.1, 0.1, 0.8])
    assert state.targets().response == ["a", "b"]
    turned = [{"prompt": "p", "response": "z", "other": "a", "A": 3, "B": 1}]
    pair = [{"prompt": "p", "responses": ["a", "z"], "ranks": [1, 2]}]
    state = votes_of(Judgments.from_rows(pair), prior=turned, strength=4.0)
    np.testing.assert_allclose(state.parameters, [[1 + 1, 3]])


@pytest.mark.parametrize(
    ("prior", "expected"),
    [
        (
            {"prompt": "p", "response": "a", "agree": 1},
            "row 1, column 'pass': is missing: give one column per label",
        ),
        ({"prompt": "p", "response": "a", "agree": -1, "pass": 0, "disagree": 0}, "found -1, expected a number"),
        ({"prompt": "p", "response": "a", "agree": "x", "pass": 0, "disagree": 0}, "found 'x', expected a number"),
        ({"prompt": "p", "response": "a", "agree": 0, "pass": 0, "disagree": 0}, "all labels have 0"),
        ({"prompt": "p", "agree": 1, "pass": 0, "disagree": 0}, "column 'response': found None, expected text"),
    ],
)
def test_a_bad_prior_names_its_row_and_column(prior, expected):
    judgments = Judgments.from_rows([{"prompt": "p", "responses": ["a"], "labels": ["agree"]}], MOOD)
    with pytest.raises(PluralignError) as complaint:
        votes_of(judgments, prior=[prior])
    assert expected in str(complaint.value)
    with pytest.raises(PluralignError, match="row 2, column 'response': .* twice"):
        good = {"prompt": "p", "response": "a", "agree": 1, "pass": 1, "disagree": 1}
        votes_of(judgments, prior=[good, good])


def test_chat_messages_are_items_too(tmp_path):
    def said(role, text):
        return [{"role": role, "content": text}]

    rows = [
        {"prompt": said("user", "Tea?"), "responses": [said("assistant", text)], "labels": [label]}
        for text, label in (("Yes", "agree"), ("Yes", "pass"), ("No", "pass"))
    ]
    state = votes_of(Judgments.from_rows(rows, MOOD))
    assert len(state) == 2
    write_votes(state, tmp_path / "state.parquet")
    again = read_votes(tmp_path / "state.parquet")
    assert_same(again, state)
    assert again.targets().prompt[0] == said("user", "Tea?")
    assert merge(again, Judgments.from_rows(rows, MOOD))[1].known == 3


@pytest.mark.parametrize("name", SETTINGS)
def test_a_file_keeps_everything(name, tmp_path):
    state = votes_of(table(crowd(pairs=True)), **SETTINGS[name])
    write_votes(state, tmp_path / "state.parquet")
    again = read_votes(tmp_path / "state.parquet")
    assert_same(again, state, atol=0)
    assert again.settings == state.settings
    assert (again.kind, again.form, again.scale) == (state.kind, state.form, state.scale)
    assert again.prompt == state.prompt
    np.testing.assert_array_equal(np.sort(again.digest_item), np.sort(state.digest_item))
    rows = pq.read_table(tmp_path / "state.parquet").to_pylist()
    np.testing.assert_allclose(rows[0]["state"], state.parameters[0])
    assert rows[0]["votes"] == pytest.approx(state.votes[0])


def test_an_empty_state_is_a_file_too(tmp_path):
    state = new_state("labels", "text", MOOD, VoteSettings(strength=3.0))
    write_votes(state, tmp_path / "state.parquet")
    again = read_votes(tmp_path / "state.parquet")
    assert len(again) == 0
    assert (
        merge(again, Judgments.from_rows([{"prompt": "p", "responses": ["a"], "labels": ["agree"]}], MOOD))[1].new == 1
    )


def test_damaged_files_are_one_clear_error(tmp_path):
    file = tmp_path / "state.parquet"
    write_votes(votes_of(table(crowd(20))), file)
    whole, good = file.read_bytes(), pq.read_table(file)
    about = json.loads(good.schema.metadata[b"pluralign_votes"])

    def refused(expected):
        with pytest.raises(PluralignError) as complaint:
            read_votes(file)
        assert expected in str(complaint.value)
        assert str(file) in str(complaint.value)

    file.write_bytes(whole[: len(whole) // 2])
    refused("not a readable Parquet file")
    file.write_bytes(b"")
    refused("not a readable Parquet file")
    pq.write_table(good.replace_schema_metadata(None), file)
    refused("is not a vote state")
    pq.write_table(good.drop_columns(["held"]), file)
    refused("the vote state is damaged")
    pq.write_table(good.set_column(good.column_names.index("counts"), "counts", pa.array([[1.0]] * len(good))), file)
    refused("column 'counts' does not hold 6 numbers")
    for change in (
        {"version": 9},
        {"kind": "rankings"},
        {"settings": {"strength": -1}},
        {"settings": {"power": 1}},
    ):
        pq.write_table(good.replace_schema_metadata({"pluralign_votes": json.dumps(about | change)}), file)
        refused("the vote state is damaged")
    file.unlink()
    refused("no such file")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"strength": 0.0}, "strength: found 0.0"),
        ({"decay": 1.5, "window_days": 1.0}, "decay: found 1.5"),
        ({"decay": 0.5}, "decay under 1 needs a window"),
        ({"window_days": 3.0}, "window needs a decay"),
        ({"decay": 0.5, "window_days": 0.0}, "window: found 0.0"),
        ({"origin": "yesterday"}, "origin: found 'yesterday'"),
        ({"strata": "group"}, "give shares too"),
        ({"shares": {"a": -1.0}}, "shares: found"),
        ({"shares": {"a": 1.0, "b": 1.0}}, "no stratum with a share"),
        ({"shares": {"a": 1.0}, "strata": "region"}, "a column of a table of annotators: give that table"),
        ({"pair_votes": "half"}, "pair_votes: found 'half'"),
        ({"kind": "stars"}, "kind: found 'stars'"),
    ],
)
def test_settings_out_of_range_are_refused(given, expected):
    with pytest.raises(PluralignError) as complaint:
        votes_of(table(crowd(40)), **given)
    assert expected in str(complaint.value)


def test_votes_that_do_not_fit_are_refused():
    row = {"prompt": "p", "responses": ["a"], "labels": ["agree"], "id": "one"}
    state = votes_of(Judgments.from_rows([row], MOOD))
    other = {"prompt": "p", "responses": ["a"], "labels": ["1"]}
    with pytest.raises(PluralignError, match="'binary' differs from the state's"):
        merge(state, Judgments.from_rows([other], BUILT_IN_SCALES["binary"]))
    with pytest.raises(PluralignError, match="the judgments have none: start another state"):
        merge(state, Judgments.from_rows([{"prompt": "p", "responses": ["a", "b"], "ranks": [1, 2]}]))
    with pytest.raises(PluralignError, match="hold messages and the state text"):
        chat = {
            "prompt": [{"role": "user", "content": "p"}],
            "responses": [[{"role": "assistant", "content": "a"}]],
        }
        merge(state, Judgments.from_rows([{**chat, "labels": ["agree"]}], MOOD))
    with pytest.raises(PluralignError, match=r"1 of 2 judgments with a vote have no time \(the first is 'one'\)"):
        timed = {**row, "time": BEGIN, "id": "two"}
        votes_of(Judgments.from_rows([timed, row], MOOD), decay=0.5, window_days=1.0)
    with pytest.raises(PluralignError, match="smoothing: found 0.7"):
        state.targets(smoothing=0.7)


@pytest.mark.parametrize("kind", ["pairs", "labels"])
def test_a_table_counted_in_blocks_gives_the_votes_of_the_whole(monkeypatch, kind):
    draw = random.Random(0)
    rows = []
    for number in range(60):
        shown = draw.sample("abcde", draw.choice([1, 2, 3]))
        labels = [draw.choice(["agree", "pass", None]) for _ in shown]
        chosen = {"labels": labels} if number % 3 else {"ranks": list(range(1, len(shown) + 1))}
        rows.append({"prompt": f"{number % 4}?", "responses": shown, **chosen, "weight": draw.random()})
    rows = [row for row in rows if "ranks" in row or any(row["labels"])]
    judgments = Judgments.from_rows(rows, BUILT_IN_SCALES["agree-pass-disagree"])
    whole = votes_of(judgments, kind=kind)
    monkeypatch.setattr("pluralign.judgments.votes.ballots._BLOCK", 7)
    parts = votes_of(judgments, kind=kind)
    assert (parts.prompt, parts.response, parts.other) == (whole.prompt, whole.response, whole.other)
    assert parts.digests.tolist() == whole.digests.tolist()
    assert parts.digest_item.tolist() == whole.digest_item.tolist()
    np.testing.assert_allclose(parts.held, whole.held, rtol=1e-12)
