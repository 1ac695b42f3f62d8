"""Locks: one process at a time, and nothing left of a dead one."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from pluralign.core.errors import PluralignError
from pluralign.core.locks import file_lock, folder_lock, locks_out

HOLD = (
    "import sys, time\n"
    "from pathlib import Path\n"
    "from pluralign.core.locks import folder_lock\n"
    "with folder_lock(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    time.sleep(60)\n"
)


def test_a_folder_has_one_writer_and_a_killed_one_blocks_nobody(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(PluralignError, match="another process is writing there"), folder_lock(folder):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with folder_lock(folder):
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_a_folder_made_for_its_lock_goes_again_if_nothing_was_written(tmp_path):
    with folder_lock(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()


def test_who_waits_for_a_file_gets_it_in_turn(tmp_path):
    """Each adds one to a number; without the lock additions are lost."""
    number = tmp_path / "number"
    number.write_text("0")

    def add():
        for _ in range(20):
            with file_lock(number):
                before = int(number.read_text())
                time.sleep(0.0005)
                number.write_text(str(before + 1))

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert number.read_text() == "80"
    assert [path.name for path in tmp_path.iterdir()] == ["number"]


def test_a_function_holds_the_lock_of_its_output(tmp_path):
    @locks_out()
    def write(name, out):
        with pytest.raises(PluralignError, match="another process"), folder_lock(out):
            pass
        (out / name).touch()
        return name

    assert write("a", out=tmp_path / "run") == "a"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["a"]
