"""The value of a cell: exact, the same in every format, and refused in one line where it has none."""

import datetime
import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments, read
from pluralign.judgments.formats.trl import preference
from pluralign.judgments.votes import votes_of
from pluralign.judgments.votes.priors import read_priors
from pluralign.workflows.importing import import_files

GOOD = {"prompt": "Tea?", "responses": ["yes", "no"], "ranks": [1, 2]}
BIG = 2**53


def mapped(folder, table, mapping, **options):
    (folder / "in.csv").write_text(table)
    (folder / "map.yaml").write_text(mapping)
    import_files(
        [folder / "in.csv"], folder / "o.parquet", format="mapping", mapping=str(folder / "map.yaml"), **options
    )
    return read(folder / "o.parquet")


def test_whole_numbers_are_exact(tmp_path):
    votes = mapped(tmp_path, f"a,b,x,y\nyes,no,{BIG},{BIG + 1}\nyes,no,{BIG}.0,{BIG + 1}.0\n",
                   'responses: ["{a}", "{b}"]\nscores: ["{x}", "{y}"]\n')  # fmt: skip
    assert votes.column("ranks") == [[2, 1], [2, 1]]
    (tmp_path / "in.jsonl").write_text(
        json.dumps({"text": ["Q\n\nAssistant: a", "Q\n\nAssistant: b"], "score": [BIG, BIG + 1]})
    )
    import_files([tmp_path / "in.jsonl"], tmp_path / "hh.parquet", format="hh-rlhf")
    assert read(tmp_path / "hh.parquet").column("ranks") == [[2, 1]]
    rows = [{**GOOD, "annotator": BIG}, {**GOOD, "annotator": BIG + 1, "id": BIG + 1}]
    (tmp_path / "c.jsonl").write_text("\n".join(map(json.dumps, rows)))
    table = read(tmp_path / "c.jsonl")
    assert table.column("annotator") == [str(BIG), str(BIG + 1)]
    assert table.row(1)["id"] == str(BIG + 1)


def test_a_number_beside_gaps_is_one_person_and_one_label(tmp_path):
    votes = mapped(
        tmp_path, "a,who,mark\nx,7.0,1.0\ny,7,1\nz,,2.0\n",
        'responses: ["{a}"]\nlabels: ["{mark}"]\nannotator: "{who}"\nlabel_scale: 1-to-5\n',
    )  # fmt: skip
    assert votes.column("annotator") == ["7", "7", None]
    assert votes.column("labels") == [["1"], ["1"], ["2"]]
    (tmp_path / "texts.csv").write_text("key,text\n7.0,seven\n8,eight\n")
    joined = mapped(
        tmp_path, "one,two,pick\n7,8.0,1.0\n",
        'tables: {t: {file: texts.csv, key: key}}\nresponses: ["{t[one].text}", "{t[two].text}"]\n'
        'choice: "{pick}"\nchoices: {1: [1, 2], 2: [2, 1]}\n',
    )  # fmt: skip
    assert (joined.row(0)["responses"], joined.row(0)["ranks"]) == (["seven", "eight"], [1, 2])
    columns = {"prompt": ["Tea?"] * 3, "responses": [["a", "b"]] * 3, "ranks": [[1, 2]] * 3}
    pq.write_table(pa.table({**columns, "annotator": [7.0, np.nan, None]}), tmp_path / "f.parquet")
    assert read(tmp_path / "f.parquet").column("annotator") == ["7", None, None]


def test_cells_of_csv_are_numbers_times_and_nothing(tmp_path):
    (tmp_path / "in.csv").write_text(
        "prompt,chosen,rejected,weight,time,annotator,source\nTea?,yes,no,2,,7.0,\nTea?,yes,no,,2024-05-31,7,web\n"
    )
    import_files([tmp_path / "in.csv"], tmp_path / "o.parquet", format="trl")
    table = read(tmp_path / "o.parquet")
    assert table.column("weight") == [2.0, 1.0]
    assert table.column("time") == [None, datetime.datetime(2024, 5, 31, tzinfo=datetime.UTC)]
    assert table.column("annotator") == ["7", "7"]
    assert table.column("source") == [None, "web"]


def test_decimals_and_dates_of_parquet(tmp_path):
    table = pa.table(
        {
            "prompt": ["Tea?"], "responses": [["a", "b"]], "ranks": [[1, 2]],
            "weight": pa.array([Decimal("0.25")], pa.decimal128(5, 2)), "time": pa.array([19874], pa.date32()),
        }
    )  # fmt: skip
    pq.write_table(table, tmp_path / "d.parquet")
    row = read(tmp_path / "d.parquet").row(0)
    assert (row["weight"], row["time"]) == (0.25, datetime.datetime(2024, 5, 31, tzinfo=datetime.UTC))


