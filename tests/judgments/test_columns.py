"""The checks over columns and the row checker agree: the same rows, the same ids, the same complaints in the same order."""

import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments, read
from pluralign.judgments.blocks import checked_blocks
from pluralign.judgments.columns import canonical_columns
from pluralign.judgments.identity import column_ids, row_id
from pluralign.judgments.rows import opening, read_blocks, read_rows
from pluralign.judgments.schema import COLUMNS
from pluralign.judgments.seals import is_sealed
from pluralign.judgments.validation import RowChecker, checked_batches

SCALE = BUILT_IN_SCALES["1-to-5"]
TEXTS = ("yes", "no", "höh 🐦", "  padded ", "好", "\u00a0x", "line\nbreak", "nul\0l", "yes ")
BLANKS = ("", " ", "\u00a0", "\x1c\x1f", "\u2003\t", "\u200b")


def chat(role, text):
    return [{"role": role, "content": text}]


def plain_row(draw, messages=False):
    count = draw.randint(1, 4)
    row = {"prompt": draw.choice(["Tea?", "", "Kaffee?"]), "responses": draw.sample(TEXTS, count)}
    if messages:
        row["prompt"] = chat("user", row["prompt"])
        row["responses"] = [chat("assistant", text) for text in row["responses"]]
    if draw.random() < 0.8:
        row["ranks"] = [draw.choice([None, 1, 2]) for _ in range(count)]
        row["ranks"][draw.randrange(count)] = 1
    if draw.random() < 0.4 or "ranks" not in row:
        row["labels"] = [draw.choice([None, "1", "5"]) for _ in range(count)]
        row["labels"][0] = "3"
    for name in ("id", "annotator", "source", "group"):
        if draw.random() < 0.5:
            row[name] = draw.choice(["ann", "b", "", None]) if name != "id" else f"id{draw.randint(0, 500)}"
    if draw.random() < 0.5:
        row["weight"] = draw.choice([0.0, 1.0, 2.5, -0.0, 1e-12, None])
    if draw.random() < 0.3:
        row["strength"] = draw.choice([0.0, 1.0, 2.5, None])
    if draw.random() < 0.5:
        row["time"] = draw.choice(["2024-05-31T12:00:00+02:00", "2024-05-31", None, "2024-05-31T12:00:00.123456Z"])
    return row


def keep_types(draw, row):
    """A fault that leaves the types of the columns as they are."""
    kind = draw.randrange(12)
    chats = isinstance(row["prompt"], list)
    if kind == 0:
        row["responses"] = draw.choice([[], None, [*row["responses"], row["responses"][0]]])
    elif kind == 1:
        blank = draw.choice(BLANKS)
        row["responses"] = [*row["responses"][1:], chat("assistant", blank) if chats else blank]
    elif kind == 2:
        row["ranks"] = draw.choice([[], None, [None], [None] * len(row["responses"]), [0], [2, 3, 4], [-1], [2**31]])
    elif kind == 3:
        row["labels"] = draw.choice([[], None, [None], ["6"], [" 3 "] * len(row["responses"]), ["0", "1"]])
    elif kind == 4:
        row["weight"] = draw.choice([-1.0, float("nan"), float("inf"), 1e-300, 1e20])
    elif kind == 5 and draw.random() < 0.3:
        row["strength"] = draw.choice([-1.0, float("nan"), float("inf")])
    elif kind == 5:
        row["time"] = draw.choice(["yesterday", "", "2024-13-01", "2024-W01-1", "20240531", "9999-12-31T23:59:59Z"])
    elif kind == 6:
        row["prompt"] = None
    elif kind == 7:
        row["responses"] = [None, *row["responses"][1:]]
    elif kind == 8 and chats:
        broken = draw.choice([[{"role": None, "content": "x"}], [{"role": "user", "content": None}], [None], []])
        if draw.random() < 0.5:
            row["prompt"] = broken
        else:
            row["responses"] = [broken, *row["responses"][1:]]
    elif kind == 9:
        row["ranks"] = [1] * len(row["responses"])
    elif kind == 10:
        row["id"] = "twice"
    else:
        row.pop(draw.choice(list(row)))
    return row


