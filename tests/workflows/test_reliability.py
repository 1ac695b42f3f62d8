"""The reliability contract of `train` for real processes: killed and resumed, refused, finished, on a full disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import yaml

from pluralign.judgments import Judgments
from pluralign.training.checkpoints import MARKER, newest_checkpoint


@pytest.fixture(scope="module")
def table(town_rows, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    judgments = Judgments.from_rows(town_rows)
    judgments.select(range(128)).write(folder / "train.parquet")
    judgments.select(range(128, 160)).write(folder / "test.parquet")
    return folder


def config(path: Path, table: Path, model: Path, **values) -> Path:
    content = {
        "objective": "plackett-luce",
        "model_name_or_path": str(model),
        "train_files": [str(table / "train.parquet")],
        "eval_files": [str(table / "test.parquet")],
        "output_dir": str(path.with_suffix("")),
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "num_train_epochs": 2,
        "save_steps": 5,
        "logging_steps": 1,
        "report_to": "none",
        "use_cpu": True,
        **values,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def start(file: Path, **variables) -> subprocess.Popen:
    command = [sys.executable, "-m", "pluralign", "train", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out + err


def weights_of(run: Path) -> dict:
    (file,) = run.glob("*model.safetensors")
    return safetensors.numpy.load_file(file)


@pytest.mark.slow
def test_killed_and_started_again_it_ends_as_if_undisturbed(table, tiny_model, tmp_path):
    """By a kill of the process; what interrupts every other objective is in tests/training/test_contract.py."""
    extra = {"gradient_accumulation_steps": 2, "disable_dropout": False}
    calm = config(tmp_path / "calm.yaml", table, tiny_model, **extra)
    finish(start(calm))
    # Slow every step a little so that the kill falls in the middle.
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "sitecustomize.py").write_text(
        "import threading, time\n"
        "def watch():\n"
        "    import sys\n"
        "    while not hasattr(sys.modules.get('transformers.trainer'), 'Trainer'):\n"
        "        time.sleep(0.02)\n"
        "    trainer = sys.modules['transformers.trainer'].Trainer\n"
        "    step = trainer.training_step\n"
        "    def slower(self, *a, **k):\n"
        "        time.sleep(0.15)\n"
        "        return step(self, *a, **k)\n"
        "    trainer.training_step = slower\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
    )
    shaken = config(tmp_path / "shaken.yaml", table, tiny_model, **extra)
    run = tmp_path / "shaken"
    process = start(shaken, PYTHONPATH=str(slow))
    deadline = time.monotonic() + 120
    while not (run / "checkpoint-5" / MARKER).exists():
        assert process.poll() is None, process.communicate()[1][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (run / "metrics.json").exists()
    half = run / "checkpoint-999"  # as if the kill had come while a checkpoint was written
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    said = finish(start(shaken))
    assert "checkpoint-999: was not finished" in said
    assert "resuming from checkpoint-" in said
    assert not half.exists()
    expected, found = weights_of(tmp_path / "calm"), weights_of(run)
    assert expected.keys() == found.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (tmp_path / "calm", run)]
    assert metrics[0]["eval_loss"] == metrics[1]["eval_loss"]
    assert not [file for file in run.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".pkl")]
    before = (run / "metrics.json").stat().st_mtime_ns
    assert "already finished" in finish(start(shaken))
    assert (run / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize("limit", [100_000, 250_000])
def test_a_full_disk_is_one_clear_line_and_the_run_goes_on_later(limit, table, tiny_model, tmp_path):
    """A limit on the file size stands in for the full disk; it strikes in the weights or in the optimiser."""
    file = config(tmp_path / "run.yaml", table, tiny_model, max_steps=8)
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}));"
        f"sys.argv = ['pluralign', 'train', {str(file)!r}]; from pluralign.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    said = [line for line in done.stderr.splitlines() if line.startswith("pluralign:")]
    assert len(said) == 1
    assert "choose another place" in said[0]
    assert "checkpoint-5: was not finished" in finish(start(file))
    assert (tmp_path / "run" / "metrics.json").exists()


def test_only_whole_checkpoints_count(tmp_path):
    for step, whole in ((5, True), (10, True), (15, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if whole:
            (tmp_path / f"checkpoint-{step}" / MARKER).touch()
    (tmp_path / "checkpoint-notes").mkdir()
    assert newest_checkpoint(tmp_path, remove_halves=False) == tmp_path / "checkpoint-10"
    assert (tmp_path / "checkpoint-15").exists()
    assert newest_checkpoint(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-15").exists()
    assert (tmp_path / "checkpoint-notes").exists()
