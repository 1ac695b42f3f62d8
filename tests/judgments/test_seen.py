"""Texts that repeat earlier ones are found exactly, whatever their hashes."""

import random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pluralign.core.errors import RowError
from pluralign.judgments import seen
from pluralign.judgments.schema import schema
from pluralign.judgments.seen import SeenTexts, all_differ, text_hashes
from pluralign.judgments.validation import RowChecker

TEXT = st.one_of(
    st.text("ab\0ü", max_size=3), st.text("ab", min_size=60, max_size=68), st.sampled_from(["x" * 200, ""])
)


def colliding(texts):
    """Hashes of which many are equal."""
    return np.array([len(text) % 3 for text in texts.to_pylist()], np.uint64)


@pytest.mark.parametrize("hashes", [text_hashes, colliding])
@settings(max_examples=60, deadline=None)
@given(parts=st.lists(st.lists(TEXT, max_size=12), max_size=8))
def test_repeated_texts_are_those_that_a_set_finds(parts, hashes):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(seen, "text_hashes", hashes)
        found, known = SeenTexts(), set()
        for part in parts:
            repeated = found.add(pa.array(part, pa.string()))
            assert repeated.tolist() == [text in known or text in part[:place] for place, text in enumerate(part)]
            known |= {*part}
        assert sorted(text for part in found.parts for text in part.to_pylist()) == sorted(known)


@settings(max_examples=60, deadline=None)
@example(parts=[["a", "b\0"]])
@given(parts=st.lists(st.lists(TEXT, max_size=12), max_size=8))
def test_equal_texts_have_equal_hashes_and_these_texts_no_others(parts):
    texts = [text for part in parts for text in part]
    hashes = np.concatenate([text_hashes(pa.array(["pad", *part], pa.string())[1:]) for part in [*parts, []]])
    assert len({*hashes.tolist()}) == len({*texts})
    chunks = pa.chunked_array([pa.array(part, pa.string()) for part in parts], pa.string())
    assert all_differ(chunks) == (len({*texts}) == len(texts))


@pytest.mark.parametrize("own", [0.0, 0.3, 1.0], ids=["all derived", "mixed", "all given"])
@pytest.mark.parametrize("seed", range(4))
def test_ids_of_columns_are_those_of_single_rows(own, seed):
    draw = random.Random(seed)
    base = {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}
    people = [{**base, "annotator": str(number)} for number in range(30)]
    names = [RowChecker().check(row)["id"] for row in people]
    names += [f"{name}-{number}" for name in names[:10] for number in (2, 3)]
    names += [f"row {number}" for number in range(60)]
    rows = [{**draw.choice(people), "id": draw.choice(names) if draw.random() < own else None} for _ in range(240)]
    single, columns = RowChecker(), RowChecker()
    expected, found = [], []
    for row in rows:
        try:
            expected.append(single.check(row)["id"])
        except RowError as complaint:
            expected.append(str(complaint))
    for start in range(0, len(rows), 20):
        contents = [RowChecker().content(row) for row in rows[start : start + 20]]
        batch, errors = columns.identify(pa.RecordBatch.from_pylist(contents, schema=schema("text")))
        found += [str(errors[at]) if at in errors else name for at, name in enumerate(batch.column("id").to_pylist())]
    assert found == expected
    assert own < 1 or any("already used" in each for each in found)
