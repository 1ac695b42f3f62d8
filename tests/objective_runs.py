"""A small run of every objective, for what all trainers must do."""

import dataclasses
from pathlib import Path

import yaml

from labelled import SCALE
from pluralign.judgments import Judgments
from pluralign.training.objectives import OBJECTIVES
from rewarded import write_reward_model


def with_field(name):
    """The objectives whose config has a field."""
    return [key for key, entry in OBJECTIVES.items() if name in {f.name for f in dataclasses.fields(entry.config)}]


ON_JUDGMENTS = with_field("layout")
SAMPLED = with_field("num_generations")
"""Objectives that train on their own samples: their loss need not fall, and each process draws its own."""

LORA = {"use_peft": True, "lora_target_modules": ["all-linear"], "lora_r": 4, "lora_dropout": 0.0}


def write_data(folder, town_rows, tiny_model):
    """Files of rankings and of votes, and a reward model, in a folder."""
    rows = [
        row | {"group": "xy"[int(row["annotator"][1:]) % 2], "weight": 1 + n % 3} for n, row in enumerate(town_rows)
    ]
    voted = []
    for row in rows:
        scores = [text.split().count("good") - text.split().count("bad") for text in row["responses"][:2]]
        labels = [SCALE.labels[1 + max(-1, min(1, score))] for score in scores]
        voted.append({**row, "responses": row["responses"][:2], "ranks": None, "labels": labels})
    for name, table in (("ranked", Judgments.from_rows(rows)), ("voted", Judgments.from_rows(voted, SCALE))):
        table.select(range(48)).write(folder / f"{name}-train.parquet")
        table.select(range(48, 72)).write(folder / f"{name}-test.parquet")
    write_reward_model(tiny_model, folder / "reward")


def settings(objective, data, model, folder, **values):
    """A config of an objective in full batches of 8."""
    own = {
        "dprm": {"loss": "ce"},
        "em-dpo": {"types": 2, "start": "groups", "rounds": 1, "features": "tfidf", **LORA},
        "pm-rlhf": {"reward_model": str(data / "reward"), "num_generations": 4, "max_completion_length": 4, "alpha": 0.0035},
        "sft": {"max_length": 64},
    }  # fmt: skip
    kind = "voted" if objective == "dprm" else "ranked"
    return {
        "objective": objective,
        "model_name_or_path": str(model),
        "train_files": [str(data / f"{kind}-train.parquet")],
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        **own.get(objective, {}),
        **values,
    }


def written(objective, data, model, folder, **values):
    """A config with held-out files, as YAML."""
    kind = "voted" if objective == "dprm" else "ranked"
    values = {"eval_files": [str(data / f"{kind}-test.parquet")], **values}
    file = Path(f"{folder}.yaml")
    file.write_text(yaml.safe_dump(settings(objective, data, model, folder, **values)))
    return file
