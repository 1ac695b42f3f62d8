"""Peers that do not go with our pinned versions: a virtual environment of their own, made when first asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common import OUT

FOLDER = OUT / "peers"
"""Biogeme wants an older pandas than ours and brings jax: nothing of it may reach the environment we measure in."""


def python_with(package: str, version: str) -> Path | None:
    """The interpreter of the environment with a package in it; `None` where it cannot be installed.

    Args:
        package: its name in the index.
        version: exactly this one; what it needs is left to the installer, the results say what came.
    """
    python = FOLDER / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", FOLDER], check=True)
    asked = f"import importlib.metadata as m; raise SystemExit(m.version({package!r}) != {version!r})"
    if subprocess.run([python, "-c", asked], capture_output=True, check=False).returncode:
        print(f"installing {package} {version} into {FOLDER.name}, away from ours", flush=True)
        command = [python, "-m", "pip", "install", "--quiet", f"{package}=={version}"]
        if subprocess.run(command, check=False).returncode:
            return None
    return python
