"""The formats: what goes in comes out, and every source row is accounted for on real data."""

import csv
import gzip
import json
from pathlib import Path

import pytest

from pluralign.core.errors import PluralignError, RowError
from pluralign.judgments.formats.hh_rlhf import transcripts
from pluralign.judgments.formats.mapping import read_mapping, read_mapping_file
from pluralign.judgments.formats.trl import preference
from pluralign.judgments.reading import read
from pluralign.workflows.importing import import_files

MAPPINGS = Path(__file__).parents[2] / "examples" / "mappings"


def message(role, text):
    return {"role": role, "content": text}


def test_trl_rows_of_every_shape():
    user, yes, no = message("user", "Tea?"), message("assistant", "Yes"), message("assistant", "No")
    explicit = {"prompt": "Tea?", "chosen": "Yes", "rejected": "No"}
    assert preference(explicit) == {"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": [1, 2]}
    chat = preference({"prompt": [user], "chosen": [yes], "rejected": [no]})
    assert preference({"chosen": [user, yes], "rejected": [user, no]}) == chat
    implicit = preference({"chosen": "Is it blue? Bluer", "rejected": "Is it blue? Bluest"})
    assert implicit["prompt"] + implicit["responses"][0] == "Is it blue? Bluer"
    assert implicit["responses"] == [" Bluer", " Bluest"], "no response is cut inside a word"
    with pytest.raises(RowError, match="unknown column 'choosen'"):
        preference({"choosen": "a", "rejected": "b"})
    with pytest.raises(PluralignError, match="the list, row 2, column 'chosen'"):
        read([explicit, {"rejected": "b"}])
    assert read([{**explicit, "margin": 2.0}], columns={"margin": None}).row(0)["ranks"] == [1, 2]


