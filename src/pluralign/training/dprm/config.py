"""The config of DPRM: loss, cost between labels, targets."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from pluralign.choice.label_costs import DELTA, LabelCost, label_cost
from pluralign.choice.transport import DEFAULT_COST, DistributionLoss
from pluralign.core.errors import PluralignError, one_line
from pluralign.core.files import disk_errors
from pluralign.judgments.scales import LabelScale
from pluralign.training.configs import JudgmentConfig, check_choices

Cost = Literal["reward-gap", "index", "matrix"]
ItemWeight = Literal["equal", "votes"]
Preset = Literal["DPRM_C", "DPRM_W", "DPRM_OT"]

PRESETS: dict[str, DistributionLoss] = {"DPRM_C": "ce", "DPRM_W": "w1", "DPRM_OT": "ot"}
"""The paper's names of its losses, and ours."""


@dataclass
class DPRMConfig(JudgmentConfig):
    """DPRM: a reward model that predicts what a crowd would say of a response.

    An item is a (prompt, response); its target is the posterior mean of the votes on it. Batches count items.

    Args:
        loss: `ot` is the transport cost to the target, `w1` the same with the index cost, `energy` half the energy
            distance, `ce` the cross-entropy.
        cost: What labels are apart: `reward-gap` is |R_i - R_j| + delta [i != j], `index` |i - j|, `matrix` is
            `cost_matrix`. Default: `index` for w1, else `reward-gap`.
        cost_matrix: Of `matrix`: a row of numbers for each label, or a YAML or JSON file with them. Needs the
            package POT.
        delta: Of `reward-gap`: what two labels of one reward cost.
        smoothing: A target's top label keeps at most 1 - smoothing; what is over goes to the runner-up.
        prior_strength: The votes that the uniform prior counts for. Default: the number of labels.
        vote_state: A stored vote state (docs: crowd votes) whose posterior gives the targets; the training files
            then say which items to train on, and their own labels are not counted.
        item_weight: `equal` counts every item once, `votes` by its number of votes.
        preset: The paper's name of a loss: DPRM_C, DPRM_W or DPRM_OT.
    """

    learning_rate: float = field(default=2e-5, metadata={"help": "The initial learning rate of AdamW."})
    loss: DistributionLoss = field(default="ot", metadata={"help": "How far a prediction is from its target."})
    cost: Cost | None = field(default=None, metadata={"help": "What labels are apart; goes with the loss."})
    cost_matrix: str | list[list[float]] | None = field(
        default=None, metadata={"help": "Of cost: matrix: a row for each label, or a file with them."}
    )
    delta: float = field(default=DELTA, metadata={"help": "What two labels of one reward cost."})
    smoothing: float = field(default=0.05, metadata={"help": "What the top label gives to the runner-up at least."})
    prior_strength: float | None = field(
        default=None, metadata={"help": "The votes that the uniform prior counts for; the number of labels."}
    )
    vote_state: str | None = field(default=None, metadata={"help": "A stored vote state that gives the targets."})
    item_weight: ItemWeight = field(default="equal", metadata={"help": "Every item once, or by its votes."})
    preset: Preset | None = field(default=None, metadata={"help": "The paper's name of a loss."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, loss=DistributionLoss, item_weight=ItemWeight)
        given = {"cost": Cost, "preset": Preset}
        check_choices(self, **{name: kind for name, kind in given.items() if getattr(self, name) is not None})
        if self.preset is not None:
            if self.loss not in ("ot", PRESETS[self.preset]):
                raise ValueError(f"preset: {self.preset} is the loss {PRESETS[self.preset]}, and loss is {self.loss}")
            self.loss = PRESETS[self.preset]
        if (self.cost == "matrix") != (self.cost_matrix is not None):
            raise ValueError("cost_matrix: goes with cost: matrix, and only with it")
        if not 0 <= self.delta < float("inf"):
            raise ValueError(f"delta: found {self.delta}, expected a finite number, at least 0")
        if not 0 <= self.smoothing < 0.5:
            raise ValueError(f"smoothing: found {self.smoothing}, expected a number from 0 to under 0.5")
        if self.prior_strength is not None and not 0 < self.prior_strength < float("inf"):
            raise ValueError(f"prior_strength: found {self.prior_strength}, expected a finite number above 0")
        if self.prior_strength is not None and self.vote_state is not None:
            raise ValueError("prior_strength: a vote state has its own; leave this out")

    def label_cost(self, scale: LabelScale) -> LabelCost:
        """The cost between the labels of a scale.

        Raises:
            PluralignError: the matrix cannot be read, or is no cost between these labels.
        """
        if self.cost_matrix is not None:
            return label_cost(scale.rewards, _matrix(self.cost_matrix))
        kind: Any = self.cost or DEFAULT_COST[self.loss]
        return label_cost(scale.rewards, kind, self.delta)


def _matrix(given: str | list[list[float]]) -> list[list[float]]:
    if not isinstance(given, str):
        return given
    with disk_errors(given):
        text = Path(given).read_text(encoding="utf-8")
    try:
        rows = yaml.safe_load(text)
    except yaml.YAMLError as fault:
        raise PluralignError(f"{given}: not valid YAML: {' '.join(str(fault).split())}") from fault
    numbers = isinstance(rows, list) and all(
        isinstance(row, list) and all(isinstance(one, int | float) for one in row) for row in rows
    )
    if not numbers:
        raise PluralignError(f"{given}: expected a list of rows of numbers, found {one_line(rows)}")
    return rows
