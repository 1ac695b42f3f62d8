"""Run benchmarks and write their tables into `bench/results`.

python bench/run.py --list               every benchmark with one line and its rough time
python bench/run.py                      all of them, one after the other
python bench/run.py convarg types        two of them
python bench/run.py em_town --help       the options of one
python bench/run.py em_town --only curve --seeds 0 1
python bench/run.py --tables             only write the tables of stored results
"""

from __future__ import annotations

import importlib
import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = {
    "convarg": ("reward_models.convarg", "10 min", "reward models on a crowd's arguments, against baselines and TRL"),
    "real_data": ("reward_models.other_sources", "20 min", "reward models on seven other real data sets"),
    "more_sources": ("reward_models.more_sources", "hours", "MORE on five real sources, against its paper's baselines"),
    "more_study": ("reward_models.more_settings", "10 min", "MORE on the same sources, one setting changed at a time"),
    "more_conflict": ("reward_models.more_simulated", "10 min", "MORE on simulated sources with known conflicts"),
    "more_averages": (
        "reward_models.more_averages",
        "10 min",
        "MORE's gradients averaged over steps, and half-batches",
    ),
    "ties": ("reward_models.ties", "3 min", "Davidson's ties against efron and strict pairs, on three real crowds"),
    "strengths": ("reward_models.strengths", "1 min", "strengths of preference as ordered outcomes, on HelpSteer2"),
    "small_language_model": ("against_trl.small_language_model", "10 min", "trains the model that others tune"),
    "interval_coverage": ("reward_models.interval_coverage", "3 min", "how often intervals of metrics hold the truth"),
    "dpo": ("against_trl.dpo", "10 min", "DPO on real data: the same result as TRL in less time"),
    "crowd_training": ("against_trl.crowd_training", "20 min", "training on crowd votes against TRL, and equal time"),
    "speed": ("speed.steps", "40 min", "seconds and memory of a step: prompt trees, flat rows, TRL"),
    "data_speed": ("speed.data", "10 min", "a million judgments through every command, and another version's"),
    "ten_million": ("speed.ten_million", "1 h", "ten million judgments through import, split, votes update and audit"),
    "speed_curves": ("speed.steps --curves", "20 min", "how that ratio depends on what judgments share"),
    "transport_speed": ("speed.transport", "2 min", "DPRM's transport loss against a loop of POT"),
    "dprm_step": ("speed.dprm", "15 min", "a step of DPRM against a Bradley-Terry step"),
    "more_cost": ("speed.more", "10 min", "a step of MORE against uniform weights"),
    "pm_step": ("speed.preference_matching", "5 min", "a step of online preference matching against TRL's RLOO"),
    "audit_speed": ("speed.audits", "10 min", "seconds of `pluralign audit` by default settings on real data"),
    "published": ("annotator_types.published", "1 min", "published choice-model estimates reproduced"),
    "latent_class": ("annotator_types.latent_class", "5 min", "latent classes against biogeme and choix, and growth"),
    "types": ("annotator_types.planted_types", "20 min", "simulated annotator types: identification, recovery, power"),
    "type_ties": ("annotator_types.ties", "20 min", "Davidson's ties in annotator types, against efron"),
    "real_types": ("annotator_types.real_types", "10 min", "annotator types in Polis, ConvArg and QA-feedback"),
    "em_town": ("em_dpo.town", "2 h", "EM-DPO on simulated towns: judgments per annotator, and where words are blind"),
    "em_cost": ("em_dpo.cost", "30 min", "a whole run of EM-DPO against an epoch of DPO, ours and TRL's"),
    "em_real": ("em_dpo.real_annotators", "hours", "EM-DPO on two crowds and on Polis conversations"),
    "aggregation": ("aggregation.town", "30 min", "one policy for all types of a town: who prefers it to the base"),
    "crowds": ("crowds.predicted", "hours", "DPRM's predictions of crowds on new items"),
    "crowd_groups": ("crowds.groups", "2 min", "DPRM's head for known groups on survey answers, against baselines"),
    "dprm_policies": ("crowds.tuned_policies", "20 min", "what policies tuned on a DPRM say, as its paper's Table 2"),
    "crowd_defaults": ("crowds.defaults", "5 min", "DPRM's losses and targets on a linear head, against baselines"),
    "crowd_budget": ("crowds.budget", "5 min", "the same votes on many items or on few, for DPRM's head"),
    "crowd_votes": ("crowds.votes", "1 min", "accuracy of a crowd's target: votes, drift, uneven samples"),
    "matching_lengths": ("matching.lengths", "1 min", "how long the responses are that each mode of matching asks for"),
    "matching_alpha": ("matching.alpha", "20 min", "the alpha of flattened matching, on exact trees and a tuning town"),
    "matching_pictures": ("matching.pictures", "1 min", "the pictures of docs/preference-matching.md"),
    "matching_exact": ("matching.trees", "10 min", "online preference matching against its exact optimum"),
    "matching_offline": ("matching.trees_offline", "10 min", "offline preference matching against its exact optimum"),
    "matching_first_loss": ("matching.first_loss", "2 min", "where PM-DPO starts on text"),
    "pm_population": ("matching.town", "1 h", "whose responses policies give in a simulated town"),
    "pm_polis": ("matching.polis", "1 h", "whose statements policies choose in Polis conversations"),
    "real_model_scores": (
        "real_models.exactness",
        "5 min",
        "pretrained models: prompt trees, flat rows, transformers alone",
    ),
    "smollm2_polis": ("real_models.polis", "1 h", "EM-DPO on Polis conversations with SmolLM2-135M-Instruct"),
    "smollm2_polis_new": (
        "real_models.polis --held-out statements",
        "1 h",
        "the same on statements that nobody ranked in training",
    ),
    "smollm2_crowds": (
        "crowds.predicted --model smollm2 --name smollm2_crowds --sources polis-statements",
        "30 min",
        "DPRM on SmolLM2: votes on new statements",
    ),
    "smollm2_pm_polis": (
        "matching.polis --model smollm2 --conversations 15-per-hour-seattle --methods DPO flattened --steps 40",
        "30 min",
        "preference matching on SmolLM2: whose statements a policy chooses",
    ),
    "smollm2_llm_crowd": (
        "real_models.llm_crowd",
        "30 min",
        "a reward model on SmolLM2 for answers of language models",
    ),
    "pm_language": ("matching.free_text", "hours", "preference matching on free text"),
}
"""Name to module with options, rough time on two cores, and one line. `dpo`, `crowd_training`, `matching_first_loss`
and `pm_language` tune the model of `small_language_model`, which must run first."""