def test_a_broken_quote_costs_its_lines_only(tmp_path):
    text = 'a,b,w\nyes,no,1\n"y"es,no,1\nno,yes,1\n"open,yes,1\nlast,row,1\n'
    mapping = 'responses: ["{a}", "{b}"]\nranks: [1, 2]\n'
    with pytest.raises(PluralignError, match="row 2: lines 3 to 3: malformed"):
        mapped(tmp_path, text, mapping)
    votes = mapped(tmp_path, text, mapping, on_error="skip", rejects=tmp_path / "bad.jsonl")
    assert votes.column("responses") == [["yes", "no"], ["no", "yes"]]
    errors = [json.loads(line)["error"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert [error.split(":")[0] for error in errors] == ["lines 3 to 3", "lines 5 to 6"]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("weight", 10**400), ("weight", 1e308), ("weight", 1e39), ("weight", 1e-310), ("weight", float("inf")),
        ("weight", "2"), ("ranks", [10**400, 1]), ("time", "0001-01-01T00:00:00+01:00"),
        ("time", "9999-12-31T23:59:59-01:00"),
    ],
)  # fmt: skip
def test_numbers_and_times_at_the_edge_are_refused_in_one_line(column, value):
    with pytest.raises(PluralignError, match=f"rows, row 1, column '{column}'"):
        Judgments.from_rows([{**GOOD, column: value}])


def test_huge_numbers_are_scores_but_no_shares(tmp_path):
    votes = mapped(tmp_path, f"a,b,x,y\nyes,no,{10**400},{10**400 + 1}\n",
                   'responses: ["{a}", "{b}"]\nscores: ["{x}", "{y}"]\n')  # fmt: skip
    assert votes.column("ranks") == [[2, 1]]
    row = {"prompt": "Tea?", "response": "Yes"}
    with pytest.raises(PluralignError, match="column '0'"):
        read_priors([{**row, "0": 10**400, "1": 1}], "labels", "text", BUILT_IN_SCALES["binary"])
    prior = read_priors([{**row, "0": 1e308, "1": 1e308}], "labels", "text", BUILT_IN_SCALES["binary"])
    assert prior.shares.tolist() == [[0.5, 0.5]]
    with pytest.raises(PluralignError, match="origin"):
        votes_of(Judgments.from_rows([GOOD]), decay=0.5, window_days=1, origin="0001-01-01T00:00:00+01:00")


def test_weights_within_the_bounds_have_finite_sums():
    rows = [{**GOOD, "prompt": str(n), "weight": weight} for n, weight in enumerate([1e15, 1e15, 1e-15, 0])]
    state = votes_of(Judgments.from_rows(rows))
    assert np.isfinite(state.mean).all()
    assert state.votes.tolist() == [1e15, 1e15, 1e-15, 0]


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("उत्तर: कि", "उत्तर: का", "उत्तर:"),
        ("one cafe\u0301", "one cafe", "one"),
        ("flags \U0001f1e9\U0001f1ea", "flags \U0001f1e9\U0001f1f0", "flags"),
        (
            "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
            "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1ee",
            "\U0001f1e9\U0001f1ea",
        ),
        ("us: \U0001f468\u200d\U0001f469\u200d\U0001f467", "us: \U0001f468\u200d\U0001f469\u200d\U0001f466", "us:"),
        ("ok \U0001f44d\U0001f3fb", "ok \U0001f44d\U0001f3ff", "ok"),
        ("line\r\nA", "line\r\rB", "line"),
        ("The sky is blue.", "The sky is black.", "The sky is"),
        ("各 1", "各 2", "各"),
    ],
)
def test_a_shared_start_ends_between_characters(chosen, rejected, prompt):
    made = preference({"chosen": chosen, "rejected": rejected})
    assert made["prompt"] == prompt
    assert [prompt + response for response in made["responses"]] == [chosen, rejected]


def test_chats_in_cells_of_text_are_chats():
    ask, yes, no = (
        {"role": role, "content": text} for role, text in (("user", "Tea?"), ("assistant", "yes"), ("assistant", "no"))
    )
    made = preference({"chosen": json.dumps([ask, yes]), "rejected": json.dumps([ask, no])})
    assert made == {"prompt": [ask], "responses": [[yes], [no]], "ranks": [1, 2]}
    made = preference({"prompt": json.dumps([ask]), "chosen": json.dumps([yes]), "rejected": json.dumps([no])})
    assert made["prompt"] == [ask]
    made = preference({"prompt": "List", "chosen": "[1, 2]", "rejected": "[2]"})
    assert made["responses"] == ["[1, 2]", "[2]"]
