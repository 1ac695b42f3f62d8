"""The configs in `examples/` are accepted as they stand, once their files are there."""

from pathlib import Path

import pytest
import yaml

from pluralign.workflows.train.run import check
from pluralign.workflows.train.settings import read_yaml

CONFIGS = sorted((Path(__file__).parents[1] / "examples").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_an_example_is_a_valid_config(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load(config.read_text())
    for file in [*values["train_files"], *values.get("eval_files", [])]:
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    if "reward_model" in values:
        Path(values["reward_model"]).mkdir(parents=True)
    job = check(read_yaml(config), {})
    assert job.objective == values["objective"]


def test_every_example_is_in_the_list():
    listed = (CONFIGS[0].parent / "README.md").read_text()
    assert [config.name for config in CONFIGS if f"`{config.name}`" not in listed] == []
