"""What `read` takes: the same rows are the same judgments, and have the same faults, wherever they come from."""

import json
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments, LabelScale, read
from pluralign.judgments.inputs import KINDS
from pluralign.judgments.reading import Inputs
from pluralign.workflows.importing import import_files

ROWS = [
    {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2], "annotator": "ann", "weight": 2.0},
    {"prompt": "Milk?", "responses": ["Yes", "No", "Later"], "ranks": [2, 1, None], "annotator": None, "weight": 1.0},
    {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2], "annotator": "ann", "weight": 2.0},
]
TABLES = {
    "frame": pd.DataFrame,
    "arrow": pa.Table.from_pylist,
    "batch": pa.RecordBatch.from_pylist,
    "dataset": datasets.Dataset.from_list,
    "stream": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    "list": list,
    "tuple": tuple,
    "generator": iter,
}


def lines(path, rows):
    """A JSON Lines file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("kind", TABLES)
def test_every_kind_of_table_gives_what_the_file_gives(kind, tmp_path):
    in_file = read(lines(tmp_path / "a.jsonl", ROWS))
    assert read(TABLES[kind](ROWS)).table.equals(in_file.table)
    chats = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "responses": [[{"role": "assistant", "content": text}] for text in row["responses"]],
            "ranks": row["ranks"],
        }
        for row in ROWS
    ]
    assert read(TABLES[kind](chats)).table.equals(read(lines(tmp_path / "b.jsonl", chats)).table)


def test_polars_frames():
    polars = pytest.importorskip("polars")
    for frame in (polars.DataFrame(ROWS), polars.LazyFrame(ROWS)):
        assert read(frame).table.equals(read(ROWS).table)
    mixed = polars.DataFrame(
        {"prompt": ["a"], "responses": polars.Series([["x", "y"]], dtype=polars.Object), "ranks": [[1, 2]]}
    )
    assert read(mixed).row(0)["responses"] == ["x", "y"]


def test_views_of_datasets_and_several_tables_are_read_as_they_are_shown():
    data = datasets.Dataset.from_list(ROWS)
    assert read(data.select([2, 1])).column("prompt") == ["Tea?", "Milk?"]
    shown = data.with_format(columns=["prompt", "responses", "ranks"])
    assert read(shown).column("annotator") == [None] * 3
    together = read([pd.DataFrame(ROWS[:2]), data.select([2])])
    assert together.table.equals(read(ROWS).table)
    judgments = read(ROWS)
    assert read(judgments) is judgments
    assert len(read(iter([data]))) == 3


GOOD = ROWS[0]
FAULTS = {
    "a rank": {**GOOD, "ranks": [0, 1]},
    "another type": {**GOOD, "ranks": "first"},
    "a type inside a list": {**GOOD, "responses": ["a", 7]},
    "a weight": {**GOOD, "weight": -1.0},
    "labels without a scale": {**GOOD, "labels": ["good", "bad"]},
    "a response twice": {**GOOD, "responses": ["a", "a"]},
    "no responses": {**GOOD, "responses": []},
    "an unknown column": {**GOOD, "worker_id": "w"},
}


MAKERS = {"the frame": pd.DataFrame, "the list": list, "the table": pa.Table.from_pylist}
NO_TABLE = ("another type", "a type inside a list")
"""Faults that a column of one type cannot have."""


@pytest.mark.parametrize(
    ("fault", "name"),
    [(fault, name) for fault in FAULTS for name in MAKERS if not (name == "the table" and fault in NO_TABLE)],
)
def test_a_fault_has_the_message_that_it_has_in_a_file(fault, name, tmp_path):
    faulty = FAULTS[fault]
    rows = [{**dict.fromkeys(faulty), **GOOD}] * 2 + [faulty]
    path = lines(tmp_path / "a.jsonl", rows)
    table = MAKERS[name](rows)
    with pytest.raises(PluralignError) as in_file:
        read(path)
    with pytest.raises(PluralignError) as in_memory:
        read(table)
    assert str(in_memory.value) == str(in_file.value).replace(str(path), name)
    assert f"{name}, row {1 if fault == 'an unknown column' else 3}" in str(in_memory.value)


def test_a_fault_in_one_of_several_tables_names_the_table():
    with pytest.raises(PluralignError, match="^frame 2, row 3, column 'weight'"):
        read([pd.DataFrame(ROWS), pd.DataFrame([*ROWS[:2], FAULTS["a weight"]])])


def test_gaps_of_a_pandas_frame_are_nothing():
    frame = pd.DataFrame(
        {
            "prompt": ["a", "b", "c"],
            "responses": [["x", "y"]] * 3,
            "ranks": [[1, 2], [1, float("nan")], np.array([2, 1])],
            "annotator": [7, None, 8],
            "source": ["s", pd.NA, float("nan")],
            "group": pd.Categorical(["g", None, "g"]),
            "weight": [None, 2.0, float("nan")],
            "time": [pd.Timestamp("2024-05-31T12:00:00Z"), pd.NaT, pd.Timestamp("2024-05-31T12:00:00.000000001Z")],
        }
    )
    found = read(frame)
    assert found.column("ranks") == [[1, 2], [1, None], [2, 1]]
    assert found.column("annotator") == ["7", None, "8"]
    assert found.column("source") == ["s", None, None]
    assert found.column("group") == ["g", None, "g"]
    assert found.column("weight") == [1.0, 2.0, 1.0]
    assert [time is None for time in found.column("time")] == [False, True, False]
    # The same rows where a column of mixed types keeps Arrow from reading columns.
    frame["annotator"] = pd.Series(["7", None, 8], dtype=object)
    assert read(frame).table.equals(found.table)


def test_arguments_of_tools_do_not_get_each_others_keys():
    def response(town):
        call = {"type": "function", "function": {"name": "weather", "arguments": town}}
        return [{"role": "assistant", "content": "", "tool_calls": [call]}]

    row = {"prompt": [{"role": "user", "content": "Warm?"}], "ranks": [1, 2]}
    row["responses"] = [response({"town": "Delft"}), response({"city": "Delft"})]
    plain = read([row, row])
    assert read(pd.DataFrame([row, row])).table.equals(plain.table)
    assert read(datasets.Dataset.from_list([row, row], on_mixed_types="use_json")).table.equals(plain.table)


PAIRS = [
    {"prompt": "Tea?", "chosen": "Yes", "rejected": "No", "margin": 2.0},
    {"prompt": "Milk?", "chosen": "No", "rejected": "Yes", "margin": None},
]


@pytest.mark.parametrize("kind", TABLES)
def test_preference_rows_are_read_as_they_are_imported(kind, tmp_path):
    path = lines(tmp_path / "pairs.jsonl", PAIRS)
    import_files([path], tmp_path / "pairs.parquet", format="trl")
    imported = read(tmp_path / "pairs.parquet")
    assert imported.column("strength") == [2.0, None]
    assert read(TABLES[kind](PAIRS)).table.equals(imported.table)
    assert read(path).table.equals(imported.table)


class Votes:
    """Not a table."""


@pytest.mark.parametrize(
    "value", [Votes(), 3, None, GOOD, [3], [None], b"ab", pd.DataFrame(ROWS)["prompt"], np.array(["a"])]
)
def test_everything_else_is_refused_with_the_kinds_that_are_taken(value):
    with pytest.raises(PluralignError) as refused:
        read(value)
    assert KINDS in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_what_cannot_be_one_table_is_refused():
    for value, message in (
        (
            datasets.DatasetDict({"test": datasets.Dataset.from_list(ROWS)}),
            "DatasetDict with the splits test: give one, like data.'test'.",
        ),
        (pd.DataFrame([["a", "b"]], columns=["prompt", "prompt"]), "the frame: the column 'prompt' appears twice"),
        (pa.table([["a"], ["b"]], names=["id", "id"]), "the table: the column 'id' appears twice"),
        (pd.DataFrame(), "the frame: there are no rows"),
        ([], "no file was given"),
        ([GOOD, 3], "the list, row 2: found 3, expected a dictionary"),
    ):
        with pytest.raises(PluralignError, match=message):
            read(value)


OTHER = [
    {
        "question": row["prompt"],
        "answers": row["responses"],
        "ranking": row["ranks"],
        "worker_id": row["annotator"],
        "note": 1,
    }
    for row in ROWS
]
NAMES = {"question": "prompt", "answers": "responses", "ranking": "ranks", "worker_id": "annotator", "note": None}


def test_columns_are_renamed_wherever_the_rows_are(tmp_path):
    expected = read([{name: row[name] for name in ("prompt", "responses", "ranks", "annotator")} for row in ROWS]).table
    pq.write_table(pa.Table.from_pylist(OTHER), tmp_path / "a.parquet")
    for data in (
        OTHER,
        pd.DataFrame(OTHER),
        pa.Table.from_pylist(OTHER),
        tmp_path / "a.parquet",
        lines(tmp_path / "a.jsonl", OTHER),
    ):
        assert read(data, columns=NAMES).table.equals(expected)
    as_text = [f"{column}={name or ''}" for column, name in NAMES.items()]
    assert read(OTHER, columns=as_text).table.equals(expected)
    texts = [{"text" if name == "prompt" else name: value for name, value in pair.items()} for pair in PAIRS]
    assert read(texts, columns={"text": "prompt"}).table.equals(read(PAIRS).table)


def test_columns_of_an_own_file_are_renamed_although_it_is_not_checked_again(tmp_path):
    read(ROWS).write(tmp_path / "own.parquet")
    assert read(tmp_path / "own.parquet", columns={"annotator": "group", "group": None}).column("group") == [
        "ann",
        None,
        "ann",
    ]
    assert read(read(ROWS), columns={"annotator": None}).column("annotator") == [None] * 3


@pytest.mark.parametrize("data", [OTHER, pd.DataFrame(OTHER)])
def test_an_unknown_column_suggests_new_names_before_it_suggests_to_leave_it_out(data):
    with pytest.raises(PluralignError) as refused:
        read(data)
    message = str(refused.value)
    renames = "--rename question=prompt --rename answers=responses --rename ranking=ranks --rename worker_id=annotator"
    assert renames in message
    assert message.index(renames) < message.index("--drop-columns question")
    suggested = eval(message.partition("in Python columns=")[2].partition(")")[0])
    assert suggested == {name: to for name, to in NAMES.items() if to is not None}
    with pytest.raises(PluralignError, match="unknown column 'note'; known are"):
        read(data, columns=suggested)


def test_import_suggests_new_names_too(tmp_path):
    path = lines(tmp_path / "a.jsonl", OTHER)
    with pytest.raises(
        PluralignError, match="name its format, or rename its columns: --rename question=prompt --rename answ"
    ):
        import_files([path], tmp_path / "out.parquet")
    import_files([path], tmp_path / "out.parquet", columns=NAMES)
    assert read(tmp_path / "out.parquet").table.equals(read(OTHER, columns=NAMES).table)
    import_files(
        [lines(path, [{**pair, "worker": "w"} for pair in PAIRS])],
        tmp_path / "out.parquet",
        format="trl",
        columns=["worker=annotator"],
    )
    assert read(tmp_path / "out.parquet").column("annotator") == ["w", "w"]
    with pytest.raises(PluralignError, match="--rename is an option of --format table and trl, found --format polis"):
        import_files([path], tmp_path / "out.parquet", format="polis", columns=NAMES)


def test_a_name_that_is_taken_is_not_suggested():
    with pytest.raises(PluralignError) as refused:
        read([{**GOOD, "Worker ID": "w"}])
    assert "--rename" not in str(refused.value)
    with pytest.raises(PluralignError, match="--rename Worker-ID=annotator"):
        read([{"prompt": "a", "responses": ["x", "y"], "ranks": [1, 2], "Worker-ID": "w"}])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prompt": "annotator"}, "row 1, column 'annotator': is there already, and 'prompt' is renamed to it"),
        ({"annotator": "worker_id"}, "rename: found 'worker_id' as the new name of annotator: turn it round, --rename"),
        ({"question": "promt"}, "rename: found 'promt' .did you mean 'prompt'.."),
        ({"a": "prompt", "b": "prompt"}, "rename: 'prompt' is given twice"),
        (["a=prompt", "a=id"], "rename: 'a' is given twice"),
        (["prompt"], "rename: found 'prompt', expected COLUMN=NAME"),
    ],
)
@pytest.mark.parametrize("kind", [list, pd.DataFrame])
def test_new_names_that_do_not_fit_are_refused(columns, message, kind):
    with pytest.raises(PluralignError, match=message):
        read(kind(ROWS), columns=columns)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A data set as on the hub, as `save_to_disk` writes it, and one split of it."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    parts = {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    (tmp_path / "hub").mkdir()
    for name, part in parts.items():
        part.to_parquet(tmp_path / "hub" / f"{name}.parquet")
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    parts["train"].save_to_disk(tmp_path / "single")
    return tmp_path


def test_folders_and_patterns_stand_for_their_files(tmp_path):
    (tmp_path / "parts").mkdir()
    lines(tmp_path / "parts" / "b.jsonl", ROWS[1:2])
    lines(tmp_path / "parts" / "a.jsonl", ROWS[:1])
    lines(tmp_path / "parts" / "[c].jsonl", ROWS[:1])
    (tmp_path / "parts" / "notes.txt").write_text("not judgments")
    both = [tmp_path / "parts" / name for name in ("a.jsonl", "b.jsonl")]
    assert read(tmp_path / "parts" / "?.jsonl").table.equals(read(both).table)
    assert read(tmp_path / "parts" / "[c].jsonl").table.equals(read(both[0]).table)  # a file of that name
    (tmp_path / "parts" / "[c].jsonl").unlink()
    assert Inputs(tmp_path / "parts").names == list(map(str, both))
    import_files([tmp_path / "parts"], tmp_path / "all.parquet")
    assert read(tmp_path / "all.parquet").table.equals(read(both).table)
    for place, message in (
        (tmp_path / "none*.parquet", "no file matches this pattern"),
        (tmp_path, "all.parquet: is given twice, also as"),
    ):
        with pytest.raises(PluralignError, match=message):
            read([tmp_path / "all.parquet", place])
    (tmp_path / "empty").mkdir()
    with pytest.raises(PluralignError, match=r"the folder holds no \.parquet, \.jsonl, \.jsonl\.gz file"):
        read(tmp_path / "empty")


def test_data_sets_are_read_by_their_names(folder):
    expected = read(ROWS).table
    for name in ("hub:train", "saved:train", "single", "single:train"):
        assert read(f"hf:{folder}/{name}").table.equals(expected)
    assert len(read([f"hf:{folder}/hub:test", f"hf:{folder}/saved:train"])) == 4
    assert read(f"hf:{folder}/hub:test", columns={"annotator": "group"}).column("group") == ["ann"]
    assert Inputs(f"hf:{folder}/hub:train").fingerprints() != Inputs(f"hf:{folder}/hub:test").fingerprints()
    import_files([f"hf:{folder}/hub:train"], folder / "imported.parquet")
    assert read(folder / "imported.parquet").table.equals(expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hub", "has several splits: name one of train, test, like hf:"),
        ("saved:tset", "has no split 'tset' .did you mean 'test'..: name one of train, test"),
        ("nothing:train", "nothing:train: the data set cannot be loaded: "),
    ],
)
def test_a_data_set_that_cannot_be_read_is_one_line(folder, name, message):
    with pytest.raises(PluralignError, match=message) as refused:
        read(f"hf:{folder}/{name}")
    assert len(str(refused.value).splitlines()) == 1


def test_a_data_set_that_cannot_be_reached_is_one_line():
    with pytest.raises(
        PluralignError, match="^hf:owner/nothing:train: the data set cannot be loaded: .* check its name"
    ):
        read("hf:owner/nothing:train")
    with pytest.raises(PluralignError, match="hf:a/b: is given twice"):
        read(["hf:a/b", "hf:a/b"])


def test_a_label_scale_comes_with_a_table_of_arrow_or_is_given():
    scale = LabelScale("mood", ("good", "bad"), (1.0, -1.0))
    rows = [{"prompt": "Tea?", "responses": ["Yes"], "labels": ["good"]}]
    judgments = Judgments.from_rows(rows, scale)
    assert read(judgments.table).label_scale == scale
    assert read(pd.DataFrame(rows), scale).table.equals(judgments.table)


def test_fingerprints_follow_the_content_and_not_the_kind():
    prints = [
        next(iter(Inputs(data).fingerprints().values()))
        for data in (pd.DataFrame(ROWS), pa.Table.from_pylist(ROWS), ROWS)
    ]
    assert len(set(prints)) == 1
    changed = [*ROWS[:2], {**ROWS[2], "weight": 3.0}]
    assert Inputs(pd.DataFrame(changed)).fingerprints() != Inputs(pd.DataFrame(ROWS)).fingerprints()


def test_annotators_of_a_file_with_gaps_get_pseudonyms(tmp_path, monkeypatch):
    monkeypatch.setenv("PLURALIGN_KEY", "k" * 16)
    rows = [{**ROWS[0], "annotator": 7.0}, {**ROWS[1], "annotator": None}]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    for file in (tmp_path / "a.parquet", lines(tmp_path / "a.jsonl", rows)):
        import_files([file], tmp_path / "out.parquet", anonymize=True)
        names = read(tmp_path / "out.parquet").column("annotator")
        assert names[0].startswith("p")
        assert names[1] is None


def test_files_are_read_without_the_library_of_data_sets(tmp_path):
    path = lines(tmp_path / "a.jsonl", ROWS)
    code = f"import sys, pluralign; pluralign.read({str(path)!r}); print([n for n in ('datasets', 'torch') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
