"""All benchmarks, one after the other; then the tables: `make bench`, or `python bench/run.py NAME ...`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = ("convarg", "real_data", "small_language_model")


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            raise SystemExit(f"no benchmark '{name}': choose from {', '.join(NAMES)}")
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, f"{name}.py"], cwd=HERE, check=True)
    subprocess.run([sys.executable, "tables.py"], cwd=HERE, check=True)


if __name__ == "__main__":
    main()
