"""Checkpoints that count only when they are whole."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.utils import logging

from pluralign.core.files import disk_errors
from pluralign.core.records import read_record, write_record

logger = logging.get_logger(__name__)

MARKER = "COMPLETE"
"""The last file that is written into a checkpoint."""


PROGRESS = "progress.json"


@dataclass(frozen=True)
class Progress:
    """The training state that a checkpoint stores in addition to that of `transformers`."""

    loss_sum: float = 0.0  # of all passes
    seconds: float = 0.0


def write_progress(checkpoint: Path, progress: Progress) -> None:
    """Write the progress into a checkpoint."""
    write_record(checkpoint / PROGRESS, progress)


def read_progress(checkpoint: Path) -> Progress:
    """The progress in a checkpoint; none in checkpoints of earlier versions."""
    file = checkpoint / PROGRESS
    return read_record(file, Progress) if file.exists() else Progress()


class CompletionMarker(TrainerCallback):
    """Marks a checkpoint as whole after every process has written its part."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Write the marker."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.barrier()
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / MARKER).touch()


def newest_checkpoint(run: Path, remove_halves: bool = True) -> Path | None:
    """The newest whole checkpoint of a run, or `None`; half-written ones are removed with a warning.

    Args:
        run: the run's folder.
        remove_halves: whether this process removes half-written ones.

    Examples:
        >>> import tempfile
        >>> run = Path(tempfile.mkdtemp())
        >>> (run / "checkpoint-5").mkdir()
        >>> newest_checkpoint(run) is None, (run / "checkpoint-5").exists()
        (True, False)
    """
    if not run.is_dir():
        return None
    every = [path for path in run.iterdir() if path.is_dir() and re.fullmatch(r"checkpoint-\d+", path.name)]
    whole = [path for path in every if (path / MARKER).exists()]
    for half in sorted(set(every) - set(whole)):
        if remove_halves:
            logger.warning(f"{half}: was not finished when the run stopped; removed")
            with disk_errors(half):
                shutil.rmtree(half)
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
