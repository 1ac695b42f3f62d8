"""PrefLib: every voter comes out once with the order that the line says, and what does not add up is named."""

import gzip
import json
import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pluralign.core.errors import PluralignError
from pluralign.judgments.formats.convert import Tally
from pluralign.judgments.formats.preflib import order_of, read_preflib
from pluralign.judgments.reading import read
from pluralign.judgments.validation import RowChecker
from pluralign.workflows.importing import import_files

TOWN = """# FILE NAME: town.toi
# TITLE: The new square: <b>what</b> goes there?
# DATA TYPE: toi
# NUMBER ALTERNATIVES: 4
# NUMBER VOTERS: 7
# NUMBER UNIQUE ORDERS: 4
# ALTERNATIVE NAME 1: Bäume & Bänke
# ALTERNATIVE NAME 2: <i>Fountain</i>
# ALTERNATIVE NAME 3: 駐車場: 30
# ALTERNATIVE NAME 4: Nothing
3: 2,{1,4},3
2: 3, 1
1: {1, 2}
1: 4
"""


def town(folder, text=TOWN, name="town.toi"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def judged(path, **options):
    tally = Tally()
    return [row for _, row in read_preflib(path, None, tally, **options)], tally


def test_each_voter_is_one_judgment_with_the_ranked_alternatives(tmp_path):
    rows, tally = judged(town(tmp_path))
    trees, fountain, cars, nothing = "Bäume & Bänke", "<i>Fountain</i>", "駐車場: 30", "Nothing"
    assert [(row["responses"], row["ranks"]) for row in rows] == [
        *[([trees, fountain, cars, nothing], [2, 1, 4, 2])] * 3,
        *[([trees, cars], [2, 1])] * 2,
        ([trees, fountain], [1, 1]),
    ]
    assert [row["annotator"] for row in rows] == [f"town.toi/{voter}" for voter in range(1, 7)]
    assert {(row["prompt"], row["source"]) for row in rows} == {("The new square: <b>what</b> goes there?", "town.toi")}
    assert tally.rows == 4
    assert list(tally.left_out.values()) == [1], "the voter who named one alternative is counted, not lost"


def test_a_ballot_says_that_the_unranked_were_seen_and_liked_less(tmp_path):
    rows, tally = judged(town(tmp_path), shape="ballot")
    assert len(rows) == 7
    assert not tally.left_out
    assert all(len(row["responses"]) == 4 for row in rows)
    assert [row["ranks"] for row in rows[3:]] == [
        [2, None, 1, None], [2, None, 1, None], [1, 1, None, None], [None, None, None, 1]
    ]  # fmt: skip


def test_the_prompt_is_the_one_given_or_the_title_or_the_name(tmp_path):
    assert judged(town(tmp_path), prompt="Which?")[0][0]["prompt"] == "Which?"
    untitled = TOWN.replace("# TITLE: The new square: <b>what</b> goes there?", "# TITLE:")
    assert judged(town(tmp_path, untitled))[0][0]["prompt"] == "town"


def test_the_same_file_gives_the_same_table_packed_or_not_and_at_every_reading(tmp_path):
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "town.toi.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + TOWN.encode()))
    tables = []
    for number, path in enumerate([town(tmp_path), town(tmp_path), tmp_path / "packed" / "town.toi.gz"]):
        done = import_files([path], tmp_path / f"{number}.parquet", format="preflib")
        tables.append(read(done.out))
    assert len({table.fingerprint for table in tables}) == 1
    assert len({tuple(table.column("id")) for table in tables}) == 1


def test_voters_of_two_files_stay_apart(tmp_path):
    soc = (
        TOWN.split("3: 2")[0].replace("toi", "soc").replace("VOTERS: 7", "VOTERS: 1").replace("ORDERS: 4", "ORDERS: 1")
    )
    files = [town(tmp_path), town(tmp_path, soc + "1: 4,3,2,1\n", "town.soc")]
    import_files(files, tmp_path / "out.parquet", format="preflib")
    annotators = read(tmp_path / "out.parquet").column("annotator")
    assert len(set(annotators)) == len(annotators) == 7


def line(text, place, replacement):
    return "\n".join(replacement if number == place else old for number, old in enumerate(text.split("\n"), start=1))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (line(TOWN, 11, "4: 2,{1,4},3"), "line 14: the counts so far sum to 8, but line 5 says NUMBER VOTERS: 7"),
        (line(TOWN, 11, "2: 2,{1,4},3"), "line 5: NUMBER VOTERS is 7, but the orders give 6"),
        (line(TOWN, 6, "# NUMBER UNIQUE ORDERS: 5"), "line 6: NUMBER UNIQUE ORDERS is 5, but the orders give 4"),
        (line(TOWN, 4, "# NUMBER ALTERNATIVES: 5"), "line 4: NUMBER ALTERNATIVES is 5, but 4 are named"),
        (line(TOWN, 4, "# NUMBER ALTERNATIVES:"), "line 4: NUMBER ALTERNATIVES is '', expected a whole number"),
        (line(TOWN, 5, "# NUMBER VOTER: 7"), "no line '# NUMBER VOTERS: N'"),
        (line(TOWN, 3, "# DATA TYPE: soc"), "line 3: DATA TYPE is 'soc', but the file's name ends in .toi"),
        (line(TOWN, 3, "# TITLE: again"), "line 3: TITLE is already on line 2"),
        (line(TOWN, 2, "# TITLE"), "line 2: found '# TITLE', expected '# KEY: value'"),
        (line(TOWN, 8, "# ALTERNATIVE NAME 2: Nothing"), "line 10: 'Nothing' already names the alternative of line 8"),
        (line(TOWN, 8, "# ALTERNATIVE NAME 2:"), "line 8: alternative 2 has no name"),
        (line(TOWN, 12, "2: 3, 5"), "line 12: alternative 5 is not among the 4"),
        (line(TOWN, 12, "2: 3, 1, 3"), "line 12: alternative 3 appears twice"),
        (line(TOWN, 12, "2: 3,, 1"), "line 12: found '3,, 1', expected numbers like"),
        (line(TOWN, 12, "2: 3, {1"), "line 12: found '3, {1', expected numbers like"),
        (line(TOWN, 12, "2: {}, 1"), "line 12: the order has an empty place"),
        (line(TOWN, 12, "2: 3 1"), "line 12: found '3 1', expected numbers like"),
        (line(TOWN, 12, "2:"), "line 12: found '', expected numbers like"),
        (line(TOWN, 12, "0: 3,1"), "line 12: found '0: 3,1', expected a count and an order"),
        (line(TOWN, 12, "two: 3,1"), "line 12: found 'two: 3,1', expected a count and an order"),
        (line(TOWN, 12, "# late: 1"), "line 12: found '# late: 1', expected a count and an order"),
        (TOWN.split("3: 2")[0], "no order follows the header"),
        ("4\n1, A\n2, B\n", "line 1: found '4', expected '# KEY: value' (files in PrefLib's format from before 2022"),
        ("", "the file is empty"),
    ],
)  # fmt: skip
def test_what_does_not_add_up_is_named_with_its_line(text, expected, tmp_path):
    with pytest.raises(PluralignError) as complaint:
        judged(town(tmp_path, text))
    assert "town.toi" in str(complaint.value)
    assert expected in str(complaint.value)