SUBJECTS = (
    "reward_models",
    "against_trl",
    "speed",
    "annotator_types",
    "em_dpo",
    "aggregation",
    "crowds",
    "matching",
    "real_models",
)


def write_tables() -> None:
    """Write the tables of all stored results."""
    sys.path.insert(0, str(ROOT))
    renderer = importlib.import_module("bench.common.tables")
    for subject in SUBJECTS:
        written = renderer.write_tables(subject, importlib.import_module(f"bench.{subject}.tables").TABLES)
        if written:
            print(f"bench/results/{subject}.md: {', '.join(written)}")


def main() -> None:
    given = sys.argv[1:]
    if given == ["--list"]:
        for name, (_, minutes, line) in BENCHMARKS.items():
            print(f"{name:<21}{minutes:>7}  {line}")
        return
    if given[:1] in (["--help"], ["-h"]):
        print(__doc__)
        return
    first = next((place for place, word in enumerate(given) if word.startswith("-")), len(given))
    names, options = given[:first], given[first:]
    if options == ["--tables"]:
        return write_tables()
    if unknown := [name for name in names if name not in BENCHMARKS]:
        raise SystemExit(f"no benchmark '{unknown[0]}': `--list` shows all of them")
    if options and len(names) != 1:
        raise SystemExit("options go to one benchmark: name it first")
    for name in names or BENCHMARKS:
        print(f"== {name}", flush=True)
        module, *own = BENCHMARKS[name][0].split()
        command = shlex.join(["python", "bench/run.py", name, *options])
        environment = os.environ | {"PLURALIGN_BENCH_COMMAND": command}
        call = [sys.executable, "-c", f"from bench.{module} import main; main()", *own, *options]
        done = subprocess.run(call, cwd=ROOT, env=environment, check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
    if "--help" not in options and "-h" not in options:
        write_tables()


if __name__ == "__main__":
    main()
