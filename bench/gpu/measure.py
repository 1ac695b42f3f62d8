"""Measure training on one GPU, part by part: each part is a process with its own time limit.

A part keeps what it has measured as it goes on. One that fails or takes too long loses nothing of its own and nothing
of the others; the results say what went wrong.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

PARTS = {"exactness": 110, "resume": 60, "speed": 240, "kernels": 50}
"""The parts and the seconds that each may take."""

WHOLE = 450
"""Seconds for all parts together."""

LEAST = 10
"""A part with less time left is not started."""


def missing() -> list[str]:
    """The distributions that pluralign needs and this Python does not have, as requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lacking = []
    for requirement in project["dependencies"]:
        match = re.match(r"[\w.-]+", requirement)
        assert match is not None
        try:
            importlib.metadata.version(match[0])
        except importlib.metadata.PackageNotFoundError:
            lacking.append(requirement)
    return lacking


def run_part(name: str, command: list[str], file: Path, seconds: float) -> dict[str, Any]:
    """What a part stored in its file, with how it ended.

    Args:
        name: of the part.
        command: what computes it.
        file: where it stores results, after each of them.
        seconds: its limit.
    """
    began = time.perf_counter()
    log = file.with_suffix(".log")
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(seconds)
            fault = "" if code == 0 else f"ended with exit code {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            fault = f"stopped after {seconds:.0f} seconds"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    found = found.get(name, {})
    if fault:
        last = log.read_text(errors="replace").strip().splitlines()[-15:]
        found |= {"error": fault, "log": last}
    return found | {"seconds": round(time.perf_counter() - began, 1)}


def measured(names: list[str], folder: Path, small: bool) -> dict[str, Any]:
    """The results of the parts, within `WHOLE` seconds."""
    found: dict[str, Any] = {}
    began = time.perf_counter()
    here = [sys.executable, "-m", "bench.gpu.parts", "--folder", str(folder)]
    if small:  # one process for all, because starting up takes longer than measuring
        file = folder / "small.json"
        command = [*here, "--small", "--file", str(file), *names]
        return {name: run_part(name, command if name == names[0] else ["true"], file, WHOLE) for name in names}
    for name in names:
        left = WHOLE - (time.perf_counter() - began)
        if left < LEAST:
            found[name] = {"error": "not started: no time was left"}
            continue
        file = folder / f"{name}.json"
        command = [*here, "--file", str(file), name]
        found[name] = run_part(name, command, file, min(PARTS[name], left))
        print(f"{name}: {found[name].get('error', 'done')} ({found[name]['seconds']} s)", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench/gpu/run.sh", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="The folder of the results.")
    parser.add_argument("--small", action="store_true", help="Tiny models on a CPU.")
    parser.add_argument("--missing", action="store_true", help="Print the distributions that this Python lacks.")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="Run these parts only.")
    options = parser.parse_args()
    if options.missing:
        print("\n".join(missing()))
        return
    from .tables import table

    with tempfile.TemporaryDirectory() as folder:
        parts = measured(options.parts, Path(folder), options.small)
    found = {
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["bench/gpu/run.sh", *sys.argv[3:]]),
        "device": next((part["device"] for part in parts.values() if "device" in part), {}),
        "parts": parts,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "gpu.json").write_text(json.dumps(found, indent=2))
    (options.out / "gpu.md").write_text(table(found))
    print(f"{options.out / 'gpu.json'} and {options.out / 'gpu.md'}")


if __name__ == "__main__":
    main()
