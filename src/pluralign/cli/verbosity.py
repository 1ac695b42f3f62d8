"""How much a command says: `--quiet` and `--verbose`, which stand anywhere among its words."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from pluralign.core.progress import CONSOLE

LIBRARIES = ("transformers", "trl", "peft", "torch", "accelerate", "datasets", "huggingface_hub")
SILENT = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}
"""What these libraries read when they are imported; what the environment sets stays."""


RANKS = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
"""Variables in which a launcher gives the number of a process; accelerate reads the same."""


def set_verbosity(words: list[str]) -> list[str]:
    """Act on `--quiet` and `--verbose` in the words of the command line, and return the other words."""
    quiet, verbose = "--quiet" in words or _is_helper(), "--verbose" in words
    CONSOLE.quiet, CONSOLE.verbose = quiet, verbose
    logging.getLogger("pluralign").setLevel(logging.ERROR if quiet else logging.NOTSET)
    if not verbose:
        for name, value in SILENT.items():
            os.environ.setdefault(name, value)
        if "transformers" in sys.modules:
            sys.modules["transformers"].utils.logging.disable_progress_bar()
        for library in LIBRARIES:
            warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")
    return [word for word in words if word not in ("--quiet", "--verbose")]


def _is_helper() -> bool:
    """Whether this is another than the first of several processes, which all would say the same."""
    return any(os.environ.get(name, "0") != "0" for name in RANKS)
