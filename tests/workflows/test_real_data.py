"""DPO on real pairs, rankings and crowd votes, from the raw files: the first loss is known, and then it falls."""

import math
from pathlib import Path

import pytest
import yaml

from pluralign.judgments import read
from pluralign.workflows.importing import import_files
from pluralign.workflows.train.run import train

MAPPINGS = Path(__file__).parents[2] / "examples" / "mappings"
SETS = {
    "hh": ("hh_rlhf/harmless_base_test.jsonl.gz", {"format": "hh-rlhf"}),
    "qa-feedback": (
        "qa_feedback_rank4/dev_feedback.jsonl.gz",
        {"format": "mapping", "mapping": str(MAPPINGS / "qa_feedback.yaml")},
    ),
    "convarg": (
        "convarg_crowd/judgments.csv.gz",
        {"format": "mapping", "mapping": str(MAPPINGS / "convarg.yaml")},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SETS)
def test_dpo_on_real_judgments(name, shared_data, tiny_model, tmp_path):
    file, options = SETS[name]
    import_files(
        [shared_data / file], tmp_path / "all.parquet", on_error="skip", rejects=tmp_path / "rejects.jsonl", **options
    )
    judgments = read(tmp_path / "all.parquet")
    judgments.select(range(96)).write(tmp_path / "train.parquet")
    judgments.select(range(96, 128)).write(tmp_path / "test.parquet")
    found = {}
    for rate in (0.0, 3e-3):
        config = {
            "objective": "dpo",
            "model_name_or_path": str(tiny_model),
            "train_files": [str(tmp_path / "train.parquet")],
            "eval_files": [str(tmp_path / "test.parquet")],
            "output_dir": str(tmp_path / f"run-{rate}"),
            "learning_rate": rate,
            "loss_type": "sigmoid",
            "per_device_train_batch_size": 16,
            "num_train_epochs": 4,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
        }
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        found[rate] = train(tmp_path / "config.yaml")
        assert all(math.isfinite(value) for value in found[rate].values())
    assert found[0.0]["log_loss"] == pytest.approx(math.log(2), rel=1e-5)
    assert found[0.0]["mean_margin"] == pytest.approx(0.0, abs=1e-4)
    assert found[3e-3]["train_loss"] < 0.97 * found[0.0]["train_loss"]
    if name == "hh":
        assert found[0.0]["train_loss"] == pytest.approx(math.log(2), rel=1e-5), "every judgment is a strict pair"
