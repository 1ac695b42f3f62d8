"""Several tables as one: names of sources, what does not fit, ids."""

import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments import BUILT_IN_SCALES, Judgments
from pluralign.judgments.joining import join_sources
from pluralign.judgments.reading import read


def rows(count=2, **values):
    return [
        {"prompt": f"Tea {number}?", "responses": ["Yes", "No"], "ranks": [1, 2], **values} for number in range(count)
    ]


def test_who_has_no_source_gets_the_name_of_the_table():
    own = Judgments.from_rows([*rows(1), *rows(1, source="web"), *rows(1)])
    other = Judgments.from_rows([{**row, "prompt": "Milk?", "weight": 2.5} for row in rows(1)])
    joined = join_sources({"club": own, "street": other})
    assert joined.column("source") == ["club", "web", "club", "street"]
    assert joined.column("prompt") == ["Tea 0?", "Tea 0?", "Tea 0?", "Milk?"]
    assert joined.column("weight") == [1, 1, 1, 2.5]
    assert own.column("source") == [None, "web", None], "the tables themselves stay as they are"
    assert joined.table.schema.equals(own.table.schema, check_metadata=True)


def test_one_table_joined_and_a_part_of_one():
    own = Judgments.from_rows(rows(5))
    assert join_sources({"club": own.select([4, 0])}).column("prompt") == ["Tea 4?", "Tea 0?"]
    assert join_sources({"club": own}).column("id") == own.column("id")


def test_joined_tables_are_written_and_read_again(tmp_path):
    """The same verdicts in both have the same ids, and a table's ids are unique: all get their table's name."""
    same = Judgments.from_rows(rows(3))
    joined = join_sources({"a": same, "b": same})
    assert joined.column("id") == [f"{name}/{one}" for name in "ab" for one in same.column("id")]
    joined.write(tmp_path / "joined.parquet")
    again = read(tmp_path / "joined.parquet")
    assert again.column("source") == ["a", "a", "a", "b", "b", "b"]
    assert again.table.equals(joined.table)


def test_a_label_scale_is_kept():
    scale = BUILT_IN_SCALES["hh-6"]
    label = scale.labels[0]
    labelled = [{"prompt": "Tea?", "responses": ["Yes"], "labels": [label]}]
    joined = join_sources({"a": Judgments.from_rows(labelled, scale), "b": Judgments.from_rows(labelled * 2, scale)})
    assert joined.label_scale == scale
    assert joined.column("source") == ["a", "b", "b"]


def test_what_does_not_fit_is_said():
    with pytest.raises(PluralignError, match="no table was given"):
        join_sources({})
    text = Judgments.from_rows(rows())
    message = [{"role": "user", "content": "Tea?"}]
    answers = [[{"role": "assistant", "content": word}] for word in ("Yes", "No")]
    chat = Judgments.from_rows([{"prompt": message, "responses": answers, "ranks": [1, 2]}])
    scaled = Judgments.from_rows(rows(), BUILT_IN_SCALES["hh-6"])
    for other in (chat, scaled):
        with pytest.raises(PluralignError, match="second: does not fit first: .* give tables of one form"):
            join_sources({"first": text, "second": other})
