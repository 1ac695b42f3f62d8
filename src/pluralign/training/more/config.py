"""The config of MORE, its presets and the paper's baselines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pluralign.choice.min_norm import Normalize
from pluralign.training.configs import RewardConfig, apply_preset, check_choices

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
"""What a preset sets, where a field was left at its default."""


@dataclass
class MOREConfig(RewardConfig):
    """MORE: one reward over several preference sources, whose losses are weighted by their gradients at the head.

    The loss of a step is sum_k lambda_k (mean loss of source k), as the weighted mean over the step's judgments
    with factors lambda_k N / n_k, N the weight of the step and n_k that of source k in it.

    Args:
        loss_type: `plackett-luce` takes a ranking as a whole, `bradley-terry` as the mean over its pairs; for pairs
            they are the same.
        top: Only the first so many places of a ranking count (1 is best of n). Default: all.
        source: What the sources are: the table's `column` source, or the latent `types` of annotators, to which a
            judgment belongs by its annotator's responsibilities.
        only_source: Train on this source alone, as the paper's baseline Top does.
        weights: lambda: `more` is the min-norm point of the sources' gradients, `uniform` the same for all that are
            present, `proportional` to their judgments in the step (the plain mean), `fixed` as `source_weights`.
        source_weights: Of `fixed`: a weight for every source.
        normalize: Of `more`: `l2` brings the gradients to length 1 before the solver, `none` leaves them.
        new_gradient_share: Of `more`: how much of a source's gradient is the new one and not the moving average of
            those before; 1 keeps no average.
        granularity: Of `more`: one lambda for an optimiser `step`, over processes and accumulation, or one for
            each `micro` batch over processes. Under accumulation `step` needs one more forward pass.
        sampling: `balanced` draws every source equally often, `proportional` takes each judgment once, sources
            spread evenly over the epoch.
        judgments_per_source: Of `balanced`: draws of each source in an epoch. Default: the largest source's size.
        responsibilities: Of `source: types`: a run of em-dpo, an audit's folder, or a Parquet file with the columns
            annotator and probability_1, probability_2 ... Default: a latent-class fit to the training judgments.
        types: Of that fit: how many types, or `auto`.
        most_types: Of that fit: the largest number that `auto` tries.
        features: Of that fit: `worths`, `tfidf`, an encoder's folder or hub id, or `auto`.
        dimensions: Of that fit: of text features.
        preset: `paper`, or its baselines `multitask`, `top` and `raw`: sets what was left at its default (docs:
            MORE).
    """

    loss_type: LossType = field(
        default="plackett-luce", metadata={"help": "A ranking as a whole, or as the mean over its pairs."}
    )
    top: int | None = field(default=None, metadata={"help": "Only the first so many places count."})
    source: Source = field(default="column", metadata={"help": "The column source, or latent types of people."})
    only_source: str | None = field(default=None, metadata={"help": "Train on this source alone."})
    weights: Weights = field(default="more", metadata={"help": "How the sources' losses are weighted."})
    source_weights: dict[str, float] | None = field(
        default=None, metadata={"help": "Of fixed weights: one for every source."}
    )
    normalize: Normalize = field(default="l2", metadata={"help": "Bring gradients to length 1 first, or not."})
    new_gradient_share: float = field(
        default=1.0, metadata={"help": "Share of the new gradient in the moving average; 1 keeps none."}
    )
    granularity: Granularity = field(
        default="step", metadata={"help": "One set of weights for a step, or for each micro-batch."}
    )
    sampling: Sampling = field(default="balanced", metadata={"help": "How often sources are drawn."})
    judgments_per_source: int | None = field(
        default=None, metadata={"help": "Of balanced sampling: draws of each source in an epoch."}
    )
    responsibilities: str | None = field(
        default=None, metadata={"help": "Of types: a run of em-dpo, an audit, or a Parquet file."}
    )
    types: int | Literal["auto"] = field(default="auto", metadata={"help": "Of the fit of types: how many."})
    most_types: int = field(default=6, metadata={"help": "Of the fit of types: the most that auto tries."})
    features: str = field(default="auto", metadata={"help": "Of the fit of types: worths, tfidf, a model, auto."})
    dimensions: int = field(default=64, metadata={"help": "Of the fit of types: of text features."})
    preset: Literal["paper", "multitask", "top", "raw"] | None = field(
        default=None, metadata={"help": "Sets what was left at its default."}
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
        if self.judgments_per_source is not None and self.judgments_per_source < 1:
            raise ValueError(f"judgments_per_source: found {self.judgments_per_source}, expected 1 or more")
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
