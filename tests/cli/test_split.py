import sys

import pytest

from pluralign.cli.main import main
from pluralign.judgments import Judgments, read
from pluralign.judgments.population import Town, simulate


@pytest.fixture
def town(tmp_path):
    judgments = simulate(Town(annotators=10, judgments_per_annotator=4, labels="also")).judgments
    judgments.write(tmp_path / "town.parquet")
    return tmp_path / "town.parquet"


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["pluralign", "split", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code or 0


def test_both_sides_are_written_and_counted(monkeypatch, capsys, town, tmp_path):
    out = tmp_path / "sides"
    assert run(monkeypatch, town, "--by", "annotator", "--out", out) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[:3] == [
        f"train: 32 judgments, 8 units (annotator); {out / 'train.parquet'}",
        f"test: 8 judgments, 2 units (annotator); {out / 'test.parquet'}",
        "no unit is in two parts",
    ]
    train, test = read(out / "train.parquet"), read(out / "test.parquet")
    assert (len(train), len(test)) == (32, 8)
    assert set(train.column("annotator")).isdisjoint(test.column("annotator"))
    assert test.label_scale == read(town).label_scale
    assert sorted(path.name for path in out.iterdir()) == ["test.parquet", "train.parquet"]


def test_statements_of_one_prompt_are_split_by_response(monkeypatch, capsys, tmp_path):
    rows = [{"prompt": "Rain?", "responses": [f"S{n % 5}"], "ranks": [1], "id": f"r{n}"} for n in range(20)]
    Judgments.from_rows(rows).write(tmp_path / "statements.parquet")
    out = tmp_path / "sides"
    assert run(monkeypatch, tmp_path / "statements.parquet", "--by", "response", "--out", out) == 0
    assert "test: 4 judgments, 1 units (response)" in capsys.readouterr().out
    assert len({texts[0] for texts in read(out / "test.parquet").column("responses")}) == 1


def test_three_parts_of_several_files_share_no_unit(monkeypatch, capsys, town, tmp_path):
    whole = read(town)
    files = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
    for file, rows in zip(files, (slice(0, 15), slice(15, None)), strict=True):
        Judgments.from_rows(whole.table.to_pylist()[rows], label_scale=whole.label_scale).write(file)
    out = tmp_path / "parts"
    assert run(monkeypatch, *files, "--by", "annotator", "--out", out, "--test", 0.2, "--tuning", 0.3) == 0
    assert "tuning: 12 judgments, 3 units (annotator)" in capsys.readouterr().out
    parts = {name: read(out / f"{name}.parquet") for name in ("train", "tuning", "test")}
    people = [set(part.column("annotator")) for part in parts.values()]
    assert [len(part) for part in parts.values()] == [20, 12, 8]
    assert len(set.union(*people)) == sum(map(len, people)) == 10
    # The held-out part does not depend on the third one.
    assert run(monkeypatch, *files, "--by", "annotator", "--out", tmp_path / "two", "--test", 0.2) == 0
    assert read(tmp_path / "two" / "test.parquet").column("id") == parts["test"].column("id")


def test_a_tuning_part_of_another_split_is_not_left_beside_new_ones(monkeypatch, capsys, town, tmp_path):
    out = tmp_path / "parts"
    assert run(monkeypatch, town, "--by", "annotator", "--out", out, "--tuning", 0.3) == 0
    before = (out / "train.parquet").read_bytes()
    assert run(monkeypatch, town, "--by", "annotator", "--out", out) == 2
    assert "tuning.parquet: is of another split" in capsys.readouterr().err
    assert (out / "train.parquet").read_bytes() == before


def test_units_share_and_seed_are_heard(monkeypatch, town, tmp_path):
    sides = {}
    for name, flags in {
        "units": ("--test-units", 3), "share": ("--test", 0.3), "seed": ("--test", 0.3, "--seed", 1)
    }.items():  # fmt: skip
        assert run(monkeypatch, town, "--by", "annotator", "--out", tmp_path / name, *flags) == 0
        sides[name] = set(read(tmp_path / name / "test.parquet").column("annotator"))
    assert sides["units"] == sides["share"] != sides["seed"]
    assert {len(side) for side in sides.values()} == {3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--by", "promt"), "did you mean 'prompt'"),
        (("--by", "source"), "split by something else"),
        (("--by", "annotator", "--test", "1.5"), "expected a number between 0 and 1"),
        (("--by", "annotator", "--test", "0.01"), "the test side would be empty"),
        (("--by", "annotator", "--test-units", "10"), "expected 1 to 9"),
        (("--by", "annotator", "--tuning", "0.8"), "tuning share: found 0.8, expected a number between 0 and 0.8"),
        (("--by", "annotator", "--test", "0.3", "--test-units", "2"), "give one of them"),
        ((), "--by"),
    ],
)
def test_bad_usage_ends_with_code_2_and_leaves_nothing(monkeypatch, capsys, town, tmp_path, arguments, message):
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, town, "--out", tmp_path / "sides", *arguments) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_missing_file_is_named(monkeypatch, capsys, tmp_path):
    assert run(monkeypatch, tmp_path / "no.parquet", "--by", "prompt", "--out", tmp_path / "sides") == 2
    assert "no.parquet" in capsys.readouterr().err
    assert not (tmp_path / "sides").exists()


def test_a_file_is_not_overwritten_by_its_own_part(monkeypatch, capsys, town):
    file = town.rename(town.with_name("train.parquet"))
    before = file.read_bytes()
    assert run(monkeypatch, file, "--by", "annotator", "--out", file.parent) == 2
    assert "would be overwritten" in capsys.readouterr().err
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["train.parquet"]
