"""Ten million judgments through import, split, votes update and audit: processor time, clock, memory and growth.

The judgments are pairs of 200 statements under 20 prompts by annotators of four types, as JSON Lines; nothing is kept.
Each command runs in a process of its own, the import with two workers. Memory is the largest sum over a command and
its workers, read 20 times a second; pages of mapped files count, although the system can take them back.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from ..common.options import Option, parsed
from ..common.results import ROOT, store

PROMPTS, RESPONSES, TYPES = 20, 10, 4
BLOCK = 100_000
COMMAND = "from pluralign.cli.main import main; main()"
FIT = """
import pluralign
from pluralign.choice.latent_class import LatentClassPlackettLuce
from pluralign.scoring.panels import people_of
LatentClassPlackettLuce(4, ridge=0.5, common_ridge=0.5).fit(people_of(pluralign.read("all")).panel)
"""
COMMANDS = {
    "import": ("import", "j.jsonl", "--out", "all", "--workers", "2"),
    "split": ("split", "all", "--out", "parts", "--by", "annotator"),
    "votes update": ("votes", "update", "state.parquet", "all"),
    "votes update, nothing new": ("votes", "update", "state.parquet", "all"),
    "the fit of an audit alone": (),
    "audit": ("audit", "all", "--out", "au", "--types", str(TYPES), "--features", "worths", "--simulations", "0"),
}


def write_source(file: Path, judgments: int, annotators: int) -> None:
    """Pairs in the order of their annotators, each with as many judgments as the others."""
    draw = np.random.default_rng(0)
    worths = draw.normal(size=(TYPES, PROMPTS * RESPONSES)) * 1.2
    prompts = [f"Question {number}: what should the town do?" for number in range(PROMPTS)]
    texts = [
        f"Statement {number}: the town should do thing number {number} before the winter"
        for number in range(PROMPTS * RESPONSES)
    ]
    with open(file, "w") as out:
        for start in range(0, judgments, BLOCK):
            number = np.arange(start, min(start + BLOCK, judgments))
            who = number * annotators // judgments
            prompt, one = draw.integers(PROMPTS, size=len(number)), draw.integers(RESPONSES, size=len(number))
            two = (one + draw.integers(1, RESPONSES, size=len(number))) % RESPONSES
            left, right = prompt * RESPONSES + one, prompt * RESPONSES + two
            gap = worths[who % TYPES, left] - worths[who % TYPES, right]
            first = draw.random(len(number)) < 1 / (1 + np.exp(-gap))
            rows = zip(
                prompt.tolist(),
                left.tolist(),
                right.tolist(),
                first.tolist(),
                who.tolist(),
                number.tolist(),
                strict=True,
            )
            out.writelines(
                f'{{"prompt": "{prompts[p]}", "responses": ["{texts[a]}", "{texts[b]}"], "ranks": '
                f'{"[1, 2]" if won else "[2, 1]"}, "annotator": "p{person}", "group": "g{person % TYPES}", '
                f'"time": "2024-{1 + count // 28 % 12:02d}-{1 + count % 28:02d}T12:00:00Z"}}\n'
                for p, a, b, won, person, count in rows
            )


def resident(process: int) -> tuple[int, int]:
    """The memory of a process and its children in KiB, and how much of it is no mapped file."""
    total = own = 0
    try:
        fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
        total, own = int(fields["VmRSS"].split()[0]), int(fields["RssAnon"].split()[0])
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (OSError, KeyError):  # it has ended
        return total, own
    for child in children:
        more = resident(int(child))
        total, own = total + more[0], own + more[1]
    return total, own


def measured(folder: Path, words: tuple[str, ...], threads: int) -> dict[str, Any]:
    """One command in a folder."""
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
    environment = {**os.environ, **limits, "PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    start, peak, own = time.perf_counter(), 0, 0
    child = subprocess.Popen(
        [sys.executable, "-c", COMMAND if words else FIT, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    while True:
        pid, status, used = os.wait4(child.pid, os.WNOHANG)
        if pid:
            break
        now = resident(child.pid)
        peak, own = max(peak, now[0]), max(own, now[1])
        time.sleep(0.05)
    if status:
        raise SystemExit(f"{' '.join(words) or 'the fit'}: failed")
    clock = time.perf_counter() - start
    # The system adds the times of workers that the command has waited for.
    return {"processor": used.ru_utime + used.ru_stime, "clock": clock, "peak": peak / 2**20, "own": own / 2**20}


def main() -> None:
    options = parsed(
        __doc__,
        judgments=Option(
            [1_000_000, 10_000_000], "Numbers of judgments; the growth is that from the first to the last."
        ),
        annotators=(50_000, "Number of annotators."),
        only=Option(list(COMMANDS), "Run only these commands; the first one makes the files of the others.", COMMANDS),
        threads=(2, "Threads of each process."),
    )
    rows = []
    for count in options.judgments:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_source(folder / "j.jsonl", count, options.annotators)
            for name in options.only:
                rows.append({"command": name, "judgments": count, **measured(folder, COMMANDS[name], options.threads)})
                print(rows[-1], flush=True)
    store("ten_million", {"options": vars(options), "rows": rows})