@pytest.mark.parametrize("name", ["dsp_clean_helpful.test", "dsp_clean_webgpt.test", "harmless_base_test"])
def test_transcripts_come_back_to_the_letter_on_every_real_row(name, shared_data):
    read_rows = refused = 0
    with gzip.open(shared_data / "hh_rlhf" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            read_rows += 1
            try:
                made = transcripts(row)
            except RowError:
                refused += 1
                continue
            whole = row["text"] if "text" in row else [row["chosen"], row["rejected"]]
            assert [made["prompt"] + response for response in made["responses"]] == whole
            assert made["prompt"].endswith("Assistant:")
            assert all(response.strip() for response in made["responses"])
            if "score" in row:
                (a, b), (high, low) = row["score"], made["ranks"]
                assert (a > b, a == b) == (high < low, high == low)
    assert refused <= 0.002 * read_rows


REAL = {
    "convarg": (["convarg_crowd/judgments.csv.gz"], {"mapping": "convarg.yaml"}, 84445, 1),
    "pandalm": (["pandalm/testset-v1.json.gz"], {"mapping": "pandalm.yaml"}, 999, 3),
    "qa": (["qa_feedback_rank4/dev_feedback.jsonl.gz"], {"mapping": "qa_feedback.yaml"}, 500, 1),
    "helpsteer2": (
        ["helpsteer2_subset/train.jsonl.gz", "helpsteer2_subset/eval.jsonl.gz"],
        {"mapping": "helpsteer2.yaml"},
        1000,
        1,
    ),
    "helpful": (["hh_rlhf/dsp_clean_helpful.test.jsonl.gz"], {"format": "hh-rlhf"}, 2352, 1),
    "harmless": (["hh_rlhf/harmless_base_test.jsonl.gz"], {"format": "hh-rlhf"}, 2312, 1),
    "webgpt": (["hh_rlhf/dsp_clean_webgpt.test.jsonl.gz"], {"format": "hh-rlhf"}, 901, 1),
}


@pytest.mark.parametrize("name", REAL)
def test_every_row_of_real_data_is_a_judgment_or_a_reject(name, shared_data, tmp_path):
    files, options, rows, per_row = REAL[name]
    if "mapping" in options:
        options = {"format": "mapping", "mapping": str(MAPPINGS / options["mapping"])}
    done = import_files(
        [shared_data / file for file in files],
        tmp_path / "out.parquet",
        on_error="skip",
        rejects=tmp_path / "bad.jsonl",
        **options,
    )
    assert done.tally.rows == rows
    assert done.judgments + sum(done.rejected.values()) == rows * per_row
    assert sum(done.rejected.values()) <= 0.07 * rows * per_row
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == sum(done.rejected.values())
    assert len(read(tmp_path / "out.parquet")) == done.judgments


def test_convarg_votes_keep_their_meaning(shared_data, tmp_path):
    import_files(
        [shared_data / "convarg_crowd" / "judgments.csv.gz"], tmp_path / "out.parquet", format="mapping",
        mapping=str(MAPPINGS / "convarg.yaml"), on_error="skip", rejects=tmp_path / "bad.jsonl",
    )  # fmt: skip
    with gzip.open(shared_data / "convarg_crowd" / "arguments.csv.gz", "rt", encoding="utf-8") as file:
        texts = {row["arg"]: row["text"] for row in csv.DictReader(file)}
    found = read(tmp_path / "out.parquet").rows()
    meaning = {"a1": [1, 2], "a2": [2, 1], "equal": [1, 1]}
    with gzip.open(shared_data / "convarg_crowd" / "judgments.csv.gz", "rt", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if texts[row["arg1"]] == texts[row["arg2"]]:
                continue
            judgment = next(found)
            assert judgment["responses"] == [texts[row["arg1"]], texts[row["arg2"]]]
            assert judgment["ranks"] == meaning[row["label"]]
            assert (judgment["annotator"], judgment["prompt"]) == (row["annotator"], row["topic"])
    assert next(found, None) is None


def test_polis_in_both_shapes_counts_what_the_file_holds(shared_data, tmp_path):
    votes = shared_data / "polis_open" / "brexit-consensus.participants-votes.csv.gz"
    with gzip.open(votes, "rt", encoding="utf-8") as file:
        people = {
            row["participant"]: {key: value for key, value in row.items() if key.isdigit() and value != ""}
            for row in csv.DictReader(file)
        }
    import_files([votes], tmp_path / "votes.parquet", format="polis", shape="votes", keep_moderated=True)
    table = read(tmp_path / "votes.parquet")
    assert len(table) == sum(len(cast) for cast in people.values())
    names = {"1": "agree", "0": "pass", "-1": "disagree"}
    expected = sorted(names[value] for cast in people.values() for value in cast.values())
    assert sorted(labels[0] for labels in table.column("labels")) == expected
    assert table.label_scale.name == "agree-pass-disagree"
    done = import_files([votes], tmp_path / "people.parquet", format="polis", shape="people", keep_moderated=True)
    assert done.judgments + sum(done.tally.left_out.values()) == len(people)
    for row in read(tmp_path / "people.parquet").rows():
        cast = people[row["annotator"].removeprefix("brexit-consensus/")]
        order = {"1": 1, "0": 2, "-1": 3}
        wanted = [order[value] for value in cast.values()]
        assert len(row["ranks"]) == len(cast)
        for a, rank_a in zip(wanted, row["ranks"], strict=True):
            for b, rank_b in zip(wanted, row["ranks"], strict=True):
                assert (a < b) == (rank_a < rank_b)


def mapped(tmp_path, mapping, rows, tally=None):
    (tmp_path / "m.yaml").write_text(mapping)
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = []
    for block in read_mapping(tmp_path / "d.jsonl", read_mapping_file(tmp_path / "m.yaml"), tally):
        for number, row, complaint in block.items(range(len(block))):
            if complaint is not None:
                raise complaint.at(tmp_path / "d.jsonl", number)
            rows.append(row)
    return rows


def test_a_mapping_makes_several_judgments_of_a_row_and_counts_empty_votes(tmp_path):
    from pluralign.judgments.formats.convert import Tally

    mapping = """
prompt: "{q}!"
responses: "{answers}"
votes:
  - {source: taste, scores: "{taste}", annotator: "{who.name}"}
  - {source: smell, scores: ["{smell.0}", "{smell.1}"], weight: "{w}"}
"""
    tally = Tally()
    rows = [
        {"q": "Tea", "answers": ["a", "b"], "taste": [1, 2], "smell": [3, 3], "who": {"name": "ann"}, "w": 2},
        {
            "q": "Milk",
            "answers": ["a", "b"],
            "taste": [None, None],
            "smell": [2, 1],
            "who": {"name": 7},
            "w": "0.5",
        },
    ]
    found = mapped(tmp_path, mapping, rows, tally)
    assert [(row["prompt"], row["source"], row["ranks"]) for row in found] == [
        ("Tea!", "taste", [2, 1]),
        ("Tea!", "smell", [1, 1]),
        ("Milk!", "smell", [1, 2]),
    ]
    assert (found[0]["annotator"], found[1]["weight"], found[2]["weight"]) == ("ann", 2.0, 0.5)
    assert list(tally.left_out.values()) == [1]


def test_comparisons_become_the_ranking_they_agree_with(tmp_path):
    mapping = 'responses: ["a", "b", "c"]\npairwise: {values: "{p}", first: 1, second: 2, tie: 0}\n'
    assert mapped(tmp_path, mapping, [{"p": [2, 1, 1]}])[0]["ranks"] == [2, 1, 3]
    assert mapped(tmp_path, mapping, [{"p": [0, 1, 1]}])[0]["ranks"] == [1, 1, 3]
    with pytest.raises(PluralignError, match="row 1, column 'pairwise': the comparison of 1 and 2 contradicts"):
        mapped(tmp_path, mapping, [{"p": [1, 2, 1]}])
    with pytest.raises(PluralignError, match="found 2 comparisons, expected 3"):
        mapped(tmp_path, mapping, [{"p": [1, 2]}])


def test_joins_find_their_rows_or_say_which_is_missing(tmp_path):
    (tmp_path / "texts.csv").write_text("key,body\nx,hello\ny,bye\n")
    mapping = (
        "tables: {texts: {file: texts.csv, key: key}}\n"
        'responses: ["{texts[a].body}", "{texts[b].body}"]\nranks: [1, 2]\n'
    )
    assert mapped(tmp_path, mapping, [{"a": "x", "b": "y"}])[0]["responses"] == ["hello", "bye"]
    with pytest.raises(PluralignError, match="row 1, column 'b': 'z' is not in the table 'texts'"):
        mapped(tmp_path, mapping, [{"a": "x", "b": "z"}])
    (tmp_path / "texts.csv").write_text("key,body\nx,hello\nx,bye\n")
    with pytest.raises(PluralignError, match="texts.csv, row 2, column 'key': 'x' appears twice"):
        mapped(tmp_path, mapping, [{"a": "x", "b": "x"}])


@pytest.mark.parametrize(
    ("mapping", "expected"),
    [
        ("responses: ['{a}']\n", "expected one of ranks, places, scores"),
        ("responses: ['{a}']\nranks: ['1']\nscores: ['1']\n", "expected one of ranks, places, scores"),
        ("ranks: ['1']\n", "the key 'responses' is missing"),
        ("responses: ['{t[a].b}']\nranks: ['1']\n", "unknown table 't'"),
        ("responses: ['{a}']\nchoice: '{a}'\n", "'choice' needs 'choices'"),
        ("responses: ['{a}']\nlabels: ['{a}']\nlabel_scale: 1-to-6\n", "neither built in"),
        ("votes: {a: 1}\nresponses: ['{a}']\n", "expected a list, one entry per judgment"),
        ("responses: ['{a}']\nresponses: ['{a}']\n", "twice"),
        ("- a\n", "expected keys and values"),
        ("", "the file is empty"),
    ],
)
def test_a_wrong_mapping_is_named_with_its_line(mapping, expected, tmp_path):
    (tmp_path / "m.yaml").write_text(mapping)
    with pytest.raises(PluralignError, match="m.yaml") as complaint:
        read_mapping_file(tmp_path / "m.yaml")
    assert expected in str(complaint.value)
