"""`report` through the command line: one page of finished folders, and what it refuses in one line."""

import json
import subprocess
import sys

import numpy as np
import pytest
import yaml

from pluralign.core.runs import finish_run, start_run
from pluralign.judgments import Judgments
from reports.conftest import audit_content


@pytest.fixture
def finished(tmp_path):
    def write(name, metrics, **files):
        folder = tmp_path / name
        start_run(folder, {"command": "evaluate", "model": "m", "files": ["t.parquet"]}, {"t.parquet": "1"})
        for file, content in files.items():
            (folder / file.replace("_", ".")).write_text(content)
        finish_run(folder, metrics, "# card\n")
        return folder

    return write


def test_a_trained_model_and_its_evaluation_become_one_page(run, town_rows, tiny_model, tmp_path):
    table = tmp_path / "town.parquet"
    Judgments.from_rows(town_rows).write(table)
    config = {
        "objective": "plackett-luce", "model_name_or_path": str(tiny_model), "train_files": [str(table)],
        "eval_files": [str(table)], "output_dir": str(tmp_path / "run"), "max_steps": 2, "report_to": "none",
        "use_cpu": True, "save_strategy": "no",
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert run("train", tmp_path / "config.yaml")[0] == 0
    assert run("evaluate", tmp_path / "run", table, "--out", tmp_path / "evaluated")[0] == 0
    bins = [json.loads((tmp_path / name / "reliability.json").read_text()) for name in ("run", "evaluated")]
    assert [row["pairs"] for row in bins[0]] == [row["pairs"] for row in bins[1]]
    np.testing.assert_allclose([row["gap"] for row in bins[0]], [row["gap"] for row in bins[1]], atol=1e-4)

    code, out, _ = run("report", tmp_path / "run", tmp_path / "evaluated", "--out", tmp_path / "page.html")
    assert (code, out) == (0, f"written to {tmp_path / 'page.html'}\n")
    page = (tmp_path / "page.html").read_text()
    for expected in ("Comparison", "Calibration", "Accuracy by source", "Accuracy for each annotator", "plackett-luce"):
        assert expected in page, expected
    assert "Not evaluated on the same data" not in page
    assert run("report", tmp_path / "run", tmp_path / "evaluated", "--out", tmp_path / "again.html")[0] == 0
    assert (tmp_path / "again.html").read_bytes() == (tmp_path / "page.html").read_bytes()


def test_folders_of_an_unknown_kind_show_their_numbers(run, finished, tmp_path):
    folder = finished("odd", {"max_regret/minmax": 0.25, "mixture_weights": [0.5, 0.5]})
    assert run("report", folder, "--out", tmp_path / "deep" / "page.html")[0] == 0
    page = (tmp_path / "deep" / "page.html").read_text()
    assert "max_regret/minmax" in page
    assert "0.25" in page


def test_an_audit_is_drawn_beside_others(run, finished, tmp_path):
    audit = audit_content()
    audit["identification"]["reason"] = "Too <few> judgments each."
    folder = finished("audit", {"types": 2, "identification": "weak"}, audit_json=json.dumps(audit))
    other = finished("deep", {"accuracy": 0.6})
    assert run("report", folder, other, "--out", tmp_path / "page.html")[0] == 0
    assert "Too &lt;few&gt; judgments each." in (tmp_path / "page.html").read_text()


def test_two_folders_of_one_name_are_told_apart(run, finished, tmp_path):
    folders = [finished(f"{parent}/run", {"accuracy": 0.6}) for parent in "ab"]
    assert run("report", *folders, "--out", tmp_path / "page.html")[0] == 0
    page = (tmp_path / "page.html").read_text()
    assert all(str(folder)[-5:] in page for folder in folders)


def test_what_is_no_finished_run_is_refused_in_one_line(run, finished, tmp_path):
    good = finished("good", {"accuracy": 0.6})
    started = tmp_path / "started"
    start_run(started, {"objective": "dpo"}, {})
    file = tmp_path / "file"
    file.write_text("x")
    (tmp_path / "empty").mkdir()
    cases = [
        (tmp_path / "nowhere", "nowhere: no such folder"),
        (file, "file: is a file, and a run's folder was expected"),
        (tmp_path / "empty", "empty: is not the folder of a run"),
        (started, "started: this run is not finished"),
        (_broken(finished, "metrics.json", "[1]"), "metrics.json: found [1], expected an object"),
        (_broken(finished, "metrics.json", "{"), "metrics.json: is not valid JSON"),
        (_broken(finished, "metrics.json", "\udcff"), "metrics.json: is not UTF-8"),
        (_broken(finished, "config.yaml", "a: ["), "config.yaml: not valid YAML"),
        (_broken(finished, "config.yaml", "text"), "config.yaml: found 'text', expected keys with values"),
        (_broken(finished, "environment.json", "[]"), "environment.json: found [], expected an object"),
        (_broken(finished, "reliability.json", '[{"lower": "x"}]'), "reliability.json, [0].lower: found 'x', expected a number"),
        (_broken(finished, "annotators.parquet", "PAR"), "annotators.parquet: not a readable Parquet file"),
        (_broken(finished, "answers.jsonl", "{"), "answers.jsonl: is not valid JSON Lines"),
        (_broken(finished, "audit.json", '{"types": 3}'), "audit.json: lacks the key 'data'"),
    ]  # fmt: skip
    for folder, expected in cases:
        code, _, err = run("report", good, folder, "--out", tmp_path / "page.html")
        assert (code, expected in err, err.count("\n")) == (2, True, 1), (expected, err)
        assert not (tmp_path / "page.html").exists()


def _broken(finished, name, content):
    folder = finished(f"broken-{name}-{abs(hash(content))}", {"accuracy": 0.6})
    (folder / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    return folder


def test_wrong_words_and_places_are_refused(run, finished, tmp_path):
    good = finished("good", {"accuracy": 0.6})
    assert run("report", "--out", tmp_path / "page.html")[0] == 2
    assert run("report", good)[0] == 2
    (tmp_path / "folder.html").mkdir()
    code, _, err = run("report", good, "--out", tmp_path / "folder.html")
    assert (code, "is a folder, and a file was expected" in err) == (2, True)


def test_metrics_that_are_no_numbers_are_shown_as_they_are(run, finished, tmp_path):
    folder = finished("odd", {"accuracy": "much", "log_loss": None, "ece": True})
    assert run("report", folder, "--out", tmp_path / "page.html")[0] == 0
    assert "much" in (tmp_path / "page.html").read_text()


def test_other_commands_load_no_plotting_library():
    code = "import sys, pluralign; sys.argv = ['pluralign', 'report', '--help']\n"
    code += "from pluralign.cli.main import main\ntry: main()\nexcept SystemExit as e: assert not e.code, e.code\n"
    code += "heavy = {'matplotlib', 'jinja2', 'torch', 'pyarrow'} & set(sys.modules)\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_report_loads_no_language_model_library(finished, tmp_path):
    folder = finished("good", {"accuracy": 0.6})
    words = ["pluralign", "report", str(folder), "--out", str(tmp_path / "page.html")]
    code = f"import sys; sys.argv = {words!r}\nfrom pluralign.cli.main import main\nmain()\n"
    code += "heavy = {'torch', 'transformers', 'datasets', 'trl'} & set(sys.modules)\nassert not heavy, heavy"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
