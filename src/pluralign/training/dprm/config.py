"""The config of DPRM (arXiv 2402.09764): loss, cost between labels, targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pluralign.choice.label_costs import DELTA, LabelCost, label_cost
from pluralign.choice.transport import DEFAULT_COST, DistributionLoss
from pluralign.core.errors import PluralignError, one_line
from pluralign.core.yaml_lines import read_yaml
from pluralign.judgments.scales import LabelScale
from pluralign.scoring.crowds import PriorStrength
from pluralign.training.configs import JudgmentConfig, apply_preset, check_choices, setting

Cost = Literal["reward-gap", "index", "matrix"]
ItemWeight = Literal["equal", "votes"]
Preset = Literal["paper", "DPRM_C", "DPRM_W", "DPRM_OT"]

LOSSES: dict[str, DistributionLoss] = {"paper": "ot", "DPRM_C": "ce", "DPRM_W": "w1", "DPRM_OT": "ot"}
"""The loss of each preset; all but `paper` are the paper's names of its losses."""

PAPER = {"prior_strength": "labels", "smoothing": 0.05, "item_weight": "equal"}
"""Values that each preset sets in addition to its loss, in fields that were left at their defaults."""


@dataclass
class DPRMConfig(JudgmentConfig):
    """DPRM: a reward model that predicts how a crowd would label a response.

    An item is a (prompt, response); its target is made of the votes on it. Batches count items.
    """

    learning_rate: float = setting(2e-5, "The initial learning rate of AdamW.")
    loss: DistributionLoss = setting(
        "energy",
        "The distance of a prediction from its target: half the energy distance (energy), the cross-entropy (ce), the "
        "transport cost (ot), or the same with the index cost (w1). With few votes an item, only energy and ce learn "
        "the crowd's shares.",
    )
    cost: Cost | None = setting(
        None,
        "The distance between labels i and j: |R_i - R_j| + delta (reward-gap), |i - j| (index), or cost_matrix "
        "(matrix). Default: index for w1, else reward-gap.",
    )
    cost_matrix: str | list[list[float]] | None = setting(
        None,
        "With cost: matrix, a row of numbers for each label, or a YAML or JSON file with them; needs the package POT.",
    )
    delta: float = setting(DELTA, "With cost: reward-gap, the part of the cost that any two different labels have.")
    smoothing: float = setting(
        0.0, "A target's top label keeps at most 1 minus this; any excess goes to the second most likely label."
    )
    prior_strength: PriorStrength = setting(
        0.0,
        "The number of votes that the uniform prior counts as in a target; labels: one per label; estimated: the most "
        "likely number, given the votes. At 0, targets are shares of the votes.",
    )
    vote_state: str | None = setting(
        None,
        "A stored vote state whose posterior gives the targets; the training files then only name the items, and "
        "their own labels are not counted.",
    )
    item_weight: ItemWeight = setting("votes", "Count every item once (equal) or by its number of votes (votes).")
    by_group: bool = setting(
        False,
        "Predict a distribution for each group of the column `group`: one head whose deviations from what all groups "
        "share are learned and shrunk. Texts are read once for all groups. With vote_state, the groups are those that "
        "the state was given shares of.",
    )
    group_shrinkage: float = setting(
        300.0,
        "With by_group, the number of votes of a group that the shrinkage of its deviation to 0 counts as.",
    )
    group_shares: dict[str, float] | None = setting(
        None,
        "With by_group, the share of each group in the population that predictions are for. Default: those of the "
        "training votes, or of the vote state.",
    )
    logistic_baseline: bool | None = setting(
        None,
        "Also fit soft-label logistic regression on frozen features of the starting model, which evaluations show "
        "beside the trained one; it reads the training texts once with a second copy of that model. Default: for "
        "models of under a billion parameters.",
    )
    preset: Preset | None = setting(
        None,
        "Targets and weights as in the paper, for fields left at their defaults, with its best loss (paper) or the one "
        "that it calls DPRM_C, DPRM_W or DPRM_OT.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, loss=DistributionLoss, item_weight=ItemWeight)
        check_choices(self, **({} if self.cost is None else {"cost": Cost}))
        apply_preset(self, {name: {"loss": loss, **PAPER} for name, loss in LOSSES.items()})
        if self.preset is not None and self.loss != LOSSES[self.preset]:
            raise ValueError(f"preset: {self.preset} is the loss {LOSSES[self.preset]}, and loss is {self.loss}")
        if (self.cost == "matrix") != (self.cost_matrix is not None):
            raise ValueError("cost_matrix: goes with cost: matrix, and only with it")
        if self.annotator_weights is not None and self.vote_state is not None:
            raise ValueError("annotator_weights: has no effect with vote_state, which holds counted votes")
        if self.group_shares is not None and not self.by_group:
            raise ValueError("group_shares: go with by_group: true")
        if not 0 <= self.group_shrinkage < float("inf"):
            raise ValueError(f"group_shrinkage: found {self.group_shrinkage}, expected a finite number, at least 0")
        if not 0 <= self.delta < float("inf"):
            raise ValueError(f"delta: found {self.delta}, expected a finite number, at least 0")
        if not 0 <= self.smoothing < 0.5:
            raise ValueError(f"smoothing: found {self.smoothing}, expected a number from 0 to under 0.5")
        strength = self.prior_strength
        if strength not in ("labels", "estimated") and not (
            isinstance(strength, int | float) and 0 <= strength < float("inf")
        ):
            raise ValueError(f"prior_strength: found {strength}, expected labels, estimated or a number, at least 0")
        if self.vote_state is not None and strength != (0 if self.preset is None else PAPER["prior_strength"]):
            raise ValueError("prior_strength: a vote state has its own; leave this out")

    def label_cost(self, scale: LabelScale) -> LabelCost:
        """The cost between the labels of a scale.

        Raises:
            PluralignError: the matrix cannot be read, or does not fit these labels.
        """
        if self.cost_matrix is not None:
            return label_cost(scale.rewards, _matrix(self.cost_matrix))
        kind: Any = self.cost or DEFAULT_COST[self.loss]
        return label_cost(scale.rewards, kind, self.delta)


def _matrix(given: str | list[list[float]]) -> list[list[float]]:
    if not isinstance(given, str):
        return given
    rows = read_yaml(Path(given))
    numbers = isinstance(rows, list) and all(
        isinstance(row, list) and all(isinstance(one, int | float) for one in row) for row in rows
    )
    if not numbers:
        raise PluralignError(f"{given}: expected a list of rows of numbers, found {one_line(rows)}")
    return rows
