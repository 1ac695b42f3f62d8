"""The demo, small: it writes what it says and its table is about real numbers."""

import json

import pytest

from pluralign.workflows.demo import demo


@pytest.mark.slow
def test_the_demo_says_whom_the_average_reward_serves(tmp_path):
    text = demo(tmp_path, seed=1, annotators=20, judgments_per_annotator=6)
    metrics = json.loads((tmp_path / "reward" / "metrics.json").read_text())
    for kind in ("brief", "warm", "thorough"):
        line = next(line for line in text.splitlines() if line.startswith(kind))
        assert f"{metrics[f'accuracy/group={kind}']:.3f}" in line
        ceiling = float(line.split()[-1])
        assert 0.6 < ceiling <= 1.0
    assert (tmp_path / "language-model" / "model.safetensors").exists()
    assert demo(tmp_path, seed=1, annotators=20, judgments_per_annotator=6) == text, (
        "a second call takes up what is done"
    )
