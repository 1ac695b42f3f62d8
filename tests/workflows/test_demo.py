"""The demo, small: it writes what it says and its table is about real numbers."""

import json

import pytest

from pluralign.workflows.demo import demo


@pytest.mark.slow
def test_the_demo_says_whom_one_policy_serves_and_what_each_type_gives_up(tmp_path):
    text = demo(tmp_path, seed=1, annotators=20, judgments_per_annotator=6)
    runs = ("reward", "policy", "people", "together")
    metrics = {name: json.loads((tmp_path / name / "metrics.json").read_text()) for name in runs}
    found_types, rest = text.split("How sure may the reward be?")
    sure, rest = rest.split("Whom does one reward")
    served, rest = rest.split("What does each type give up")
    given_up, liked = rest.split("Whose answers got better?")
    story = json.loads((tmp_path / "audit" / "audit.json").read_text())
    for group in story["groups"]:
        line = next(line for line in found_types.splitlines() if line.startswith(group["group"]))
        assert line.split()[1:] == [f"{share:.0%}" for share in group["shares"]]
    assert {"brief", "warm", "thorough"} == {group["group"] for group in story["groups"]}
    after = json.loads((tmp_path / "reward-evaluation" / "metrics.json").read_text())
    assert f"at temperature {after.get('temperature', 1.0):.2f}" in sure
    for place in ("market", "school"):
        line = next(line for line in sure.splitlines() if line.startswith(place))
        part = f"/source={place}"
        expected = [metrics["reward"][f"{key}{part}"] for key in ("weight", "accuracy", "ece")] + [
            after[f"ece{part}"]
        ]
        assert [float(cell) for cell in line.split()[1:]] == pytest.approx(expected, abs=0.006)
    assert sum(metrics["reward"][f"weight/source={place}"] for place in ("market", "school")) == pytest.approx(1)
    assert after["accuracy"] == pytest.approx(metrics["reward"]["accuracy"])  # dividing by a number keeps the order
    page = (tmp_path / "report.html").read_text()
    assert all(name in page for name in ("What the data can tell", "reward", "policy", "people", "together"))
    for kind in ("brief", "warm", "thorough"):
        line = next(line for line in served.splitlines() if line.startswith(kind))
        _, share, *reached, ceiling = line.split()
        for found, name in zip(reached, ("reward", "policy", "people"), strict=True):
            assert found == f"{metrics[name][f'accuracy/group={kind}']:.3f}"
        assert 0.6 < float(ceiling) <= 1.0
        assert share in ("50%", "30%", "20%")
        line = next(line for line in liked.splitlines() if line.startswith(kind))
        numbers = [float(part.strip("[],")) for part in line.split()[2:]]
        assert len(numbers) == 4 * 3  # DPO, own type's, mixture, distilled
        for wins, low, high in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True):
            assert low <= wins <= high
    for policy in ("base", "egalitarian", "dpo", "distilled"):
        line = next(line for line in given_up.splitlines() if line.startswith(policy))
        assert float(line.split()[-1]) == pytest.approx(metrics["together"][f"max_regret/{policy}"], abs=0.006)
    for file in (
        "language-model/model.safetensors",
        "policy/adapter_model.safetensors",
        "together/mixture/mixture.json",
    ):
        assert (tmp_path / file).exists()
    assert demo(tmp_path, seed=1, annotators=20, judgments_per_annotator=6) == text, (
        "a second call takes up what is done"
    )
