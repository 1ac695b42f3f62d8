"""All benchmarks, one after the other; then the tables: `make bench`, or `python bench/run.py NAME ...`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = {
    "convarg": [],
    "real_data": [],
    "small_language_model": [],
    "speed": [],
    "speed_curves": ["--curves"],
    "dpo": [],
    "crowd": [],
}
"""Name to its options; `speed_curves` is `speed.py` with another one."""


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            raise SystemExit(f"no benchmark '{name}': choose from {', '.join(NAMES)}")
        print(f"== {name}", flush=True)
        file = "speed.py" if name == "speed_curves" else f"{name}.py"
        subprocess.run([sys.executable, file, *NAMES[name]], cwd=HERE, check=True)
    subprocess.run([sys.executable, "tables.py"], cwd=HERE, check=True)


if __name__ == "__main__":
    main()
