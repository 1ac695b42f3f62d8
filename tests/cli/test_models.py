"""`train`, `evaluate` and `score` through the command line: what they write, and what they refuse in one line."""

import json
import logging
import re

import pyarrow.parquet as pq
import pytest
import yaml

from pluralign.demo.from_scratch import make_causal_model
from pluralign.judgments import Judgments


@pytest.fixture
def table(town_rows, tmp_path):
    path = tmp_path / "town.parquet"
    Judgments.from_rows(town_rows).write(path)
    return path


@pytest.fixture
def config(tmp_path, table, tiny_model):
    def write(text=None, **values):
        content = {
            "objective": "plackett-luce",
            "model_name_or_path": str(tiny_model),
            "train_files": [str(table)],
            "eval_files": [str(table)],
            "output_dir": str(tmp_path / "run"),
            "max_steps": 4,
            "report_to": "none",
            "use_cpu": True,
            "save_strategy": "no",
        }
        content.update(values)
        file = tmp_path / "config.yaml"
        file.write_text((text or "") + yaml.safe_dump(content, sort_keys=False))
        return file

    return write


def test_train_evaluate_and_score_write_what_is_promised(run, config, table, tmp_path):
    code, out, _ = run("train", config(), "--learning_rate", "1e-3", "--seed=7")
    assert code == 0
    assert "accuracy on pairs" in out
    folder = tmp_path / "run"
    resolved = yaml.safe_load((folder / "config.yaml").read_text())
    assert (resolved["learning_rate"], resolved["seed"], resolved["ties"]) == (0.001, 7, "efron")
    metrics = json.loads((folder / "metrics.json").read_text())
    for key in (
        "judgments",
        "annotators",
        "prompts",
        "unique_responses",
        "accuracy",
        "accuracy_low",
        "log_loss",
        "ece",
    ):
        assert key in metrics, key
    assert {"accuracy/source=a", "accuracy/source=b"} <= metrics.keys()
    assert "learning_rate" in (folder / "config.yaml").read_text()
    assert "pluralign" in json.loads((folder / "environment.json").read_text())["packages"]
    assert "| accuracy |" in (folder / "README.md").read_text()

    code, out, _ = run("evaluate", folder, table, "--out", tmp_path / "evaluated")
    assert code == 0
    again = json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    assert again["accuracy"] == pytest.approx(metrics["accuracy"])
    assert again["log_loss"] == pytest.approx(metrics["log_loss"], rel=1e-5)
    written = {file.name for file in (tmp_path / "evaluated").iterdir()}
    assert {"reliability.json", "annotators.parquet", "report.html"} <= written
    assert f"The model agrees with people on {again['accuracy']:.0%}" in out

    code, out, _ = run("score", folder, table, "--out", tmp_path / "scores.parquet")
    assert code == 0
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert scores.column_names == ["prompt", "response", "reward"]
    assert len(scores) == metrics["unique_responses"]

    code, _, err = run("train", config(), "--learning_rate", "2e-3", "--seed=7")
    assert code == 2
    assert "these keys differ: learning_rate (0.001 before, 0.002 now)" in err
    assert run("train", config(), "--learning_rate", "1e-3", "--seed=7")[0] == 0


WRONG = [
    (
        {"learnig_rate": 1e-5},
        "line 12, key 'learnig_rate': unknown key 'learnig_rate' (did you mean 'learning_rate'?)",
    ),
    ({"objective": "placket-luce"}, "line 1, key 'objective': found 'placket-luce', expected one of bradley-terry"),
    ({"objective": "placket-luce"}, "(did you mean 'plackett-luce'?)"),
    ({"ties": "effron"}, "key 'ties': found 'effron', expected one of auto, efron, breslow"),
    ({"lr_scheduler_type": "linaer"}, "key 'lr_scheduler_type': found 'linaer', expected one of linear"),
    ({"save_strategy": "stepz"}, "key 'save_strategy': found 'stepz', expected one of no, steps"),
    ({"dtype": "float23"}, "key 'dtype': found 'float23', expected one of auto, bfloat16"),
    ({"train_files": "town.parquet"}, "key 'train_files': found 'town.parquet', expected a list"),
    ({"train_files": ["nowhere.parquet"]}, "key 'train_files': no such file: nowhere.parquet"),
    ({"learning_rate": "fast"}, "key 'learning_rate': found 'fast', expected a number"),
    ({"max_steps": 2.5}, "key 'max_steps': found 2.5, expected a whole number"),
    ({"bf16": "yes please"}, "key 'bf16': found 'yes please', expected true or false"),
    ({"run_name": 5}, "key 'run_name': found 5, expected text"),
    ({"max_length": 4096}, "max_length: 4096 is more than the 96 tokens"),
    ({"max_length": 0}, "'max_length': found 0, expected 1 or more"),
    (
        {"model_name_or_path": "no-such-folder/model"},
        "no-such-folder/model: no such folder, and nothing of the hub can be loaded",
    ),
    (
        {"eval_files": [], "eval_strategy": "steps"},
        "key 'eval_strategy': evaluating during training needs eval_files",
    ),
    ({"label_scale": "1-to-6"}, "label scale '1-to-6' is neither built in"),
]


