"""`best-of` through the command line: what it prints and writes, and what it refuses in one line."""

import pyarrow.parquet as pq
import pytest

from architectures import write_model
from pluralign.judgments import Judgments, read
from pluralign.scoring.reward_models import build_reward_model


@pytest.fixture(scope="module")
def base(tiny_model, tmp_path_factory):
    return write_model("llama", tiny_model, tmp_path_factory.mktemp("cli-best-of") / "base")


@pytest.fixture(scope="module")
def reward(base):
    build_reward_model(base).save(base.parent / "judge")
    return base.parent / "judge"


@pytest.fixture(scope="module")
def table(town_rows, base):
    Judgments.from_rows(town_rows[:30]).write(base.parent / "town.parquet")
    return base.parent / "town.parquet"


def test_best_of_says_what_it_gained_and_writes_both_tables(run, base, reward, table, tmp_path):
    out = tmp_path / "best.jsonl"
    words = [base, table, "--reward", reward, "--n", 3, "--max-new-tokens", 4, "--temperature", 0.9]
    code, printed, _ = run("best-of", *words, "--max-prompts", 5, "--seed", 2, "--out", out)
    assert code == 0
    for expected in (
        "mean reward over 5 prompts", "first response", "all responses", "best of 3", "±",
        "at most 0.432 nats", "unfinished: ", f"written to {out}",
    ):  # fmt: skip
        assert expected in printed, expected
    assert len(read(out)) == 5
    assert set(read(out).column("source")) == {"best-of-3"}
    answers = pq.read_table(f"{out}.answers.parquet")
    assert answers.column_names == [
        "prompt_number", "prompt", "response", "reward", "log_prob", "tokens", "finished", "adapter", "best",
    ]  # fmt: skip
    assert len(answers) == 15


def test_best_of_by_softmax(run, base, reward, table, tmp_path):
    """At a very low temperature it is the best one."""
    words = [base, table, "--reward", reward, "--n", 4, "--max-new-tokens", 4, "--max-prompts", 5]
    drawn = {}
    for name, more in {
        "best": [],
        "warm": ["--select", "softmax"],
        "cold": ["--select", "softmax", "--beta", 1e-9],
    }.items():
        code, printed, err = run("best-of", *words, *more, "--out", tmp_path / f"{name}.jsonl")
        assert code == 0, err
        drawn[name] = pq.read_table(f"{tmp_path / name}.jsonl.answers.parquet").column("best").to_pylist()
        assert f"{'best' if name == 'best' else 'softmax'} of 4" in printed
    assert drawn["cold"] == drawn["best"] != drawn["warm"]
    assert set(read(tmp_path / "warm.jsonl").column("source")) == {"softmax-of-4"}


def test_best_of_complains_in_one_line(run, base, reward, table, tmp_path):
    for words, expected in (
        ([base, table, "--reward", base], "base: is not a reward model"),
        ([base, tmp_path / "none.parquet", "--reward", reward], "none.parquet: no such file"),
        ([tmp_path, table, "--reward", reward], "no model can be loaded from this folder"),
        ([base, table, "--reward", reward, "--n", 0], "'--n': Input should be greater than or equal to 1"),
    ):
        code, _, err = run("best-of", *words, "--out", tmp_path / "best.parquet")
        lines = [line for line in err.splitlines() if line.startswith("pluralign:")]
        assert (code, len(lines)) == (2, 1)
        assert expected in lines[0]
    assert not list(tmp_path.iterdir())
