"""What known groups of people give up: their members' types, and the types' regrets."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pluralign.evaluation.policies.regret import Floats, means
from pluralign.judgments.reading import read
from pluralign.policies.routing import is_typed_run
from pluralign.scoring.mixtures import read_responsibilities


@dataclass(frozen=True)
class Group:
    """A known group of the annotators that a run was tuned on.

    Args:
        name: as in the column `group`.
        annotators: how many there are.
        shares: mean of their posteriors `(types,)`.
    """

    name: str
    annotators: int
    shares: Floats


def known_groups(run: Path, files: Sequence[str], types: int, label_scale: str | None) -> list[Group]:
    """The groups of a run's annotators, by the table it was tuned on; none where nothing says.

    Args:
        run: of `em-dpo`.
        files: its training files; those that are gone are passed over.
        types: how many there are.
        label_scale: of files without one.
    """
    present = [file for file in files if Path(file).is_file()]
    if not present or not is_typed_run(run):
        return []
    people = read_responsibilities(run, types)
    judgments = read(present, label_scale)
    votes: dict[str, Counter[str]] = {}
    for name, group in zip(judgments.column("annotator"), judgments.column("group"), strict=True):
        if name in people and group is not None:
            votes.setdefault(name, Counter())[group] += 1
    members: dict[str, list[Floats]] = {}
    for name, found in votes.items():
        members.setdefault(found.most_common(1)[0][0], []).append(people[name])
    return [Group(name, len(members[name]), np.mean(members[name], axis=0)) for name in sorted(members)]


def group_blocks(
    groups: Sequence[Group], names: Sequence[str], regrets: Floats, wins: Floats, seed: int
) -> list[dict[str, Any]]:
    """Regret and win rate of each group under each policy, as `aggregate.json` holds them.

    A group's regret is its members' mean, sum_k p_k R_kj with p the mean of their posteriors.

    Args:
        groups: of `known_groups`.
        names: of the policies.
        regrets: `(types, policies, prompts)`, in nats per answer.
        wins: shares of answers that are preferred to the base's `(types, policies, prompts)`.
        seed: of the bootstrap over prompts.

    Examples:
        >>> two = [Group("old", 3, np.array([0.5, 0.5]))]
        >>> found = group_blocks(two, ["a"], np.array([[[0.0, 0.0]], [[2.0, 4.0]]]), np.ones((2, 1, 2)), 0)
        >>> found[0]["policies"][0]["regret"], found[0]["policies"][0]["win_rate"]
        (1.5, 1.0)
    """
    if not groups:
        return []
    shares = np.stack([group.shares for group in groups])
    given_up = means(np.einsum("gk,kjp->gjp", shares, regrets), seed=seed)
    liked = means(np.einsum("gk,kjp->gjp", shares, wins), seed=seed)
    one_prompt = regrets.shape[-1] < 2
    return [
        {
            "group": group.name,
            "annotators": group.annotators,
            "shares": group.shares.tolist(),
            "policies": [
                {
                    "name": name,
                    "regret": float(given_up.value[row, column]),
                    "low": None if one_prompt else float(given_up.low[row, column]),
                    "high": None if one_prompt else float(given_up.high[row, column]),
                    "win_rate": float(liked.value[row, column]),
                }
                for column, name in enumerate(names)
            ],
        }
        for row, group in enumerate(groups)
    ]


def group_metrics(blocks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Flat metrics of the groups."""
    metrics: dict[str, Any] = {}
    for block in blocks:
        for policy in block["policies"]:
            at = f"{policy['name']}/group={block['group']}"
            metrics |= {f"regret/{at}": policy["regret"], f"win_rate/{at}": policy["win_rate"]}
            metrics |= {f"regret/{at}_low": policy["low"], f"regret/{at}_high": policy["high"]}
    return metrics