def break_types(draw, row):
    """A fault that no column of one type can hold."""
    name = draw.choice([*row, "note", "ranks", "weight"])
    row[name] = draw.choice(
        [7, 2.5, True, "x", [], {}, ["x"], [1.0, 2], [[]], [{"role": "user"}], chat("user", "x"), 10**30, [True, False]]
    )
    return row


def table_of(rows):
    return pa.table({name: [row.get(name) for row in rows] for name in COLUMNS})


def by_rows(rows):
    """What the row checker makes of numbered rows."""
    rejects = []
    checker = RowChecker(SCALE)
    reject = lambda number, row, complaint: rejects.append((number, complaint.column, complaint.message))  # noqa: E731
    batches = list(checked_batches(rows, checker, "t", reject))
    return pa.Table.from_batches(batches) if batches else None, rejects


def by_blocks(path):
    rejects = []
    checker = RowChecker(SCALE)
    reject = lambda number, row, complaint: rejects.append((number, complaint.column, complaint.message))  # noqa: E731
    batches = list(checked_blocks(read_blocks(path, checker), checker, "t", reject))
    return pa.Table.from_batches(batches) if batches else None, rejects


def assert_agree(path):
    malformed = []
    rows = read_rows(
        path, lambda number, row, complaint: malformed.append((number, complaint.column, complaint.message))
    )
    expected, rejected = by_rows(rows)
    found, complaints = by_blocks(path)
    assert complaints == sorted(rejected + malformed, key=lambda reject: reject[0])
    assert (found is None) == (expected is None)
    if expected is not None:
        assert found.combine_chunks().to_pylist() == expected.combine_chunks().to_pylist()
        assert found.schema.equals(expected.schema, check_metadata=True)
    return len(complaints)


@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize("breaks", [0, 1])
def test_mutated_rows_give_the_same_judgments_and_complaints(messages, breaks, tmp_path):
    total = refused = 0
    for seed in range(12):
        draw = random.Random(seed)
        rows = [plain_row(draw, messages) for _ in range(250)]
        rows = [keep_types(draw, row) if draw.random() < 0.25 else row for row in rows]
        for _ in range(breaks):
            place = draw.randrange(len(rows))
            rows[place] = break_types(draw, rows[place])
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        refused += assert_agree(tmp_path / "t.jsonl")
        total += len(rows)
        if not breaks:
            assert all(block.columns is not None for block in read_blocks(tmp_path / "t.jsonl", RowChecker()))
            pq.write_table(table_of(rows), tmp_path / "t.parquet")
            refused += assert_agree(tmp_path / "t.parquet")
            total += len(rows)
    assert 0.02 * total < refused < 0.4 * total


def test_lines_that_only_arrow_would_take(tmp_path):
    good = '{"responses": ["a", "b"], "ranks": [1, 2]}'
    for lines in (
        [good, good + good],
        [good, '{"responses": ["a", "b"],', '"ranks": [1, 2]}', good + " " + good],
        [good, "null", "[]", "7", ""],
        [good, good[:-1] + ', "ranks": [2, 1]}'],
        [good, '{"responses": ["a", "b"], "ranks": [1, 2], "weight": Inf}'],
        [good, '{"responses": ["a", "\\ud800"], "ranks": [1, 2]}'],
        [good, '{"responses": ["a", "b"], "ranks": [1, 2], "weight": 123456789012345678901234567890}'],
        ["\ufeff" + good, good + "\r"],
        [good, '{"responses": ["a", "b"], "ranks": [1, 2], "weight": 1e400}'],
        [good, '{"responses": ["a", "b"], "ranks": [1, 99999999999999999999]}'],
    ):
        (tmp_path / "t.jsonl").write_text("\n".join(lines))
        assert_agree(tmp_path / "t.jsonl")
    (tmp_path / "t.jsonl").write_bytes(good.encode() + b'\n{"responses": ["\xff", "b"], "ranks": [1, 2]}\n')
    assert assert_agree(tmp_path / "t.jsonl") == 1


