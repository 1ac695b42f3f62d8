"""The config of EM-DPO (arXiv 2405.15065, 2510.15716) and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pluralign.training.configs import apply_preset, check_choices, check_least, setting
from pluralign.training.em_dpo.typed_batches import Routing
from pluralign.training.preference_matching.dpo import MatchingConfig

Start = Literal["latent-class", "spectral", "kmeans", "groups", "dirichlet"]
Scoring = Literal["crossfit", "train"]

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "start": "kmeans",
        "rounds": 5,
        "num_train_epochs": 1.0,
        "scoring": "train",
        "routing": "dense",
        "temperature": 1.0,
        "drop_below": 0.0,
        "floor": 0.0,
        "optim": "rmsprop",
        "beta": 0.1,
        "learning_rate": 5e-7,
    },
    "cluster-dpo": {"start": "kmeans", "rounds": 0, "num_train_epochs": 1.0},
}
"""The values that a preset sets in fields that were left at their defaults."""


@dataclass
class EMDPOConfig(MatchingConfig):
    """EM-DPO: latent annotator types, estimated while a policy for each is tuned.

    `max_steps` and the learning rate's schedule are those of one M-step. With a `mode` other
    than `kl` each type's policy matches the judgments of its annotators (docs: matching by DPO).
    """

    types: int | Literal["auto"] = setting(
        "auto", "The number of types, or auto: chosen by held-out log-likelihood over annotators, from 1."
    )
    learning_rate: float = setting(1e-4, "The initial learning rate of AdamW in each M-step.")
    most_types: int = setting(6, "The largest number of types that auto tries.")
    start: Start = setting(
        "latent-class",
        "The responsibilities before the first round: a Plackett-Luce latent-class model on frozen features "
        "(latent-class), groups of annotators who agree (spectral), k-means on the mean difference between chosen and "
        "other responses (kmeans), the table's groups (groups), or random (dirichlet).",
    )
    features: str = setting("auto", "Features of the start: worths, tfidf, an encoder's folder or hub id, or auto.")
    dimensions: int = setting(64, "Dimensions of the start's text features.")
    rounds: int | Literal["auto"] = setting(
        "auto",
        "Rounds of an E-step after M-steps, before the last M-step on all judgments. auto takes them only if the start "
        "is poor, and keeps them only if they predict held-out judgments better than the start does.",
    )
    most_rounds: int = setting(6, "The most rounds that auto takes.")
    round_epochs: float = setting(1.0, "The epochs of an M-step in a round; num_train_epochs is that of the last one.")
    scoring: Scoring = setting(
        "crossfit",
        "Keep two sets of adapters, one for each half of everybody's judgments, and score each half by the other set "
        "(crossfit), or restart from the reference in every round and train and score on all judgments (train).",
    )
    routing: Routing = setting(
        "sampled",
        "Train, in each round, one type drawn for each annotator (sampled), every type with enough responsibility "
        "(sparse), or all types (dense) on a judgment.",
    )
    skip_below: float = setting(
        0.05, "With routing: sparse, the least responsibility of a type that trains on a judgment."
    )
    temperature: float | Literal["auto"] = setting(
        "auto",
        "Temperature of the first E-step; it falls to 1 by the last. auto is 1 for a start that knows something of the "
        "types, and higher for a poor or random one.",
    )
    floor: float = setting(1e-3, "The least responsibility in a round.")
    weight_floor: float = setting(1e-3, "The least share of a type.")
    drop_below: float = setting(
        0.01, "An E-step stops scoring a type for an annotator whose posterior for it is below this."
    )
    most_scored: int | None = setting(None, "The most judgments of an annotator that an E-step scores. Default: all.")
    preset: Literal["paper", "cluster-dpo"] | None = setting(
        None, "Settings of the paper or of cluster-dpo, for the fields left at their defaults."
    )

    def __post_init__(self) -> None:
        apply_preset(self, PRESETS)
        super().__post_init__()
        if self.types != "auto" and not (isinstance(self.types, int) and self.types >= 1):
            raise ValueError(f"types: found {self.types!r}, expected auto, or 1 or more")
        given = {
            name: 0 if name == "rounds" else 1 for name in ("rounds", "temperature") if getattr(self, name) != "auto"
        }
        check_least(self, most_types=1, most_rounds=1, dimensions=1, most_scored=1, **given)
        if self.round_epochs <= 0:
            raise ValueError(f"round_epochs: found {self.round_epochs}, expected a number above 0")
        if self.rounds == "auto" and self.scoring == "train":
            raise ValueError("rounds: auto compares rounds on held-out judgments: give a number with scoring: train")
        check_choices(self, start=Start, scoring=Scoring, routing=Routing)
        for name in ("floor", "weight_floor", "drop_below", "skip_below"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected a share from 0 to under 0.5")
        if self.weight_floor == 0:
            raise ValueError(
                "weight_floor: found 0, expected a share above it: a type without a share never regains one"
            )
        if self.routing == "sparse" and self.skip_below <= self.floor:
            raise ValueError(f"skip_below: found {self.skip_below}, expected more than the floor, {self.floor}")
        if not self.precompute_ref_log_probs:
            raise ValueError("precompute_ref_log_probs: every E-step needs the reference's log-probabilities")
        if self.label_smoothing:
            raise ValueError("label_smoothing: an E-step needs the likelihood of judgments as they are: set it to 0")
        if self.vote_state is not None:
            raise ValueError("vote_state: an E-step needs the likelihood of judgments as they are: leave it out")
