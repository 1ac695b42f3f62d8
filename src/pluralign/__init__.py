"""Align language models with a population, not with an average annotator.

The public names are listed in `__init__.pyi`. Each loads on first use, so `import pluralign` is quick and needs no
torch.
"""

import ast
import importlib
import warnings
from pathlib import Path
from typing import Any

# The libraries below import tqdm, which misses ipywidgets in many a notebook; pluralign shows no bar of it.
warnings.filterwarnings("ignore", "IProgress not found")

_HOMES = {
    name.asname: statement.module
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_bytes()).body
    if isinstance(statement, ast.ImportFrom)
    for name in statement.names
}
"""Each public name and the module that defines it."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        metadata = importlib.import_module("importlib.metadata")  # slow to import
        return metadata.version("pluralign")
    if name not in _HOMES:
        raise AttributeError(f"module 'pluralign' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
