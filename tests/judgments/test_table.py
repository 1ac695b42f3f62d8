"""The canonical table: the same rows give the same ids, and every way through a file gives the same table."""

import datetime
import json

import datasets
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments, LabelScale, read, reading
from pluralign.judgments.scales import label_scale
from pluralign.judgments.schema import ranks_from_scores


@pytest.fixture
def rows():
    return [
        {"prompt": "Tea?", "responses": ["yes", "no", "höh 🐦"], "ranks": [1, None, 2], "annotator": "ann"},
        {"prompt": "", "responses": ["yes"], "labels": ["agree"], "weight": 0.5, "group": "g", "source": "s"},
        {"prompt": "x", "responses": ["a", "b"], "ranks": [2, 1], "time": "2024-05-31T12:00:00+02:00"},
    ]


SCALE = BUILT_IN_SCALES["agree-pass-disagree"]


@pytest.mark.parametrize("name", ["t.parquet", "t.jsonl", "t.jsonl.gz"])
def test_a_written_table_reads_back_as_it_was(name, rows, tmp_path):
    table = Judgments.from_rows(rows, SCALE)
    table.write(tmp_path / name)
    again = read(tmp_path / name)
    assert again.table.equals(table.table)
    assert again.label_scale == SCALE
    assert again.fingerprint == table.fingerprint
    assert again.row(2)["time"] == datetime.datetime(2024, 5, 31, 10, tzinfo=datetime.UTC)
    table.write(tmp_path / f"second-{name}")
    assert (tmp_path / name).read_bytes() == (tmp_path / f"second-{name}").read_bytes()


def test_messages_read_back(tmp_path):
    chat = {
        "prompt": [{"role": "user", "content": "Tea?"}],
        "responses": [[{"role": "assistant", "content": text}] for text in ("yes", "no")],
        "ranks": [1, 2],
    }
    for name in ("t.parquet", "t.jsonl"):
        Judgments.from_rows([chat]).write(tmp_path / name)
        again = read(tmp_path / name)
        assert again.form == "messages"
        assert {key: again.row(0)[key] for key in chat} == chat


def test_datasets_can_read_what_is_written(rows, tmp_path):
    Judgments.from_rows(rows, SCALE).write(tmp_path / "t.parquet")
    Judgments.from_rows(rows, SCALE).write(tmp_path / "t.jsonl")
    for kind, name in (("parquet", "t.parquet"), ("json", "t.jsonl")):
        loaded = datasets.load_dataset(
            kind, data_files=str(tmp_path / name), split="train", cache_dir=str(tmp_path / f"cache-{kind}")
        )
        assert loaded["responses"] == [row["responses"] for row in rows]
        assert loaded["ranks"][0] == [1, None, 2]


def test_ids_are_stable_unique_and_of_the_content(rows):
    first = Judgments.from_rows(rows * 2, SCALE).column("id")
    assert len(set(first)) == 6
    assert first == Judgments.from_rows(rows * 2, SCALE).column("id")
    assert first[3:] == [f"{name}-2" for name in first[:3]]
    changed = [{**rows[0], "annotator": "bob"}, *rows[1:]]
    assert Judgments.from_rows(changed, SCALE).column("id")[0] != first[0]


def test_a_large_table_is_mapped_from_disk_and_equal(rows, tmp_path, monkeypatch):
    many = [{**rows[0], "prompt": f"question {number}"} for number in range(20000)]
    table = Judgments.from_rows(many)
    table.write(tmp_path / "t.parquet")
    monkeypatch.setattr(reading, "IN_MEMORY_BYTES", 100_000)
    before = pa.total_allocated_bytes()
    mapped = read(tmp_path / "t.parquet")
    assert pa.total_allocated_bytes() - before < table.table.nbytes / 4
    assert mapped.table.equals(table.table)


def test_several_files_are_one_table(rows, tmp_path):
    table = Judgments.from_rows(rows, SCALE)
    table.select([0]).write(tmp_path / "a.parquet")
    table.select([1, 2]).write(tmp_path / "b.jsonl")
    assert read([tmp_path / "a.parquet", tmp_path / "b.jsonl"]).table.equals(table.table)
    with pytest.raises(PluralignError, match=r"a.parquet: is given twice"):
        read([tmp_path / "a.parquet", tmp_path / "a.parquet"])
    table.select([0, 1]).write(tmp_path / "c.parquet")
    with pytest.raises(PluralignError, match=r"c.parquet, row 1, column 'id': .* already used"):
        read([tmp_path / "a.parquet", tmp_path / "c.parquet"])
    other = Judgments.from_rows([{"responses": ["x"], "labels": [3]}], BUILT_IN_SCALES["1-to-5"])
    other.write(tmp_path / "c.parquet")
    with pytest.raises(PluralignError, match="differs from 'agree-pass-disagree'"):
        read([tmp_path / "a.parquet", tmp_path / "c.parquet"])


