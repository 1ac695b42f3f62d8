import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pluralign.core.errors import PluralignError
from pluralign.judgments import Judgments
from pluralign.judgments.split import split, units

COLUMNS = ("prompt", "annotator", "source", "group")


def table(values, column="annotator"):
    return Judgments.from_rows(
        [
            {"prompt": f"Q{n}", "responses": ["a", "b"], "ranks": [1, 2], "id": f"r{n}", column: value}
            for n, value in enumerate(values)
        ]
    )


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.sampled_from([*"abcdefgh", None]), min_size=2, max_size=40),
    column=st.sampled_from(COLUMNS[1:]),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 5),
)
def test_no_unit_stands_on_both_sides_and_the_share_is_within_one_unit(values, column, share, seed):
    judgments = table(values, column)
    try:
        train, test = split(judgments, column, share, seed)
    except PluralignError:
        sizes = np.bincount(units(judgments, column)[0])
        nearest_to_an_end = min(share, 1 - share) * len(values) <= sizes.max() / 2 + 1e-9
        assert len(sizes) < 2 or nearest_to_an_end
        return
    assert set(units(train, column)[1]).isdisjoint(units(test, column)[1])
    assert sorted(train.column("id") + test.column("id")) == sorted(judgments.column("id"))
    sizes = np.bincount(units(judgments, column)[0])
    assert abs(len(test) - share * len(values)) <= sizes.max() / 2 + 1e-9
    for side in (train, test):
        order = [judgments.column("id").index(name) for name in side.column("id")]
        assert order == sorted(order)


@pytest.mark.parametrize("column", COLUMNS)
def test_row_order_does_not_matter_and_the_seed_does(column):
    judgments = table([f"v{n % 20}" for n in range(60)], column)
    chosen = {seed: set(split(judgments, column, seed=seed)[1].column("id")) for seed in range(6)}
    shuffled = judgments.select(np.random.default_rng(0).permutation(60))
    assert set(split(shuffled, column, seed=0)[1].column("id")) == chosen[0]
    assert len({frozenset(ids) for ids in chosen.values()}) == 6
    assert all(len(ids) == 12 for ids in chosen.values())


def test_units_are_drawn_alike_whatever_their_place():
    judgments = table([f"v{n}" for n in range(10)])
    times = np.zeros(10)
    for seed in range(500):
        for name in split(judgments, "annotator", test_units=3, seed=seed)[1].column("id"):
            times[int(name[1:])] += 1
    # Each unit is drawn 150 times of 500, with a standard error of 10.2.
    assert np.abs(times - 150).max() < 41


@pytest.mark.parametrize("count", [1, 3, 7])
def test_test_units_are_counted_in_units(count):
    judgments = table([f"v{n % 8}" for n in range(50)])
    train, test = split(judgments, "annotator", test_units=count)
    assert len(set(test.column("annotator"))) == count
    assert len(set(train.column("annotator"))) == 8 - count


def test_unknown_annotators_are_units_of_their_own_and_unknown_groups_are_one():
    judgments = table([None] * 10)
    assert len(split(judgments, "annotator", test=0.3)[1]) == 3
    assert len(units(judgments, "group")[1]) == 1
    mixed = table([None, None, None, "a", "b"], "group")
    assert len(units(mixed, "group")[1]) == 3
    # An annotator called like a row's id is not that row.
    named = table([None, '{"id": "r0"}'])
    assert len(units(named, "annotator")[1]) == 2


def test_prompts_as_messages_stay_whole():
    rows = [
        {
            "prompt": [{"role": "user", "content": f"Q{n % 5}"}],
            "responses": [[{"role": "assistant", "content": text}] for text in "ab"],
            "ranks": [1, 2],
            "annotator": f"h{n}",
        }
        for n in range(25)
    ]
    train, test = split(Judgments.from_rows(rows), "prompt")
    assert (len(train), len(test), test.form) == (20, 5, "messages")
    assert len({prompt[0]["content"] for prompt in test.column("prompt")}) == 1


def shown_rows(shown):
    """Rows of (prompt, responses), each with an id of its own."""
    return Judgments.from_rows(
        [
            {"prompt": prompt, "responses": texts, "ranks": list(range(1, len(texts) + 1)), "id": f"r{n}"}
            for n, (prompt, texts) in enumerate(shown)
        ]
    )


