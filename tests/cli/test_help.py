"""What the command line says of itself: the order of commands, the objectives and their keys, usage in one line."""

import dataclasses
import importlib
import inspect
from typing import get_args

import pytest

from pluralign.cli import data, models, policies, votes
from pluralign.cli.fields import keys_of
from pluralign.cli.main import COMMANDS
from pluralign.training.objectives import OBJECTIVES

ORDER = [
    "demo",
    "import",
    "export",
    "split",
    "audit",
    "train",
    "calibrate",
    "evaluate",
    "score",
    "best-of",
    "route",
    "aggregate",
    "votes",
    "report",
    "env",
]

FUNCTIONS = {
    data.audit: "workflows.audit.run:audit",
    models.calibrate: "workflows.calibrate:calibrate",
    models.evaluate: "workflows.evaluate:evaluate",
    models.score: "workflows.score:score",
    policies.best_of: "workflows.best_of:best_of",
    policies.route: "workflows.route:route",
    policies.aggregate: "workflows.aggregate.run:aggregate",
    votes.update: "workflows.votes.update:update_votes",
    votes.simulate: "workflows.votes.simulate:simulate_votes",
    data.import_: "workflows.importing:import_files",
    data.split: "workflows.splitting:split",
}

CHOICES = {
    data.Format: "judgments.formats:FORMATS",
    data.By: "judgments.split:BY",
    models.Method: "evaluation.calibration.recalibration:METHODS",
    policies.Prior: "policies.routing:Prior",
    votes.Kind: "judgments.votes.state:Kind",
    votes.PairVotes: "judgments.votes.state:PairVotes",
}


def load(place):
    module, name = place.split(":")
    return getattr(importlib.import_module(f"pluralign.{module}"), name)


def test_help_lists_the_commands_in_the_order_of_the_work(run):
    code, out, _ = run("--help")
    lines = out[out.index("Commands:") :].splitlines()[1:]
    assert code == 0
    assert [line.split()[0] for line in lines] == list(COMMANDS) == ORDER
    assert all(line.endswith(".") and "..." not in line for line in lines)  # whole sentences, not cut off
    assert run() == (0, out, "")


@pytest.mark.parametrize("command", FUNCTIONS, ids=lambda command: command.__name__)
def test_defaults_are_those_of_the_python_interface(command):
    expected = inspect.signature(load(FUNCTIONS[command])).parameters
    for name, parameter in inspect.signature(command).parameters.items():
        if name in expected and parameter.default is not parameter.empty:
            assert parameter.default in (expected[name].default, None), name


@pytest.mark.parametrize("choices", CHOICES, ids=CHOICES.get)
def test_choices_are_those_of_the_python_interface(choices):
    expected = load(CHOICES[choices])
    assert get_args(choices) == (expected if isinstance(expected, tuple) else get_args(expected))


def test_train_help_lists_every_objective(run):
    code, out, _ = run("train", "--help")
    assert code == 0
    for name, entry in OBJECTIVES.items():
        assert f"  {name}  " in out
        assert entry.summary.split()[0] in out


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fields_prints_every_key_with_help(objective, run):
    code, out, _ = run("train", "--fields", objective)
    assert code == 0
    keys = [line for line in out.splitlines() if not line.startswith("# ")]
    for line in keys:
        assert line.split("  # ")[1], line
    names = [line.split(":")[0] for line in keys]
    assert len(names) == len(set(names))
    fields = {field.name for field in dataclasses.fields(OBJECTIVES[objective].config) if field.init}
    assert fields - set(names) <= {"do_train", "do_eval", "do_predict", "remove_unused_columns",
                                   "resume_from_checkpoint"}  # fmt: skip
    assert {"train_files", "model_name_or_path", "learning_rate", "use_peft"} <= set(names)


def test_the_method_comes_first_and_training_arguments_last():
    groups = keys_of("em-dpo")
    assert list(groups) == ["em-dpo", "all objectives: files and model", "all training on judgments",
                            "TRL's ModelConfig", "transformers' TrainingArguments"]  # fmt: skip
    by_name = {key.name: key for key in groups["em-dpo"]}
    assert by_name["beta"][1:3] == ("float", "0.1")
    assert by_name["loss_type"].type == "plackett-luce | sigmoid"
    assert list(keys_of("sft"))[2] == "TRL's SFTConfig"


def test_fields_is_a_table_on_a_terminal(run, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "160")
    code, out, _ = run("train", "--fields", "dpo")
    assert code == 0
    assert "│ beta" in out
    assert "# dpo" not in out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["splt"], "Did you mean 'split'"),
        (["split", "x.parquet", "--by", "promt", "--out", "y"], "did you mean 'prompt'"),
        (["split", "x.parquet", "--by", "prompt"], "--out"),
        (["score", "--ot", "x"], "--out"),
        (["train", "--fields", "dpoo"], "did you mean 'dpo'"),
        (["votes"], "votes --help"),
        (["audit", "x.parquet", "--out", "y", "--dimensions", "many"], "'--dimensions'"),
    ],
)
def test_wrong_usage_is_one_line(run, words, expected):
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("pluralign: ")
    assert expected in err


@pytest.mark.parametrize(
    ("place", "words", "said", "expected"),
    [
        ("splitting.split", ["split", "x.parquet", "--by", "prompt", "--out", "y"], [], "interrupted"),
        ("train.run.train", ["train", "x.yaml"], ["stopped at step 3"], "stopped at step 3"),
        ("train.run.train", ["train", "x.yaml"], [], "interrupted"),
    ],
)
def test_an_interrupt_is_one_line(run, monkeypatch, place, words, said, expected):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt(*said)

    monkeypatch.setattr("pluralign.workflows.train.early.check_early", lambda *given: None)
    monkeypatch.setattr(f"pluralign.workflows.{place}", interrupted)
    code, _, err = run(*words)
    assert code == 130
    assert len(err.splitlines()) == 1
    assert expected in err
