"""The config of MORE (arXiv 2312.07401), its presets and the paper's baselines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pluralign.choice.min_norm import Normalize
from pluralign.training.configs import TOP_HELP, apply_preset, check_choices, check_least, setting
from pluralign.training.reward_trainer import RewardConfig

Weights = Literal["more", "uniform", "proportional", "fixed"]
Sampling = Literal["balanced", "proportional"]
Granularity = Literal["step", "micro"]
Source = Literal["column", "types"]
LossType = Literal["plackett-luce", "bradley-terry"]

_PAPER: dict[str, Any] = {
    "loss_type": "bradley-terry",
    "sampling": "balanced",
    "judgments_per_source": 40_000,
    "per_device_train_batch_size": 80,
    "learning_rate": 1e-6,
    "num_train_epochs": 1.0,
    "max_length": 512,
}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {**_PAPER, "new_gradient_share": 0.99},
    "multitask": {**_PAPER, "weights": "uniform"},
    "top": {**_PAPER, "weights": "uniform"},
    "raw": {**_PAPER, "weights": "uniform", "num_train_epochs": 0.0},
}
"""The values that a preset sets in fields that were left at their defaults."""


@dataclass
class MOREConfig(RewardConfig):
    """MORE: one reward over several sources of judgments, whose losses are weighted by their gradients at the head.

    The loss of a step is sum_k lambda_k (mean loss of source k), as the weighted mean over the step's judgments
    with factors lambda_k N / n_k, N the weight of the step and n_k that of source k in it.
    """

    loss_type: LossType = setting(
        "plackett-luce",
        "A ranking counts as a whole (plackett-luce) or as the mean over its pairs (bradley-terry); for pairs they "
        "are the same.",
    )
    top: int | None = setting(None, TOP_HELP)
    source: Source = setting(
        "column",
        "The sources: those of the table's column source (column), or latent annotator types, to which a judgment "
        "belongs by its annotator's responsibilities (types).",
    )
    only_source: str | None = setting(None, "Train on this source alone, as the paper's baseline Top does.")
    weights: Weights = setting(
        "more",
        "The weights of the sources' losses: the min-norm point of their gradients (more), equal for all sources in "
        "the step (uniform), by their judgments in the step (proportional), or source_weights (fixed).",
    )
    source_weights: dict[str, float] | None = setting(None, "With weights: fixed, a weight for every source.")
    normalize: Normalize = setting(
        "l2", "With weights: more, scale the gradients to length 1 before solving (l2), or do not (none)."
    )
    new_gradient_share: float = setting(
        0.05,
        "With weights: more, the share of the new gradient in a moving average of each source's gradient. At 1, the "
        "weights follow single steps, whose gradients are mostly noise, and are nearly uniform.",
    )
    granularity: Granularity = setting(
        "step",
        "Solve for the weights once per optimiser step (step; with accumulation this needs one more forward pass) or "
        "for each micro-batch (micro).",
    )
    sampling: Sampling = setting(
        "balanced",
        "Draw every source equally often (balanced), or each judgment once, with the sources spread evenly over the "
        "epoch (proportional).",
    )
    judgments_per_source: int | None = setting(
        None, "With sampling: balanced, draws of each source per epoch. Default: the size of the largest source."
    )
    responsibilities: str | None = setting(
        None,
        "With source: types, a run of em-dpo, an audit's folder, or a Parquet file with the columns annotator, "
        "probability_1, probability_2 ... Default: a latent-class fit to the training judgments.",
    )
    types: int | Literal["auto"] = setting("auto", "The number of types of that fit, or auto.")
    most_types: int = setting(6, "The largest number of types that auto tries.")
    features: str = setting("auto", "Features of that fit: worths, tfidf, an encoder's folder or hub id, or auto.")
    dimensions: int = setting(64, "Dimensions of that fit's text features.")
    preset: Literal["paper", "multitask", "top", "raw"] | None = setting(
        None,
        "The paper's settings (paper) or one of its baselines (multitask, top, raw), for the fields left at their "
        "defaults.",
    )

    def __post_init__(self) -> None:
        apply_preset(self, PRESETS)
        super().__post_init__()
        check_choices(
            self,
            weights=Weights,
            sampling=Sampling,
            granularity=Granularity,
            normalize=Normalize,
            source=Source,
            loss_type=LossType,
        )
        if not 0 < self.new_gradient_share <= 1:
            raise ValueError(f"new_gradient_share: found {self.new_gradient_share}, expected above 0, at most 1")
        check_least(self, judgments_per_source=1)
        if (self.weights == "fixed") != (self.source_weights is not None):
            raise ValueError("source_weights: go with weights: fixed, and only with them")
        for name, weight in (self.source_weights or {}).items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"source_weights: {name} has {weight}, expected a finite number, at least 0")
        if self.preset == "top" and self.only_source is None:
            raise ValueError("preset: top trains on one source: say which in only_source")
        if self.only_source is not None and self.source == "types":
            raise ValueError("only_source: names a source of the column, so it does not go with source: types")
        if self.top is not None and self.loss_type == "bradley-terry":
            raise ValueError("top: counts places of a ranking, so it needs loss_type: plackett-luce")
        if self.types != "auto" and not (isinstance(self.types, int) and self.types >= 1):
            raise ValueError(f"types: found {self.types!r}, expected auto, or 1 or more")
