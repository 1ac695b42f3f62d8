"""The measurement of a GPU, with tiny models on a CPU, so that it runs when a GPU comes."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measure():
    sys.path.insert(0, str(ROOT))
    try:
        yield importlib.import_module("bench.gpu.measure")
    finally:
        sys.path.remove(str(ROOT))


@pytest.mark.slow
def test_it_runs_on_a_cpu(tmp_path):
    environment = {**os.environ, "OUT": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["bash", ROOT / "bench" / "gpu" / "run.sh", "--small"], env=environment, capture_output=True, text=True, timeout=400,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert '"error"' not in (tmp_path / "gpu.json").read_text(), found
    exact = found["parts"]["exactness"]["results"]
    for weights in ("all weights", "LoRA"):
        assert exact[f"float32, {weights}"]["trees, SDPA"]["nats_per_token"] < 1e-4
        assert exact[f"float32, {weights}"]["trees, SDPA"]["gradient"] < 1e-5
        assert exact[f"bfloat16, {weights}"]["trees, SDPA"]["gradient"] < 0.05
    assert exact["float32, LoRA"]["flat rows, merged"]["nats_per_token"] < 1e-4
    assert found["parts"]["resume"]["results"]["DPO, LoRA, float32"]["largest_difference"] == 0
    speed = found["parts"]["speed"]["results"]
    assert {name.rpartition("; ")[2] for name in speed} == {
        "ours, trees",
        "ours, flat",
        "ours",
        "TRL",
        "TRL, Liger",
        "TRL, no reference",
    }
    assert all("left_out" in own or own["seconds"] > 0 for own in speed.values())
    assert all(len(step["slowest"]) == 5 for step in found["parts"]["kernels"]["results"].values())
    table = (tmp_path / "gpu.md").read_text()
    assert "went wrong" not in table
    assert table.count("## ") == 4


def test_a_part_that_fails_or_takes_too_long_keeps_what_it_has(measure, tmp_path):
    file = tmp_path / "speed.json"
    write = f"import json, pathlib; pathlib.Path({str(file)!r}).write_text(json.dumps({{'speed': {{'results': {{'a': 1}}}}}}))"
    late = measure.run_part("speed", [sys.executable, "-c", f"{write}; import time; time.sleep(60)"], file, 6.0)
    assert late["results"] == {"a": 1}
    assert late["error"] == "stopped after 6 seconds"
    broken = measure.run_part("speed", [sys.executable, "-c", f"{write}; raise SystemExit('no memory')"], file, 10.0)
    assert broken["results"] == {"a": 1}
    assert (broken["error"], broken["log"]) == ("ended with exit code 1", ["no memory"])


def test_shares_of_the_peak_are_of_known_devices(measure):
    models = importlib.import_module("bench.gpu.models")
    assert models.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert models.peak_of("NVIDIA H100 PCIe") == 756e12
    assert models.peak_of("NVIDIA L40S") == 362e12
    assert models.peak_of("A new one") is None


def test_what_a_python_lacks_is_named(measure, monkeypatch):
    assert measure.missing() == []
    monkeypatch.setattr(measure.importlib.metadata, "version", lambda name: "1" if name != "peft" else nothing(name))
    assert [requirement.split(">")[0] for requirement in measure.missing()] == ["peft"]


def nothing(name):
    raise importlib.metadata.PackageNotFoundError(name)