@pytest.mark.parametrize(("values", "expected"), WRONG, ids=[str(values) for values, _ in WRONG])
def test_a_wrong_value_is_one_clear_line(values, expected, run, config, tmp_path):
    code, _, err = run("train", config(**values))
    lines = [line for line in err.splitlines() if line.startswith("pluralign:")]
    assert code == 2
    assert len(lines) == 1
    assert expected in lines[0]
    if "line" in expected or "key" in expected:
        assert "config.yaml, line" in lines[0]
        assert not (tmp_path / "run").exists()


def test_numbers_that_yaml_reads_as_text_are_numbers(run, config, tmp_path):
    file = config()
    file.write_text(file.read_text() + "learning_rate: 1e-6\n")
    assert run("train", file)[0] == 0
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["learning_rate"] == 1e-6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("objective: sft\n", "line 2, key 'objective': appears twice"),
        ("objective: [\n", "not valid YAML"),
        ("\xff", "is not UTF-8"),
    ],
)
def test_a_damaged_yaml_is_named(text, expected, run, config):
    file = config()
    file.write_bytes(text.encode("latin-1") + file.read_bytes())
    code, _, err = run("train", file)
    assert code == 2
    assert expected in err


def test_wrong_flags_are_named(run, config, tmp_path):
    for words, expected in (
        (["--learnig_rate", "1"], "--learnig_rate: unknown key"),
        (["--max_steps", "two"], "--max_steps: found 'two', expected a whole number"),
        (["oops"], "found 'oops', expected a flag"),
    ):
        code, _, err = run("train", config(), *words)
        assert (code, expected in err) == (2, True), err
    assert run("train", tmp_path / "none.yaml")[0] == 2
    file = config()
    file.write_text("objective: sft\n")
    code, _, err = run("train", file)
    assert code == 2
    assert "the key 'model_name_or_path' is missing" in err


def test_an_output_folder_that_cannot_be_written_is_named(run, config, table, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, err = run("train", config(output_dir=str(tmp_path / "file" / "run")))
    assert code == 2
    assert "a part of the path is a file" in err


def test_changed_data_is_not_taken_for_the_old(run, config, table, town_rows):
    assert run("train", config())[0] == 0
    Judgments.from_rows(town_rows[:-1]).write(table)
    code, _, err = run("train", config())
    assert code == 2
    assert "these files have changed since" in err


def test_models_and_files_that_do_not_fit_are_named(run, table, tiny_model, tmp_path):
    code, _, err = run("evaluate", tiny_model, table, "--out", tmp_path / "out")
    assert code == 2
    assert "--reference" in err
    code, _, err = run("score", tiny_model, tmp_path / "none.parquet", "--out", tmp_path / "s.parquet")
    assert code == 2
    assert "none.parquet: no such file" in err
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "s.parquet").exists()


def test_env_prints_versions(run):
    code, out, _ = run("env")
    assert code == 0
    assert json.loads(out)["packages"]["torch"]


