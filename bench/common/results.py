"""Results on disk, and measurements in a process of their own."""

from __future__ import annotations

import datetime
import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "bench" / "out"
"""Everything that benchmarks write: results, trained models, imported data."""

COMMAND = os.environ.get("PLURALIGN_BENCH_COMMAND", "python bench/run.py")
"""The command that started this benchmark; `run.py` sets it."""


def processor() -> str:
    """The processor's name and the number of its cores."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    return f"{names[0] if names else 'processor'}, {os.cpu_count()} cores"


def write_json(file: Path, content: Any) -> None:
    """Write a file that is either complete or as it was before."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f".{file.stem}-{os.getpid()}.json")
    unfinished.write_text(json.dumps(content, indent=2))
    os.replace(unfinished, file)


def store(name: str, results: Any) -> None:
    """Keep results for a table, with the command, date and processor that made them."""
    origin = {"command": COMMAND, "date": datetime.date.today().isoformat(), "processor": processor()}
    write_json(OUT / f"{name}.json", origin | {"results": results})


def stored(name: str) -> Any:
    """What `store` kept."""
    return json.loads((OUT / f"{name}.json").read_text())["results"]


def keep(name: str, settings: dict[str, Any], rows: Any) -> None:
    """Store the rows that a benchmark has so far, with the settings they depend on.

    Named rows are added to those that another process has stored under the same settings in the meantime.
    """
    OUT.mkdir(parents=True, exist_ok=True)
    with open(OUT / "results.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        together = {**kept(name, settings), **rows} if isinstance(rows, dict) else rows
        store(name, {"settings": settings, "rows": together})


def kept(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The rows that an earlier run stored; none if its settings differed."""
    if not (OUT / f"{name}.json").exists():
        return {}
    results = stored(name)
    return results["rows"] if results["settings"] == json.loads(json.dumps(settings)) else {}


def json_of(command: list[Any], **environment: str) -> Any:
    """The last line that a command prints, read as JSON."""
    done = subprocess.run(
        [str(part) for part in command], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


CALL = """
import importlib, json, sys
module, name, given = sys.argv[1:]
print(json.dumps(getattr(importlib.import_module(module), name)(**json.loads(given))))
"""


def in_own_process(function: Callable[..., Any], given: dict[str, Any], **environment: str) -> Any:
    """The result of a benchmark's function in a new process, so that its time and memory are its own."""
    call = [sys.executable, "-c", CALL, function.__module__, function.__name__, json.dumps(given)]
    return json_of(call, **environment)


def peak_memory() -> float:
    """The peak memory of this process in GiB since the last call. `getrusage` would include the parent's."""
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("this benchmark measures memory through /proc: it needs Linux")
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak is not None
    Path("/proc/self/clear_refs").write_text("5")
    return int(peak[1]) / 2**20


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self) -> float:
        return round(time.perf_counter() - self.start, 1)
