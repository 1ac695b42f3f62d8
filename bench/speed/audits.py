"""Seconds of `pluralign audit` by its default settings on real data, each in a process of its own.

"Processor" counts only the time that the process was running, "clock" everything that a user waits for, on a machine
that may do other work. Importing pluralign is left out.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

import torch

from ..common.data import POLIS_CONVERSATIONS, load
from ..common.options import parsed, parts
from ..common.results import OUT, in_own_process, keep, kept, peak_memory

NAMES = [
    *(f"{shape}-{name}" for name in POLIS_CONVERSATIONS for shape in ("polis", "people")),
    "convarg", "llm-crowd", "qa-feedback",
]  # fmt: skip


def audited(name: str) -> dict[str, Any]:
    """Seconds, memory and findings of one audit, with nothing cached."""
    from pluralign.workflows.audit.run import audit

    peak_memory()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PLURALIGN_CACHE"] = f"{folder}/cache"
        clock, processor = time.perf_counter(), time.process_time()
        found = audit([str(OUT / "data" / f"{name}.parquet")], f"{folder}/audit")
        seconds = {"clock": time.perf_counter() - clock, "processor": time.process_time() - processor}
    keys = ("judgments", "annotators", "unique_responses", "features", "types", "identification", "heterogeneity")
    said = {key: found[key] for key in (*keys, "sentence", "groups_adjusted_rand") if key in found}
    return said | seconds | {"peak": peak_memory(), "threads": torch.get_num_threads()}


def main() -> None:
    options = parsed(__doc__, only=parts(NAMES, "Only these data sets; the others keep their last times."))
    rows = kept("audit_speed", {})
    for name in options.only:
        load(name)
        rows[name] = in_own_process(audited, {"name": name})
        print(f"{name}: {rows[name]}", flush=True)
        keep("audit_speed", {}, {name: rows[name] for name in NAMES if name in rows})
