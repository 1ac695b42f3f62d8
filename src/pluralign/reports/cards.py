"""The README.md of a run: what it is, how to use it, how well it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_USE = {
    "reward": """```python
import pluralign

reward_model = pluralign.load_reward_model("{folder}")
reward_model.score("a prompt", ["one response", "another"])
```""",
    "crowd": """```python
import pluralign

reward_model = pluralign.load_reward_model("{folder}")  # the expected reward; quantile=0.2 for a cautious one
reward_model.score("a prompt", ["one response", "another"])
items = pluralign.items_of(pluralign.read("judgments.parquet"), keep_all=True)
reward_model.distributions(items)  # what a crowd would say: (responses, labels)
```""",
    "policy": """```python
from transformers import pipeline

pipeline("text-generation", "{folder}")("a prompt")
```""",
    "tuned": """```python
import pluralign

policy = pluralign.load_policy("{folder}")
policy.sample(["a prompt"], n=2)
```

It also loads by `transformers` (or `peft`, if it is an adapter) alone.""",
    "types": """```python
import pluralign

policy = pluralign.load_policy("{folder}")  # a mixture: every answer is drawn from one type's policy
policy.sample(["a prompt"], n=2)
pluralign.load_policy("{folder}/type-1").sample(["a prompt"], n=2)  # one type's alone
```

Each folder `type-1`, `type-2` ... is a plain PEFT adapter on the base. `responsibilities.parquet` says which type
each annotator is of, `types.json` what every round found.""",
}


_KINDS = {"sft": "policy", "dpo": "tuned", "pm-dpo": "tuned", "pm-rlhf": "tuned", "em-dpo": "types", "dprm": "crowd"}
"""What an objective makes, where that is no plain reward model."""


def run_card(objective: str, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """A model card for the hub: front matter, use, data, results."""
    kind = _KINDS.get(objective, "reward")
    base = str(config["model_name_or_path"])
    tags = ["pluralign", objective, "reward-model" if kind in ("reward", "crowd") else "language-model"]
    lines = ["---", "library_name: transformers", "tags:"]
    lines += [f"- {tag}" for tag in tags]
    lines += ["---", "", f"# {config['output_dir']}", ""]
    lines += [f"Trained by pluralign from `{base}` with the objective `{objective}` on:", ""]
    lines += [f"- `{file}`" for file in config["train_files"]]
    lines += ["", "## Use", "", _USE[kind].format(folder=config["output_dir"]), "", "## Results", ""]
    lines += metrics_table(metrics)
    lines += ["", "`config.yaml` holds every setting, `environment.json` the versions and the data's fingerprints."]
    return "\n".join(lines) + "\n"


def metrics_table(metrics: Mapping[str, Any]) -> list[str]:
    """Metrics as a Markdown table, intervals beside their values."""
    lines = ["| metric | value |", "|---|---|"]
    for key, value in metrics.items():
        if key.endswith(("_low", "_high")):
            continue
        shown = f"{value:.4g}" if isinstance(value, float) else str(value)
        if f"{key}_low" in metrics and f"{key}_high" in metrics:
            shown += f" ({metrics[f'{key}_low']:.4g} to {metrics[f'{key}_high']:.4g})"
        lines.append(f"| {key.replace('|', '/')} | {shown} |")
    return lines
