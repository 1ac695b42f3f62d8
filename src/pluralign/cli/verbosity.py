"""How much a command says: `--quiet` and `--verbose`, which stand anywhere among its words."""

from __future__ import annotations

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


def said_as_asked(words: list[str]) -> list[str]:
    """Take `--quiet` and `--verbose` from the words of the command line, and set the console accordingly."""
    quiet, verbose = "--quiet" in words, "--verbose" in words
    CONSOLE.quiet = quiet
    if not verbose:
        for name, value in SILENT.items():
            os.environ.setdefault(name, value)
        if "transformers" in sys.modules:
            sys.modules["transformers"].utils.logging.disable_progress_bar()
        for library in LIBRARIES:
            warnings.filterwarnings("ignore", module=rf"{library}(\.|$)")
    return [word for word in words if word not in ("--quiet", "--verbose")]
