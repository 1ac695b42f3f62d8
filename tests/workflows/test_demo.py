"""The demo, small: it writes what it says and its table is about real numbers."""

import json

import pytest

from pluralign.workflows.demo import demo


@pytest.mark.slow
def test_the_demo_says_whom_one_reward_and_one_policy_serve(tmp_path):
    text = demo(tmp_path, seed=1, annotators=20, judgments_per_annotator=6)
    metrics = {name: json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("reward", "policy")}
    found_types, served = text.split("Whom does one reward")
    story = json.loads((tmp_path / "audit" / "audit.json").read_text())
    for group in story["groups"]:
        line = next(line for line in found_types.splitlines() if line.startswith(group["group"]))
        assert line.split()[1:] == [f"{share:.0%}" for share in group["shares"]]
    assert {"brief", "warm", "thorough"} == {group["group"] for group in story["groups"]}
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in ("What the data can tell", "reward", "policy"))
    for kind in ("brief", "warm", "thorough"):
        line = next(line for line in served.splitlines() if line.startswith(kind))
        _, share, reward, policy, ceiling, wins, *interval = line.split()
        for found, name in ((reward, "reward"), (policy, "policy")):
            assert found == f"{metrics[name][f'accuracy/group={kind}']:.3f}"
        assert 0.6 < float(ceiling) <= 1.0
        low, high = (float(part.strip("[],")) for part in interval)
        assert low <= float(wins) <= high
        assert share in ("50%", "30%", "20%")
    for name in ("language-model", "policy"):
        assert (tmp_path / name / "model.safetensors").exists()
    assert demo(tmp_path, seed=1, annotators=20, judgments_per_annotator=6) == text, (
        "a second call takes up what is done"
    )
