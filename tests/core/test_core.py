"""Files are whole or absent; runs know what they are."""

import json
import math
import subprocess
import sys

import pyarrow as pa
import pytest

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_folder, atomic_write, read_parquet, write_json, write_parquet
from pluralign.core.fingerprint import fingerprint, fingerprint_folder
from pluralign.core.runs import file_fingerprints, finish_run, finished_metrics, read_metrics, run_state, start_run


def test_a_fault_leaves_what_stood_there(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("before")
    with pytest.raises(RuntimeError, match="oops"), atomic_write(file, "w") as out:
        out.write("half")
        raise RuntimeError("oops")
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(RuntimeError, match="oops"), atomic_folder(tmp_path / "run") as folder:
        (folder / "half").touch()
        raise RuntimeError("oops")
    assert not (tmp_path / "run").exists()


def test_a_folder_gets_its_files_and_keeps_others(tmp_path):
    (tmp_path / "old").write_text("old")
    (tmp_path / "new").write_text("before")
    with atomic_folder(tmp_path) as folder:
        (folder / "new").write_text("after")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"old": "old", "new": "after"}


def test_metrics_hold_no_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "m.json", {"accuracy": math.nan})
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_new_started_finished_or_refused(tmp_path):
    (tmp_path / "data").write_text("1")
    run, config, inputs = tmp_path / "run", {"seed": 1, "rate": 0.5}, file_fingerprints([tmp_path / "data"])
    assert run_state(run, config, inputs) == "new"
    start_run(run, config, inputs)
    assert run_state(run, {"seed": 2}, {}) == "new"  # nothing was made yet, so it may get another config
    (run / "checkpoint-1").mkdir()
    assert run_state(run, config, inputs) == "started"
    assert finished_metrics(run, config, inputs) is None
    finish_run(run, {"accuracy": 0.5}, "# card")
    assert run_state(run, config, inputs) == "finished"
    assert read_metrics(run) == finished_metrics(run, config, inputs) == {"accuracy": 0.5}
    assert json.loads((run / "environment.json").read_text())["inputs"] == inputs
    with pytest.raises(PluralignError, match=r"these keys differ: rate \(0.5 before, 0.6 now\), seed \(1 before, None"):
        run_state(run, {"rate": 0.6}, inputs)
    (tmp_path / "data").write_text("2")
    with pytest.raises(PluralignError, match="have changed since"):
        run_state(run, config, file_fingerprints([tmp_path / "data"]))


def test_fingerprints_follow_content(tmp_path):
    (tmp_path / "a").write_text("x")
    first = fingerprint_folder(tmp_path)
    assert fingerprint_folder(tmp_path) == first
    (tmp_path / "a").write_text("y")
    assert fingerprint_folder(tmp_path) != first
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(1, "2") != fingerprint("1", 2)


def test_processes_that_write_one_cache_file_at_once_all_succeed(tmp_path):
    """Each opens its temporary file before any of them has renamed its own."""
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pluralign.core.files import atomic_write\n"
        "folder = Path(sys.argv[1])\n"
        "with atomic_write(folder / 'a.bin') as out:\n"
        "    out.write(b'same')\n"
        "    (folder / f'ready-{sys.argv[2]}').touch()\n"
        "    while len(list(folder.glob('ready-*'))) < 2:\n"
        "        time.sleep(0.01)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), str(number)]) for number in range(2)]
    assert [process.wait(timeout=60) for process in running] == [0, 0]
    assert (tmp_path / "a.bin").read_bytes() == b"same"
    assert not list(tmp_path.glob(".*"))


def test_two_writers_of_one_file_leave_a_whole_one_and_clean_up_after_the_dead(tmp_path):
    """A writer that ends while another one writes removes nothing of the other's; a killed one's rest goes."""
    stale = tmp_path / ".a.bin.0123abcd.partial"
    stale.write_bytes(b"half")
    with atomic_write(tmp_path / "a.bin") as slow:
        slow.write(b"slow")
        with atomic_write(tmp_path / "a.bin") as fast:
            fast.write(b"fast")
        assert (tmp_path / "a.bin").read_bytes() == b"fast"
        assert not stale.exists()
    assert (tmp_path / "a.bin").read_bytes() == b"slow"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


def test_a_file_keeps_the_rights_that_the_system_gives(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_write(tmp_path / "made") as out:
        out.write(b"x")
    assert (tmp_path / "made").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_parquet_file_with_a_column_name_that_is_no_text_is_one_line(tmp_path):
    file = tmp_path / "t.parquet"
    write_parquet(pa.table({"annotator": ["a"]}), file)
    file.write_bytes(file.read_bytes().replace(b"annotator", b"\xb8nnotator"))
    with pytest.raises(PluralignError, match="t.parquet: not a readable Parquet file"):
        read_parquet(file)