@given(st.lists(st.one_of(st.none(), st.integers(-3, 3)), min_size=1, max_size=6))
def test_scores_become_ranks_in_their_order(scores):
    ranks = ranks_from_scores(scores)
    for score, rank in zip(scores, ranks, strict=True):
        assert (score is None) == (rank is None)
        for other, other_rank in zip(scores, ranks, strict=True):
            if score is not None and other is not None:
                assert (score > other) == (rank < other_rank)
    assert not any(ranks) or min(rank for rank in ranks if rank) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.text(min_size=1), min_size=1, max_size=4, unique=True), st.text())
def test_any_text_survives_the_file(responses, prompt):
    import tempfile
    from pathlib import Path

    def plain(text):
        return text.encode("utf-8", "ignore").decode() or "x"

    texts = list(dict.fromkeys(plain(text) + "." for text in responses))
    row = {"prompt": plain(prompt), "responses": texts, "ranks": list(range(1, len(texts) + 1))}
    with tempfile.TemporaryDirectory() as folder:
        Judgments.from_rows([row]).write(Path(folder) / "t.jsonl")
        assert read(Path(folder) / "t.jsonl").row(0)["responses"] == texts


def test_label_scales(tmp_path):
    assert BUILT_IN_SCALES["hh-6"].rewards == (1.0, 0.5, -1.0, -1.0, -1.5, -3.0)
    (tmp_path / "own.yaml").write_text("name: mood\nlabels: {good: 1, bad: -1}\n")
    own = label_scale(tmp_path / "own.yaml")
    assert own == LabelScale("mood", ("good", "bad"), (1.0, -1.0))
    assert LabelScale.from_dict(own.as_dict()) == own
    for value, expected in (
        ({"labels": ["a"], "rewards": [1]}, "two or more different labels"),
        ({"labels": ["a", "b"], "rewards": [1]}, "2 finite rewards"),
        ({"labels": ["a", "b"], "rewards": [1, float("nan")]}, "2 finite rewards"),
        ({"labels": "ab", "rewards": [1, 2]}, "'labels' must be a list"),
        ({"labels": ["a", "b"], "reward": [1, 2]}, "unknown key 'reward' (did you mean 'rewards'?)"),
    ):
        with pytest.raises(PluralignError) as complaint:
            LabelScale.from_dict(value)
        assert expected in str(complaint.value)
    with pytest.raises(PluralignError, match=r"neither built in .*did you mean 'binary'"):
        label_scale("binray")


def test_numbers_and_truth_values_stand_for_labels():
    rows = [{"responses": ["a", "b", "c"], "labels": [1, 5.0, "3"]}]
    assert Judgments.from_rows(rows, BUILT_IN_SCALES["1-to-5"]).row(0)["labels"] == ["1", "5", "3"]
    rows = [{"responses": ["a", "b"], "labels": [True, False]}]
    assert Judgments.from_rows(rows, BUILT_IN_SCALES["binary"]).row(0)["labels"] == ["1", "0"]


def test_a_table_of_another_tool_is_checked(tmp_path):
    (tmp_path / "t.jsonl").write_text(json.dumps({"responses": ["a", "b"], "ranks": [1, 2], "note": "x"}))
    with pytest.raises(PluralignError, match="unknown column 'note'"):
        read(tmp_path / "t.jsonl")
    with pytest.raises(PluralignError, match="no such file"):
        read(tmp_path / "none.parquet")


def test_a_notebook_shows_how_many_judgments_there_are_and_the_first(rows):
    texts = Judgments.from_rows([{**rows[0], "prompt": f"<b>{n}</b>"} for n in range(7)])
    chats = [[{"role": "user", "content": "Tea?"}], [{"role": "assistant", "content": "Yes"}]]
    messages = Judgments.from_rows([{"prompt": chats[0], "responses": [chats[1]], "ranks": [1]}])
    assert repr(texts) == "<Judgments: 7 by 1 annotator>"
    assert repr(messages) == "<Judgments: 1 by 0 annotators>"
    assert texts._repr_html_().count("&lt;b&gt;") == 5
    assert "<b>" not in texts._repr_html_()
    assert "Yes" in messages._repr_html_()
