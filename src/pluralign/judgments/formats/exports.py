"""Judgments for other tools: best-of-n rows as in RewardBench 2, a CSV of votes, and folders of `datasets`."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write
from pluralign.judgments.formats.trl import Exported, write_rows, write_trl
from pluralign.judgments.messages import narrow_table
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes.state import text_key

ABOUT = ("annotator", "source", "group", "weight", "time", "strength")


def best_of_n_rows(judgments: Judgments, lost: Counter[str]) -> Iterator[dict[str, Any]]:
    """A row per ranking with something worse than the best: the best responses as `chosen`, the others as `rejected`.

    Args:
        judgments: the table.
        lost: counts rankings in which all tie, and rows of labels.

    Examples:
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No", "Hm"], "ranks": [1, 2, None]}]
        >>> row, = best_of_n_rows(Judgments.from_rows(rows), Counter())
        >>> row["chosen"], row["rejected"], row["num_correct"], row["total_completions"]
        (['Yes'], ['No', 'Hm'], 1, 3)
    """
    for row in judgments.rows():
        ranks = judgments.ranks_of(row)
        best = [text for text, rank in zip(row["responses"], ranks, strict=False) if rank == 1]
        rest = [text for text, rank in zip(row["responses"], ranks, strict=False) if rank != 1]
        if not best or not rest:
            lost["judgments without a worse response"] += 1
            continue
        yield {
            "id": row["id"],
            "prompt": row["prompt"],
            "chosen": best,
            "rejected": rest,
            "num_correct": len(best),
            "num_incorrect": len(rest),
            "total_completions": len(best) + len(rest),
            "subset": row["source"],
        }


def write_best_of_n(judgments: Judgments, out: str | os.PathLike[str]) -> Exported:
    """Write `best_of_n_rows` to Parquet or JSON Lines."""
    text, lost = narrow_table(judgments.table).schema.field("prompt").type, Counter[str]()
    lists = pa.list_(text)
    columns = [("id", pa.string()), ("prompt", text), ("chosen", lists), ("rejected", lists)]
    columns += [(name, pa.int32()) for name in ("num_correct", "num_incorrect", "total_completions")]
    rows, none = best_of_n_rows(judgments, lost), "no ranking has a worse response"
    return write_rows(rows, pa.schema([*columns, ("subset", pa.string())]), out, lost, none)


def write_votes_csv(judgments: Judgments, out: str | os.PathLike[str]) -> Exported:
    """Write a CSV with a row per response of each judgment; chats are JSON text.

    Raises:
        PluralignError: the name does not end in `.csv`, or the disk refuses.
    """
    if Path(out).suffix.lower() != ".csv":
        raise PluralignError(f"{out}: the name must end in .csv")
    count = 0
    with atomic_write(out, "w") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "response", "rank", "label", *ABOUT])
        for row in judgments.rows():
            nothing = [None] * len(row["responses"])
            about = [row[name].isoformat() if name == "time" and row[name] else row[name] for name in ABOUT]
            shown = zip(row["responses"], row["ranks"] or nothing, row["labels"] or nothing, strict=True)
            for text, rank, label in shown:
                writer.writerow([row["id"], text_key(row["prompt"]), text_key(text), rank, label, *about])
                count += 1
    return Exported(Path(out), count, Counter())


def write_dataset(judgments: Judgments, out: str | os.PathLike[str]) -> Exported:
    """Write the table as a folder that `datasets.load_from_disk` reads.

    Raises:
        PluralignError: the folder exists and is not empty.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PluralignError(f"{folder}: exists already: choose a new folder")
    import datasets

    datasets.Dataset(narrow_table(judgments.table).replace_schema_metadata(None)).save_to_disk(str(folder))
    return Exported(folder, len(judgments), Counter())


EXPORTS: dict[str, Callable[[Judgments, str | os.PathLike[str]], Exported]] = {
    "trl": write_trl, "best-of-n": write_best_of_n, "votes": write_votes_csv, "datasets": write_dataset
}  # fmt: skip
"""What a table can be exported to, by name."""