@pytest.mark.parametrize("messages", [False, True])
def test_plain_rows_are_read_as_columns(messages, tmp_path):
    """The row checker sees none of them, whatever the types of whole numbers, texts and times."""
    draw = random.Random(1)
    rows = [{**plain_row(draw, messages), "id": None} for _ in range(100)]
    table = table_of(rows)
    _, batch, good = canonical_columns(table.to_batches()[0], SCALE)
    assert good.all()
    checked = [RowChecker(SCALE).check(row) for row in rows]
    assert column_ids(batch).to_pylist() == [row["id"] for row in checked] == [row_id(row) for row in checked]
    for name, kind in (("annotator", pa.large_string()), ("annotator", pa.dictionary(pa.int32(), pa.string()))):
        place = table.schema.get_field_index(name)
        other = table.set_column(place, name, table.column(name).cast(kind))
        assert canonical_columns(other.combine_chunks().to_batches()[0], SCALE)[1].equals(batch)


def test_ids_of_this_version_are_fixed():
    row = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, None], "labels": ["5", None], "annotator": "ann"}
    checker = RowChecker(SCALE)
    assert checker.check({**row, "weight": 2, "time": "2024-05-31"})["id"] == "f7894d27df163ed5eb8a9ad5"
    as_chat = {"prompt": chat("user", "Tea?"), "responses": [chat("assistant", "Yes")], "ranks": [1]}
    assert RowChecker().check(as_chat)["id"] == "2d7e87f7cd560cdfd1b70717"


def test_a_written_file_is_trusted_until_it_is_changed(tmp_path, monkeypatch):
    rows = [{"prompt": "Tea?", "responses": ["yes", "no"], "ranks": [1, 2], "labels": ["5", None]}] * 3
    judgments = Judgments.from_rows(rows, SCALE)
    judgments.write(tmp_path / "t.parquet")
    assert is_sealed(tmp_path / "t.parquet")
    monkeypatch.setattr("pluralign.judgments.reading.checked_blocks", None)
    assert read(tmp_path / "t.parquet").table.equals(judgments.table, check_metadata=True)
    judgments.select([1]).write(tmp_path / "more.parquet")
    with pytest.raises(PluralignError, match=r"t.parquet, row 2, column 'id': .* already used"):
        read([tmp_path / "more.parquet", tmp_path / "t.parquet"])
    monkeypatch.undo()
    stored = pq.read_table(tmp_path / "t.parquet")
    place = stored.schema.get_field_index("ranks")
    wrong = stored.set_column(place, stored.schema.field(place), pa.array([[0, 1]] * 3, pa.list_(pa.int32())))
    footer = pq.read_metadata(tmp_path / "t.parquet").metadata[b"pluralign_seal"]
    with pq.ParquetWriter(tmp_path / "t.parquet", wrong.schema) as writer:
        writer.write_table(wrong)
        writer.add_key_value_metadata({"pluralign_seal": footer})
    assert not is_sealed(tmp_path / "t.parquet")
    with pytest.raises(PluralignError, match="row 1, column 'ranks'"):
        read(tmp_path / "t.parquet")
    judgments.select([0, 0]).write(tmp_path / "twice.parquet")
    with pytest.raises(PluralignError, match=r"row 2, column 'id': .* already used"):
        read(tmp_path / "twice.parquet")
    other = BUILT_IN_SCALES["binary"]
    judgments.write(tmp_path / "t.parquet")
    with pytest.raises(PluralignError, match="not on the scale 'binary'"):
        read(tmp_path / "t.parquet", other)


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("odd", [None, '"Ye\ns",No,2', "", "Yes,No", "\u00e9,No,2", "Yes,No,\x00", "Ye\rs,No,2"])
def test_lines_without_quotes_are_parsed_as_the_reader_of_records_does(ending, odd, tmp_path, monkeypatch):
    """The same rows and complaints, wherever the line stands that only the reader of records understands."""
    monkeypatch.setattr(opening, "BLOCK_BYTES", 64)
    lines = [f"Yes {n},No,{n % 7}" for n in range(40)]
    for place in (0, 20, 40):
        text = ending.join(["\ufeffa,b,w", *lines[:place], *([] if odd is None else [odd]), *lines[place:]]) + ending
        (tmp_path / "t.csv").write_bytes(text.encode())
        found, expected, bad = [], [], []
        for block in read_blocks(tmp_path / "t.csv"):
            found += [(number, row, str(fault)) for number, row, fault in block.items(range(len(block)))]
        for number, row in read_rows(tmp_path / "t.csv", lambda *reject, bad=bad: bad.append(reject)):
            expected.append((number, row, "None"))
        expected += [(number, row, str(fault)) for number, row, fault in bad]
        assert found == sorted(expected, key=lambda item: item[0])