def test_a_policy_is_tuned_and_evaluated_against_what_it_was_tuned_from(run, config, table, tmp_path, tiny_model):
    code, out, _ = run("train", config(objective="dpo", max_steps=20), "--learning_rate", "3e-3", "--beta", "0.2")
    assert code == 0
    assert "accuracy on pairs" in out
    trained = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {"accuracy/source=a", "accuracy/source=b", "log_loss", "ece", "eval_loss"} <= trained.keys()
    assert "pluralign.load_policy" in (tmp_path / "run" / "README.md").read_text()
    code, _, _ = run("evaluate", tmp_path / "run", table, "--out", tmp_path / "plain")
    assert code == 0
    metrics = json.loads((tmp_path / "plain" / "metrics.json").read_text())
    for key in ("accuracy", "log_loss", "ece", "accuracy/source=a"):
        assert metrics[key] == pytest.approx(trained[key], abs=1e-4), key
    assert "win_rate" not in metrics

    code, _, _ = run("train", config(output_dir=str(tmp_path / "reward"), max_steps=20), "--learning_rate", "3e-3")
    assert code == 0
    code, out, _ = run(
        "evaluate", tmp_path / "run", table, "--out", tmp_path / "judged", "--reward", tmp_path / "reward",
        "--samples", 2, "--max-new-tokens", 8, "--beta", 1.0, "--reference", tiny_model,
    )  # fmt: skip
    assert code == 0
    judged = json.loads((tmp_path / "judged" / "metrics.json").read_text())
    assert judged["mean_margin"] == pytest.approx(5 * metrics["mean_margin"], rel=1e-3), "beta 1 instead of 0.2"
    assert judged["win_rate_low"] <= judged["win_rate"] <= judged["win_rate_high"]
    answers = [json.loads(line) for line in (tmp_path / "judged" / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 2 * 2 * judged["prompts"]
    for name in ("policy", "reference"):
        rewards = [answer["reward"] for answer in answers if answer["by"] == name]
        assert judged[f"mean_reward/{name}"] == pytest.approx(sum(rewards) / len(rewards))


def test_evaluation_of_policies_refuses_what_it_cannot_do(run, config, table, tmp_path, tiny_model):
    code, _, err = run("evaluate", tiny_model, table, "--out", tmp_path / "out")
    assert code == 2
    assert "does not say which model it was tuned from: give it with --reference" in err
    other = tmp_path / "other"
    make_causal_model(["other words altogether"] * 3, other, vocab_size=270, hidden_size=32, layers=1, heads=2)
    code, _, err = run("evaluate", tiny_model, table, "--out", tmp_path / "out", "--reference", other)
    assert code == 2
    assert f"{other}: has other tokens than {tiny_model}" in err
    assert run("train", config())[0] == 0
    code, _, err = run("evaluate", tmp_path / "run", table, "--out", tmp_path / "out", "--beta", 0.1)
    assert code == 2
    assert "is a reward model; --reference, --beta and --reward are for policies" in err


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"layout": "trees"},
            "line 12, key 'layout': found 'trees', expected one of auto, tree, flat (did you mean 'tree'?)",
        ),
        ({"label_smoothing": "vote"}, "key 'label_smoothing': found 'vote', expected"),
        ({"label_smoothing": 0.1}, "needs loss_type: sigmoid"),
        ({"max_tokens_per_row": 0}, "max_tokens_per_row: found 0, expected 1 or more"),
        ({"lora_task_type": "CAUSAL_LM"}, "unknown key 'lora_task_type'"),
        ({"train_sampling_strategy": "group_by_length"}, "expected random or sequential"),
    ],
)
def test_keys_of_dpo_are_checked(values, message, run, config):
    code, _, err = run("train", config(objective="dpo", **values))
    assert code == 2
    assert message in err


def test_keys_of_an_adapter_need_one(run, config):
    code, _, err = run("train", config(), "--lora_r", "8")
    assert code == 2
    assert "--lora_r: has no effect without an adapter: set use_peft: true, or leave this out" in err


def test_a_training_says_a_line_a_log_and_the_next_command_unless_quiet(run, config, tmp_path):
    words = ["--logging_steps", "1", "--max_steps", "2"]
    code, out, err = run("train", config(), *words, "--output_dir", tmp_path / "loud")
    assert code == 0
    assert re.search(r"^plackett-luce: \d+ judgments by \d+ annotators; the run's folder is ", err, re.MULTILINE)
    assert re.search(r"^step 1 of 2: loss \d\.\d+, .*; .* left$", err, re.MULTILINE)
    assert f"pluralign evaluate {tmp_path / 'loud'} FILE" in err
    assert "{'" not in out + err
    code, quiet, err = run("--quiet", "train", config(), *words, "--output_dir", tmp_path / "quiet")
    assert (code, err, quiet) == (0, "", out)
    assert not logging.getLogger("pluralign.training").isEnabledFor(logging.WARNING)  # notes are silenced too
    assert run("train", config(), *words, "--output_dir", tmp_path / "quiet")[0] == 0
    assert logging.getLogger("pluralign.training").isEnabledFor(logging.WARNING)
