"""The README.md of a run: what it is, how to use it, its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def run_card(objective: str, tag: str, usage: str, config: Mapping[str, Any], metrics: Mapping[str, Any]) -> str:
    """A model card for the hub: front matter, use, data, results.

    Args:
        objective: its name.
        tag: the kind of model, as the hub's tag.
        usage: Markdown with `{folder}` where the model's folder belongs.
        config: the resolved config of the run.
        metrics: flat, as in `metrics.json`.
    """
    lines = ["---", "library_name: transformers", "tags:", "- pluralign", f"- {objective}", f"- {tag}", "---", ""]
    lines += [f"# {config['output_dir']}", ""]
    lines += [f"Trained by pluralign from `{config['model_name_or_path']}` with the objective `{objective}` on:", ""]
    lines += [f"- `{file}`" for file in config["train_files"]]
    lines += ["", "## Use", "", usage.replace("{folder}", config["output_dir"]), "", "## Results", ""]
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


def cross_table(metrics: Mapping[str, Any], policies: Sequence[str]) -> list[str]:
    """How well each type's policy predicts each known group, as a Markdown section; nothing without groups.

    Examples:
        >>> metrics = {"accuracy/policy=a/group=old": 0.75, "log_loss/policy=a/group=old": 0.5}
        >>> for line in cross_table(metrics, ["a"]):
        ...     print(line or "-")
        ## Accuracy (log-loss) of each group's judgments under each type's policy
        -
        | group | a |
        |---|---|
        | old | 0.75 (0.5) |
    """
    prefix = f"accuracy/policy={policies[0]}/group="
    groups = [key[len(prefix) :] for key in metrics if key.startswith(prefix)]
    if not groups:
        return []
    lines = ["## Accuracy (log-loss) of each group's judgments under each type's policy", ""]
    lines += [f"| group | {' | '.join(policies)} |", "|---" * (len(policies) + 1) + "|"]
    for group in groups:
        keys = [f"policy={policy}/group={group}" for policy in policies]
        cells = [f"{metrics[f'accuracy/{key}']:.3g} ({metrics[f'log_loss/{key}']:.3g})" for key in keys]
        lines.append(f"| {group.replace('|', '/')} | {' | '.join(cells)} |")
    return lines
