"""Weights of annotators from a file: what is multiplied, and which files are refused."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.judgments.annotator_weights import read_annotator_weights, with_annotator_weights


def written(folder, **columns):
    pq.write_table(pa.table(columns), folder / "annotators.parquet")
    return folder / "annotators.parquet"


def test_weights_are_read_by_name(tmp_path):
    file = written(tmp_path, annotator=["ann", None, "bo"], weight=[0.5, 9.0, 0.0], flags=[["careless"], [], []])
    assert read_annotator_weights(file) == {"ann": 0.5, "bo": 0.0}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"annotator": ["ann"]}, "lacks the column weight"),
        ({"name": ["ann"], "reliability": [1.0]}, "lacks the column annotator and weight"),
        ({"annotator": ["ann", "bo"], "weight": [1.0, -1.0]}, "row 2, column weight: found -1.0"),
        ({"annotator": ["ann"], "weight": [float("nan")]}, "row 1, column weight"),
        ({"annotator": ["ann"], "weight": pa.array([None], pa.float64())}, "row 1, column weight"),
        ({"annotator": ["ann"], "weight": ["much"]}, "found 'much'|found much"),
        ({"annotator": ["ann", "ann"], "weight": [1.0, 0.5]}, "row 2: names the annotator"),
    ],
)
def test_a_file_with_other_content_is_refused(tmp_path, columns, message):
    with pytest.raises(PluralignError, match=message):
        read_annotator_weights(written(tmp_path, **columns))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(PluralignError, match="no such file"):
        read_annotator_weights(tmp_path / "missing.parquet")
    (tmp_path / "text.parquet").write_text("annotator,weight\n")
    with pytest.raises(PluralignError, match="not a readable Parquet file"):
        read_annotator_weights(tmp_path / "text.parquet")


def test_nothing_else_of_a_judgment_changes(town_rows):
    judgments = Judgments.from_rows([{**row, "weight": 1 + index % 3} for index, row in enumerate(town_rows)])
    weighted = with_annotator_weights(judgments, {"w0": 0.25, "nobody": 0.0})
    factor = [0.25 if name == "w0" else 1.0 for name in judgments.column("annotator")]
    expected = [weight * own for weight, own in zip(judgments.column("weight"), factor, strict=True)]
    assert weighted.column("weight") == expected
    assert weighted.table.schema.equals(judgments.table.schema, check_metadata=True)
    assert weighted.table.drop_columns("weight").equals(judgments.table.drop_columns("weight"))


def test_weights_of_zero_alone_leave_nothing():
    judgments = Judgments.from_rows([{"prompt": "a", "responses": ["b", "c"], "ranks": [1, 2], "annotator": "ann"}])
    with pytest.raises(PluralignError, match="weight 0"):
        with_annotator_weights(judgments, {"ann": 0.0})
