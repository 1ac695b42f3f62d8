"""Side tables: every supported source gives the same numbers, and bad ones stop with the place and the fix."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import BUILT_IN_SCALES
from pluralign.judgments.table import Judgments
from pluralign.scoring.panels import people_of
from pluralign.scoring.side_tables import (
    Columns,
    annotator_table,
    estimator_settings,
    response_table,
    with_attributes,
    with_covariates,
)

COLUMNS = {"response": ["bus", "car", "walk"], "minutes": [30.0, 20.0, 50.5], "dry": [True, True, False]}


def choices(*annotators, prompts=("Monday", "Tuesday")):
    """Each annotator ranks two of three modes under each prompt."""
    rows = [
        {"prompt": prompt, "responses": shown, "ranks": [1, 2], "annotator": name}
        for name in annotators
        for prompt, shown in zip(prompts, (["bus", "car"], ["walk", "bus"]), strict=True)
    ]
    return people_of(Judgments.from_rows(rows))


def written(folder, kind):
    table = pa.table(COLUMNS)
    if kind == "csv":
        (folder / "t.csv").write_text("response,minutes,dry\nbus,30,1\ncar,20,1\nwalk,50.5,0\n")
    elif kind == "jsonl":
        (folder / "t.jsonl").write_text("\n".join(json.dumps(row) for row in table.to_pylist()))
    elif kind == "parquet":
        pq.write_table(table, folder / "t.parquet")
    return {"pandas": table.to_pandas(), "arrow": table, "columns": COLUMNS}.get(kind, folder / f"t.{kind}")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "pandas", "arrow", "columns"])
def test_every_source_gives_the_same_numbers(tmp_path, kind):
    table = response_table(written(tmp_path, kind))
    assert table.names == ["minutes", "dry"]
    assert table.values.tolist() == [[30, 1], [20, 1], [50.5, 0]]
    assert table.fingerprint() == response_table(COLUMNS).fingerprint()


def test_attributes_are_aligned_and_scaled():
    people, _, columns = with_attributes(choices("ann"), response_table(COLUMNS))
    features = np.asarray(people.panel.features)
    raw = features * columns.spread + columns.mean
    expected = {"bus": 30.0, "car": 20.0, "walk": 50.5}
    assert raw[:, 0] == pytest.approx([expected[response] for response in people.items.responses])
    assert features.mean(0) == pytest.approx(0.0)
    assert features.std(0) == pytest.approx(1.0)


def test_a_prompt_column_tells_equal_responses_apart():
    rows = [
        (prompt, response, float(number))
        for number, (prompt, response) in enumerate(
            [("Tuesday", "bus"), ("Monday", "bus"), ("Monday", "car"), ("Tuesday", "walk"), ("Sunday", "bus")]
        )
    ]
    frame = pd.DataFrame(rows, columns=["prompt", "response", "minutes"])
    people, _, columns = with_attributes(choices("ann"), response_table(frame))
    raw = np.asarray(people.panel.features)[:, 0] * columns.spread[0] + columns.mean[0]
    of = {(people.items.prompts[item], response): value for item, response, value in
          zip(people.items.item, people.items.responses, raw, strict=True)}  # fmt: skip
    assert of == pytest.approx({(prompt, response): value for prompt, response, value in rows[:4]})
    with pytest.raises(PluralignError, match=r"row 2.*'bus'.*'prompt'"):
        response_table(frame.drop(columns="prompt"))


def test_messages_are_found_by_their_contents():
    def message(text):
        return [{"role": "assistant", "content": text}]

    rows = [{"prompt": [{"role": "user", "content": "How?"}], "responses": [message("bus"), message("car")],
             "ranks": [1, 2]}]  # fmt: skip
    people = people_of(Judgments.from_rows(rows))
    values = {"minutes": [30, 20]}
    as_text = response_table({"response": ["bus", "car"], "prompt": ["How?", "How?"], **values})
    as_messages = response_table({"response": [message("bus"), message("car")], **values})
    features = [with_attributes(people, table)[0].panel.features for table in (as_text, as_messages)]
    assert np.asarray(features).tolist() == [[[1], [-1]], [[1], [-1]]]


def test_an_attribute_that_never_differs_is_one_error():
    with pytest.raises(PluralignError, match="'fare' has the same value"):
        with_attributes(choices("ann"), response_table({**COLUMNS, "fare": [2, 2, 2]}))


def test_the_bar_of_a_label_has_a_coefficient_of_its_own():
    rows = [{"prompt": "", "responses": [response], "labels": ["agree"], "annotator": "ann"}
            for response in COLUMNS["response"]]  # fmt: skip
    people = people_of(Judgments.from_rows(rows, BUILT_IN_SCALES["agree-pass-disagree"]))
    features = np.asarray(with_attributes(people, response_table(COLUMNS))[0].panel.features)
    assert features.shape == (4, 3)
    assert features[3].tolist() == [0, 0, 1]
    assert (features[:3, 2] == 0).all()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"response": ["bus"], "minutes": ["long"]}, r"row 1, column 'minutes': found 'long', expected a number"),
        ({"response": ["bus"], "minutes": [None]}, r"row 1, column 'minutes': found no value"),
        ({"response": ["bus"], "minutes": [float("nan")]}, r"column 'minutes'"),
        ({"response": ["bus"], "minutes": [[1.0]]}, r"column 'minutes'"),
        ({"responses": ["bus"], "minutes": [1]}, r"did you mean 'responses'"),
        ({"response": ["bus"]}, r"expected numeric columns"),
        ({"response": [None], "minutes": [1]}, r"row 1, column 'response'"),
        ({"response": [], "minutes": []}, r"no rows"),
    ],
)
def test_a_bad_table_is_one_error(columns, said):
    with pytest.raises(PluralignError, match=said):
        response_table(columns)


def test_what_is_no_table_is_one_error():
    with pytest.raises(PluralignError, match="annotator_features: found int"):
        annotator_table(3)


def test_missing_responses_are_counted_and_the_first_is_named():
    table = response_table({"response": ["bus", "tram"], "minutes": [30, 20]})
    with pytest.raises(PluralignError, match=r"lacks 2 of the 3 responses.*first is response 'car'"):
        with_attributes(choices("ann"), table)
    prompted = response_table({"response": ["bus"], "prompt": ["Monday"], "minutes": [30]})
    with pytest.raises(PluralignError, match=r"lacks 3 of the 4.*response 'car', prompt 'Monday'"):
        with_attributes(choices("ann"), prompted)


def test_covariates_get_a_constant_and_whole_numbers_are_ids():
    table = annotator_table(pd.DataFrame({"annotator": [1.0, 2.0, 3.0], "age": [30, 40, 90]}))
    people, columns = with_covariates(choices("3", "1"), table)
    covariates = np.asarray(people.panel.covariates)
    assert covariates[:, 0].tolist() == [1, 1]
    assert covariates[:, 1] * columns.spread + columns.mean == pytest.approx([90, 30])


def test_annotators_without_ids_or_numbers_are_one_error():
    table = annotator_table({"annotator": ["ann", "bob"], "age": [30, 40]})
    with pytest.raises(PluralignError, match=r"lacks 1 of the 3 annotators.*first is annotator 'cyd'"):
        with_covariates(choices("ann", "bob", "cyd"), table)
    with pytest.raises(PluralignError, match="2 judgments have no annotator"):
        with_covariates(choices("ann", None), table)


def test_covariates_that_depend_on_each_other_are_one_error():
    table = annotator_table({"annotator": ["a", "b", "c", "d"], "young": [1, 0, 1, 0], "old": [0, 1, 0, 1]})
    with pytest.raises(PluralignError, match="young, old and the constant"):
        with_covariates(choices("a", "b", "c", "d"), table)


@pytest.mark.parametrize(
    ("shared", "options", "said"),
    [
        (["prize"], {}, "did you mean 'price'"),
        (["price", "minutes"], {}, "types could not differ"),
        ([], {"noise": True, "types": "1"}, "2 types or more"),
    ],
)
def test_settings_that_cannot_be_are_one_error(shared, options, said):
    columns = Columns(["minutes", "price"], np.zeros(2), np.ones(2))
    with pytest.raises(PluralignError, match=said):
        estimator_settings(columns, shared, **{"noise": False, "bars": False, "types": "auto"} | options)
    with pytest.raises(PluralignError, match="needs response features"):
        estimator_settings(None, ["price"], noise=False, bars=False, types="auto")
