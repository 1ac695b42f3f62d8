"""Reading, importing, splitting and counting a million judgments: processor seconds and memory of whole commands.

The judgments are pairs of 200 statements under 20 prompts by 20,000 annotators, as JSON Lines and as CSV. Each command
runs in a process of its own with one thread; its processor seconds are those of the user and the system together, with
the start of Python. With `--before`, the commands of another version of the library take turns with these.
"""

from __future__ import annotations

import csv
import json
import math
import os
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..common.options import parsed
from ..common.results import ROOT, store

MAPPING = (
    'prompt: "{question}"\nresponses: ["{left}", "{right}"]\nchoice: "{winner}"\nannotator: "{who}"\ntime: "{when}"\n'
    "choices: {left: [1, 2], right: [2, 1]}\n"
)
COMMAND = "from pluralign.cli.main import main; main()"
READ = "import sys, pluralign; print(len(pluralign.read(sys.argv[1])))"
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "import JSON Lines": (COMMAND, ("import", "j.jsonl", "--out", "a.parquet")),
    "import CSV by a mapping": (
        COMMAND, ("import", "j.csv", "--out", "b.parquet", "--format", "mapping", "--mapping", "m.yaml")
    ),
    "read": (READ, ("a.parquet",)),
    "split": (COMMAND, ("split", "a.parquet", "--out", "s", "--by", "annotator")),
    "votes update": (COMMAND, ("votes", "update", "state.parquet", "a.parquet")),
    "votes update, nothing new": (COMMAND, ("votes", "update", "state.parquet", "a.parquet")),
    "audit, two types": (
        COMMAND,
        ("audit", "a.parquet", "--out", "au", "--types", "2", "--features", "worths", "--simulations", "0"),
    ),
}  # fmt: skip


def write_sources(folder: Path, judgments: int) -> None:
    draw = random.Random(0)
    worth = [[draw.gauss(0, 1) for _ in range(200)] for _ in range(2)]
    with open(folder / "j.jsonl", "w") as lines, open(folder / "j.csv", "w", newline="") as cells:
        rows = csv.writer(cells)
        rows.writerow(["question", "left", "right", "winner", "who", "when"])
        for number in range(judgments):
            question, pair = number % 20, draw.sample(range(10), 2)
            one, two = (question * 10 + each for each in pair)
            who = number * 20_000 // judgments
            first = draw.random() < 1 / (1 + math.exp(worth[who % 2][two] - worth[who % 2][one]))
            prompt = f"Question {question}: what should the town do?"
            texts = [
                f"Statement {each}: the town should do thing number {each} before the winter" for each in (one, two)
            ]
            row = {"prompt": prompt, "responses": texts, "ranks": [1, 2] if first else [2, 1], "annotator": f"p{who}"}
            lines.write(json.dumps({**row, "group": f"g{who % 2}"}) + "\n")
            when = f"2024-05-{1 + number % 28:02d}T12:00:00Z"
            rows.writerow([prompt, *texts, "left" if first else "right", f"p{who}", when])
    (folder / "m.yaml").write_text(MAPPING)


def measured(folder: Path, source: Path, name: str) -> dict[str, Any]:
    """One command in a folder, with the library of a source tree."""
    code, words = COMMANDS[name]
    threads = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "MKL", "OPENBLAS")}
    environment = {**os.environ, **threads, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{name} with {source}: failed")
    return {"seconds": used.ru_utime + used.ru_stime, "mib": used.ru_maxrss / 1024}


def main() -> None:
    options = parsed(
        __doc__,
        judgments=(1_000_000, "Number of judgments."),
        before=("", "Source folder of another version to compare with."),
        only=("", "Commands, separated by semicolons; the first ones make the files of the others."),
    )
    versions = {"now": ROOT / "src"} | ({"before": Path(options.before).resolve()} if options.before else {})
    wanted = [name.strip() for name in options.only.split(";") if name.strip()]
    names = [name for name in COMMANDS if not wanted or name in wanted]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    rows: dict[str, dict[str, Any]] = {name: {} for name in names}
    with tempfile.TemporaryDirectory() as scratch:
        for version in versions:
            (Path(scratch) / version).mkdir()
            write_sources(Path(scratch) / version, options.judgments)
        for name in names:
            for version, source in versions.items():
                rows[name][version] = measured(Path(scratch) / version, source, name)
                print(name, version, rows[name][version], flush=True)
    store("data_speed", {"options": vars(options), "rows": [{"command": name, **row} for name, row in rows.items()]})
