"""All benchmarks, one after the other; then the tables: `make bench`, or `python bench/run.py NAME ...`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = {
    "convarg": ["convarg.py"],
    "real_data": ["real_data.py"],
    "small_language_model": ["small_language_model.py"],
    "speed": ["speed.py"],
    "speed_curves": ["speed.py", "--curves"],
    "dpo": ["dpo.py"],
    "crowd": ["crowd.py"],
    "published": ["published.py"],
    "latent_class": ["latent_class.py"],
    "types": ["annotator_types.py"],
    "real_types": ["real_types.py"],
    "em_town": ["em_town.py"],
    "em_cost": ["em_cost.py"],
    "em_real": ["em_real.py"],
    "em_regret": ["em_regret.py"],
    "more_sources": ["more_sources.py"],
    "more_study": ["more_study.py"],
    "more_conflict": ["more_conflict.py"],
    "more_cost": ["more_cost.py"],
    "crowds": ["crowds.py"],
    "transport_speed": ["transport_speed.py"],
    "crowd_votes": ["crowd_votes.py"],
    "dprm_step": ["dprm_step.py"],
    "matching_exact": ["matching_exact.py"],
    "matching_offline": ["matching_offline.py"],
    "matching_first_loss": ["matching_first_loss.py"],
    "pm_step": ["pm_step.py"],
    "pm_language": ["pm_language.py"],
    "pm_population": ["pm_population.py"],
    "pm_polis": ["pm_polis.py", "--conversations", "15-per-hour-seattle", "brexit-consensus"],
}
"""Name to its script and options."""


def main() -> None:
    for name in sys.argv[1:] or NAMES:
        if name not in NAMES:
            raise SystemExit(f"no benchmark '{name}': choose from {', '.join(NAMES)}")
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, *NAMES[name]], cwd=HERE, check=True)
    subprocess.run([sys.executable, "tables.py"], cwd=HERE, check=True)


if __name__ == "__main__":
    main()
