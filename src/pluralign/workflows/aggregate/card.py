"""The card of an aggregation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pluralign.reports.aggregation import AggregationPage
from pluralign.workflows.aggregate.contents import outcome_lines, policy_key
from pluralign.workflows.aggregate.tuning import OFFERED


def aggregation_card(folder: Path, metrics: Mapping[str, Any], contents: AggregationPage) -> str:
    """README.md of an aggregation: the best policy, what each type gets, and the weights."""
    names = [kind.type for kind in contents.types]
    head = "| policy | " + " | ".join(f"type {name}" for name in names) + " |\n|---|" + "---|" * len(names)
    rows = [
        f"| {policy} | "
        + " | ".join(f"{metrics[f'{policy_key(policy)}_weights/type={name}']:.3f}" for name in names)
        + " |"
        for policy in OFFERED
        if f"{policy_key(policy)}_weights/type={names[0]}" in metrics
    ]
    lines = "\n".join(outcome_lines(metrics))
    warnings = "\n".join(f"- {warning}" for warning in contents.warnings)
    winner = metrics["winner"]
    best = folder / winner if (folder / winner).is_dir() else None
    loaded = (
        f'```python\nimport pluralign\n\npolicy = pluralign.load_policy("{best}")\n'
        'policy.sample(["a prompt"], n=2)\n```\n\n'
        if best is not None
        else ""
    )
    return (
        f"# Aggregation of {contents.run}\n\n"
        f"{metrics['types']} types; weights chosen on {metrics['tuning_prompts']} prompts; {metrics['samples']} "
        f"responses of each policy to {metrics['prompts']} other prompts. Best by {contents.criterion}: `{winner}`.\n\n"
        f"{loaded}```\n{lines}\n```\n\n"
        f"Win rates against the base, judged by {contents.judged_by}; regrets in nats per response.\n\n"
        f"Weights:\n\n{head}\n" + "\n".join(rows) + (f"\n\n{warnings}\n" if warnings else "\n")
    )