def test_responses_that_meet_in_a_row_are_one_unit():
    # a-b, c-b and e-c-d of the first prompt hang together by b and c; f stands alone; the second prompt's a and b
    # are others; g of the first prompt meets nobody that has met somebody.
    shown = [("Q", "ab"), ("Q", "f"), ("P", "ab"), ("Q", "cb"), ("Q", "gh"), ("Q", "edc"), ("P", "c")]
    unit_of, keys = units(shown_rows([(prompt, list(texts)) for prompt, texts in shown]), "response")
    assert unit_of.tolist() == [0, 1, 2, 0, 3, 0, 4]
    assert keys == ['["Q", "a"]', '["Q", "f"]', '["P", "a"]', '["Q", "g"]', '["P", "c"]']


@settings(max_examples=100, deadline=None)
@given(
    shown=st.lists(
        st.tuples(st.sampled_from("QP"), st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=3, unique=True)),
        min_size=2,
        max_size=25,
    ),
    order=st.randoms(use_true_random=False),
    seed=st.integers(0, 3),
)
def test_no_response_of_a_prompt_stands_on_both_sides(shown, order, seed):
    judgments = shown_rows(shown)
    unit_of, keys = units(judgments, "response")
    # The same units in another way: sets of (prompt, response) are joined until no two of them meet.
    sets: list[set] = []
    for prompt, texts in shown:
        own = {(prompt, text) for text in texts}
        met = [one for one in sets if one & own]
        sets = [one for one in sets if not one & own] + [own.union(*met)]
    found = [next(n for n, one in enumerate(sets) if (prompt, texts[0]) in one) for prompt, texts in shown]
    assert (unit_of[:, None] == unit_of).tolist() == (np.array(found)[:, None] == np.array(found)).tolist()
    if len(keys) < 2:
        return
    train, test = split(judgments, "response", seed=seed, test_units=len(keys) // 2)
    sides = [{(row["prompt"], text) for row in side.rows() for text in row["responses"]} for side in (train, test)]
    assert sides[0].isdisjoint(sides[1])
    assert sorted(train.column("id") + test.column("id")) == sorted(judgments.column("id"))
    # The same units are held out from shuffled rows.
    places = list(range(len(shown)))
    order.shuffle(places)
    again = split(judgments.select(places), "response", seed=seed, test_units=len(keys) // 2)[1]
    assert set(again.column("id")) == set(test.column("id"))


def test_a_known_conversation_is_split_by_statement():
    # Every person says something of every statement, a row for each.
    rows = [("Rain?", [f"S{n % 10}"]) for n in range(50)]
    train, test = split(shown_rows(rows), "response", test=0.3)
    assert (len(train), len(test)) == (35, 15)
    assert len({texts[0] for texts in test.column("responses")}) == 3
    with pytest.raises(PluralignError, match="all 50 judgments"):
        split(shown_rows(rows), "prompt")


def test_labels_keep_their_scale():
    from pluralign.judgments.population import Town, simulate

    judgments = simulate(Town(labels="only", annotators=10)).judgments
    for side in split(judgments, "annotator"):
        assert side.label_scale == judgments.label_scale


@pytest.mark.parametrize(
    ("values", "settings", "message"),
    [
        (["a", "a"], {}, "all 2 judgments"),
        (["a"], {}, "split by something else"),
        (["a", "b"], {"test": 0.0}, "expected a number between 0 and 1"),
        (["a", "b"], {"test": 1.0}, "expected a number between 0 and 1"),
        (["a", "b"], {"test": float("nan")}, "expected a number between 0 and 1"),
        (["a", "b"], {"test": 0.1}, "the test side would be empty"),
        (["a", "b"], {"test": 0.9}, "the training side would be empty"),
        (["a", "b"], {"test_units": 0}, "expected 1 to 1"),
        (["a", "b"], {"test_units": 2}, "expected 1 to 1"),
        (["a", "b"], {"by": "annotatr"}, "did you mean 'annotator'"),
    ],
)
def test_what_cannot_be_split_is_refused(values, settings, message):
    with pytest.raises(PluralignError, match=message):
        split(table(values), **{"by": "annotator", **settings})
