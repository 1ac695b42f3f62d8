"""`annotator_weights` through the command line: from an audit into a training run, and what is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pluralign.judgments import Judgments


@pytest.fixture
def config(town_rows, tiny_model, tmp_path):
    Judgments.from_rows(town_rows).write(tmp_path / "town.parquet")
    content = {
        "objective": "plackett-luce",
        "model_name_or_path": str(tiny_model),
        "train_files": [str(tmp_path / "town.parquet")],
        "output_dir": str(tmp_path / "run"),
        "annotator_weights": str(tmp_path / "weights.parquet"),
        "max_steps": 2,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "config.yaml"


def weights(folder, **columns):
    pq.write_table(pa.table(columns), folder / "weights.parquet")


def test_a_file_of_weights_is_used_and_belongs_to_the_run(run, config, tmp_path):
    weights(tmp_path, annotator=["w0", "w1"], weight=[0.0, 0.5])
    code, _, complaint = run("train", config)
    assert (code, complaint) == (0, complaint)
    folder = tmp_path / "run"
    assert yaml.safe_load((folder / "config.yaml").read_text())["annotator_weights"] == str(
        tmp_path / "weights.parquet"
    )
    inputs = json.loads((folder / "environment.json").read_text())["inputs"]
    assert str(tmp_path / "weights.parquet") in inputs
    weights(tmp_path, annotator=["w0", "w1"], weight=[1.0, 0.5])
    code, _, complaint = run("train", config)
    assert code == 2
    assert "weights.parquet" in complaint
    weights(tmp_path, annotator=["w0", "w1"], weight=[0.0, 0.5])
    assert run("train", config)[0] == 0  # finished already


def test_bad_files_are_one_line(run, config, tmp_path):
    code, _, complaint = run("train", config)
    assert code == 2
    assert "weights.parquet" in complaint
    weights(tmp_path, annotator=["w0"], scale=[1.0])
    code, _, complaint = run("train", config)
    assert code == 2
    assert "lacks the column weight" in complaint
    assert "Traceback" not in complaint