@pytest.mark.parametrize(
    ("kind", "order", "expected"),
    [
        ("soc", "1,{2,3},4", "the order has ties, and a soc file has none: use .toc"),
        ("soi", "1,{2,3}", "the order has ties, and a soi file has none: use .toi"),
        ("soc", "1,2,3", "ranks 3 of 4 alternatives, and in a soc file every order ranks all: use .soi"),
        ("toc", "1,{2,3}", "ranks 3 of 4 alternatives, and in a toc file every order ranks all: use .toi"),
    ],
)
def test_an_order_that_its_kind_of_file_cannot_hold_is_refused(kind, order, expected, tmp_path):
    head = (
        TOWN.split("3: 2")[0].replace("toi", kind).replace("VOTERS: 7", "VOTERS: 1").replace("ORDERS: 4", "ORDERS: 1")
    )
    with pytest.raises(PluralignError, match=f"town.{kind}, line 11: .*{expected}"):
        judged(town(tmp_path, f"{head}1: {order}\n", f"town.{kind}"))


def test_a_file_that_is_none_says_what_to_do(tmp_path):
    with pytest.raises(PluralignError, match="must end in .soc, .soi, .toc, .toi, .cat, .wmd"):
        judged(town(tmp_path, name="town.txt"))
    with pytest.raises(
        PluralignError, match="--shape: found 'balot', expected ranked or ballot .did you mean 'ballot'"
    ):
        judged(town(tmp_path), shape="balot")
    (tmp_path / "latin.toi").write_bytes(TOWN.replace("駐車場", "").encode("latin-1"))
    with pytest.raises(PluralignError, match="latin.toi, line 7: byte 24 is not UTF-8"):
        judged(tmp_path / "latin.toi")
    (tmp_path / "cut.toi.gz").write_bytes(gzip.compress(TOWN.encode())[:-9])
    with pytest.raises(PluralignError, match="cut.toi.gz: the gzip file is damaged"):
        judged(tmp_path / "cut.toi.gz")
    with pytest.raises(PluralignError, match="no such file"):
        judged(tmp_path / "none.toi")


