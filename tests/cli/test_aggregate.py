"""`aggregate` through the command line: the table that it prints, and what it refuses in one line."""

import json

import pytest
import yaml

from mixtures import write_mixture
from pluralign.judgments import Judgments


@pytest.fixture(scope="module")
def people(tiny_model, town_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "people"
    write_mixture(tiny_model, folder, {"type-1": 0.7, "type-2": 0.3})
    Judgments.from_rows(town_rows).write(folder / "town.parquet")
    config = {"objective": "em-dpo", "model_name_or_path": str(tiny_model)}
    config |= {"train_files": ["gone.parquet"], "eval_files": [str(folder / "town.parquet")]}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.json").write_text("{}")
    return folder


def test_a_run_is_aggregated_and_the_table_printed(run, people, tiny_model, tmp_path, caplog):
    code, out, _ = run(
        "aggregate", people, "--out", tmp_path / "out", "--samples", 2, "--max-new-tokens", 6, "--max-prompts", 5,
        "--priority", "2,1", "--policy", f"plain={tiny_model}", "--seed", 3, "--offer", "mixture", "--offer", "merge",
        "--trials", 2, "--criterion", "relative-regret",
    )  # fmt: skip
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split()[:8] == ["win", "rate", "against", "base", "type", "1", "type", "2"]
    assert [line.split()[0] for line in lines[1:10]] == [
        "type-1", "type-2", "base", "mixture", "merge", "population", "utilitarian", "max-min-reward", "plain",
    ]  # fmt: skip
    assert lines[3].split()[1] == "0.50"
    assert sum(" * " in line for line in lines[1:10]) == 1
    assert "best by relative-regret" in lines[-1]
    assert "report.html" in lines[-1]
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    winner = metrics["winner"]
    assert lines[10:-1] == [
        f"price of {winner} for every type, in win rate against base:",
        *(
            f"  type {kind}: {metrics[f'win_rate/{winner}/type={kind}']:.2f}, own policy "
            f"{metrics[f'win_rate/type-{kind}/type={kind}']:.2f}; regret "
            f"{metrics[f'regret/{winner}/type={kind}']:.2f} nats"
            for kind in (1, 2)
        ),
    ]
    warnings = json.loads((tmp_path / "out" / "aggregate.json").read_text())["warnings"]
    assert "100 % of the responses of base were cut at 6 tokens" in " ".join(warnings)
    assert [caplog.messages.count(warning) for warning in warnings] == [1] * len(warnings)
    caplog.clear()
    assert metrics["prompts"] == 5
    assert f"{metrics['max_regret/base']:.2f}" in lines[3]
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert (config["priority"], config["seed"], config["policies"]) == ([2.0, 1.0], 3, {"plain": str(tiny_model)})
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"README.md", "aggregate.json", "answers.parquet", "environment.json", "mixture", "report.html"} <= names
    again = run(
        "aggregate", people, "--out", tmp_path / "out", "--samples", 2, "--max-new-tokens", 6, "--max-prompts", 5,
        "--priority", "type-1=2", "--policy", f"plain={tiny_model}", "--seed", 3, "--offer", "mixture", "--offer",
        "merge", "--trials", 2, "--criterion", "relative-regret",
    )  # fmt: skip
    assert (again[0], again[1]) == (0, out), "the same priorities by name, and no rework"
    assert [caplog.messages.count(warning) for warning in warnings] == [1] * len(warnings)
    assert run("report", tmp_path / "out", "--out", tmp_path / "page.html")[0] == 0
    assert "max-min-reward" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--priority", "type-3=1"], "no type 'type-3'; there are: type-1, type-2"),
        (["--priority", "1,many"], "--priority: found 'many', expected a number"),
        (["--priority", "1=2", "--priority", "1=3"], "--priority: '1' is given twice"),
        (["--policy", "plain"], "--policy: found 'plain', expected NAME=FOLDER"),
        (["--policy", "mixture=x"], "the name 'mixture' is taken"),
        (["--offer", "blend"], "offer: found 'blend', expected mixture, merge, pooled, best-of"),
        (["--judge", "1=x"], "judge: type-2: no reward model"),
        (["--prompts", "none.jsonl"], "none.jsonl: no such file"),
        (["--distill"], "gone.parquet: no such file"),
        (["--samples", "0"], "--samples"),
        (["--candidates", "0"], "--candidates"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(words, expected, run, people, tmp_path):
    code, _, err = run("aggregate", people, "--out", tmp_path / "out", "--max-new-tokens", 4, *words)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert expected in err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_no_run_of_types_is_named(run, tiny_model, tmp_path):
    code, _, err = run("aggregate", tiny_model, "--out", tmp_path / "out")
    assert code == 2
    assert "is not a run of em-dpo (it has no mixture.json)" in err


def test_one_type_is_said_to_be_enough(run, tiny_model, tmp_path):
    write_mixture(tiny_model, tmp_path / "one", {"type-1": 1.0})
    code, out, _ = run("aggregate", tmp_path / "one", "--out", tmp_path / "out")
    assert code == 0
    assert "single annotator type, so there is nothing to aggregate" in out
    assert not (tmp_path / "out").exists()