def test_bad_lines_go_to_the_rejects_and_the_others_stay(tmp_path):
    source = town(tmp_path, line(TOWN, 12, "2: 3, 5"))
    done = import_files(
        [source], tmp_path / "out.parquet", format="preflib", on_error="skip", rejects=tmp_path / "bad.jsonl"
    )
    (bad,) = [json.loads(text) for text in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert (bad["row"], bad["found"]) == (12, "2: 3, 5")
    assert "alternative 5" in bad["error"]
    assert done.judgments + sum(done.tally.left_out.values()) == 5
    assert read(done.out).column("annotator")[-1] == "town.toi/6", "the refused voters keep their numbers"
    source = town(tmp_path, line(TOWN, 11, "2: 2,{1,4},3"))
    done = import_files(
        [source], tmp_path / "out.parquet", format="preflib", on_error="skip", rejects=tmp_path / "bad.jsonl"
    )
    (bad,) = [json.loads(text) for text in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert (bad["row"], done.judgments) == (5, 5)


SIGNS = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
NAMES = st.text(SIGNS, min_size=1, max_size=12).map(str.strip).filter(bool)


@st.composite
def profiles(draw):
    """A kind of file, names, and how many voters gave which order."""
    kind = draw(st.sampled_from(["soc", "soi", "toc", "toi"]))
    names = draw(st.lists(NAMES, min_size=2, max_size=6, unique=True))
    orders = {}
    for _ in range(draw(st.integers(1, 6))):
        ranked = draw(st.permutations(range(1, len(names) + 1)))
        if kind[2] == "i":
            ranked = ranked[: draw(st.integers(1, len(ranked)))]
        order = []
        for alternative in ranked:
            if order and kind[0] == "t" and draw(st.booleans()):
                order[-1] = (*order[-1], alternative)
            else:
                order.append((alternative,))
        orders[tuple(tuple(sorted(tied)) for tied in order)] = draw(st.integers(1, 5))
    return kind, draw(NAMES), names, orders


def written(kind, title, names, orders):
    """A PrefLib file, as the specification says."""
    head = [f"# FILE NAME: x.{kind}", f"# TITLE: {title}", f"# DATA TYPE: {kind}"]
    head += [f"# NUMBER ALTERNATIVES: {len(names)}", f"# NUMBER VOTERS: {sum(orders.values())}"]
    head += [f"# NUMBER UNIQUE ORDERS: {len(orders)}"]
    head += [f"# ALTERNATIVE NAME {number}: {name}" for number, name in enumerate(names, start=1)]
    for order, count in orders.items():
        places = [str(tied[0]) if len(tied) == 1 else "{" + ",".join(map(str, tied)) + "}" for tied in order]
        head.append(f"{count}: {','.join(places)}")
    return "\n".join(head) + "\n"


def back(rows):
    """The names and the orders that judgments of whole ballots come from."""
    orders = Counter()
    for row in rows:
        places = {}
        for number, rank in enumerate(row["ranks"], start=1):
            if rank is not None:
                places.setdefault(rank, []).append(number)
        orders[tuple(tuple(places[rank]) for rank in sorted(places))] += 1
    return rows[0]["responses"], dict(orders)


@given(profiles())
def test_a_file_comes_back_to_the_letter(profile):
    kind, title, names, orders = profile
    text = written(kind, title, names, orders)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{kind}"
        path.write_text(text, encoding="utf-8", newline="")
        checker = RowChecker()
        rows = [checker.check(row) for _, row in read_preflib(path, shape="ballot")]
        ranked = [checker.check({**row, "id": None}) for _, row in read_preflib(path)]
    assert written(kind, rows[0]["prompt"], *back(rows)) == text
    single = sum(count for order, count in orders.items() if sum(map(len, order)) == 1)
    assert len(ranked) == len(rows) - single
    for short in ranked:  # the judgments without the unranked are those with them, cut
        whole = next(row for row in rows if row["annotator"] == short["annotator"])
        kept = [(r, k) for r, k in zip(whole["responses"], whole["ranks"], strict=True) if k is not None]
        assert kept == list(zip(short["responses"], short["ranks"], strict=True))
    assert all(order_of(", ".join("{" + ",".join(map(str, tied)) + "}" for tied in order)) == order for order in orders)
