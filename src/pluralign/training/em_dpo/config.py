"""The config of EM-DPO and its presets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pluralign.training.configs import MatchingConfig, apply_preset, check_choices
from pluralign.training.em_dpo.typed_batches import Routing

Start = Literal["latent-class", "spectral", "kmeans", "groups", "dirichlet"]
Scoring = Literal["crossfit", "train"]

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "start": "kmeans",
        "rounds": 5,
        "num_train_epochs": 1.0,
        "scoring": "train",
        "routing": "dense",
        "drop_below": 0.0,
        "floor": 0.0,
        "optim": "rmsprop",
        "beta": 0.1,
        "learning_rate": 5e-7,
    },
    "cluster-dpo": {"start": "kmeans", "rounds": 0, "num_train_epochs": 1.0},
}
"""What a preset sets, where a field was left at its default."""


@dataclass
class EMDPOConfig(MatchingConfig):
    """EM-DPO: latent types of annotators, found while a policy for each is tuned.

    `num_train_epochs`, `max_steps` and the learning rate's schedule are those of one M-step. With a `mode` other
    than `kl` each type's policy matches what its people say (docs: matching by DPO).

    Args:
        types: How many types, or `auto`: chosen by held-out log-likelihood over annotators, one being possible.
        most_types: The largest number that `auto` tries.
        start: Where the responsibilities come from before the first round: `latent-class` Plackett-Luce on frozen
            features, `spectral` groups of annotators who agree, `kmeans` on the mean difference between what they
            chose and what they did not, the known `groups` of the table, or `dirichlet`, at random.
        features: Of the start: `worths`, `tfidf`, an encoder's folder or hub id, or `auto`.
        dimensions: Of text features.
        rounds: M-steps that are followed by an E-step; one more M-step, on all judgments, comes last.
        scoring: `crossfit` trains on one half of each annotator's judgments and scores the other, in turns; `train`
            does both on all.
        routing: `sampled` draws a type for each annotator in every round, `sparse` gives a judgment to every type
            with enough responsibility, `dense` to all.
        skip_below: Of `sparse`: a judgment is left out of a type's M-step below this responsibility.
        temperature: Of the first E-step; it falls to 1 at the last.
        floor: No responsibility of a round falls below this.
        weight_floor: No type's share falls below this.
        drop_below: An E-step stops scoring a type for an annotator whose posterior for it is below this.
        most_scored: The most judgments of an annotator that an E-step scores. Default: all.
        preset: `paper` or `cluster-dpo`: sets what was left at its default (docs: EM-DPO).
    """

    types: int | Literal["auto"] = field(default="auto", metadata={"help": "How many types, or auto."})
    learning_rate: float = field(default=1e-4, metadata={"help": "The initial learning rate of each M-step."})
    most_types: int = field(default=6, metadata={"help": "The largest number that auto tries."})
    start: Start = field(default="latent-class", metadata={"help": "Where responsibilities come from at first."})
    features: str = field(default="auto", metadata={"help": "Of the start: worths, tfidf, a model, or auto."})
    dimensions: int = field(default=64, metadata={"help": "Of text features."})
    rounds: int = field(default=2, metadata={"help": "M-steps that are followed by an E-step."})
    scoring: Scoring = field(
        default="crossfit", metadata={"help": "Score judgments that were left out of the M-step, or all."}
    )
    routing: Routing = field(default="sampled", metadata={"help": "Which judgments train which type."})
    skip_below: float = field(default=0.05, metadata={"help": "Of sparse routing: least responsibility."})
    temperature: float = field(default=1.0, metadata={"help": "Of the first E-step; it falls to 1."})
    floor: float = field(default=1e-3, metadata={"help": "No responsibility of a round falls below this."})
    weight_floor: float = field(default=1e-3, metadata={"help": "No type's share falls below this."})
    drop_below: float = field(default=0.01, metadata={"help": "Posterior under which a type is scored no more."})
    most_scored: int | None = field(
        default=None, metadata={"help": "The most judgments of an annotator that an E-step scores."}
    )
    preset: Literal["paper", "cluster-dpo"] | None = field(
        default=None, metadata={"help": "Sets what was left at its default."}
    )

    def __post_init__(self) -> None:
        apply_preset(self, PRESETS)
        super().__post_init__()
        if self.types != "auto" and not (isinstance(self.types, int) and self.types >= 1):
            raise ValueError(f"types: found {self.types!r}, expected auto, or 1 or more")
        for name, least in (("most_types", 1), ("rounds", 0), ("dimensions", 1), ("temperature", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected {least} or more")
        check_choices(self, start=Start, scoring=Scoring, routing=Routing)
        for name in ("floor", "weight_floor", "drop_below", "skip_below"):
            if not 0 <= getattr(self, name) < 0.5:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected a share from 0 to under 0.5")
        if self.weight_floor == 0:
            raise ValueError("weight_floor: found 0, expected a share above it: without any a type dies for good")
        if self.routing == "sparse" and self.skip_below <= self.floor:
            raise ValueError(f"skip_below: found {self.skip_below}, expected more than the floor, {self.floor}")
        if self.most_scored is not None and self.most_scored < 1:
            raise ValueError(f"most_scored: found {self.most_scored}, expected 1 or more")
        if not self.precompute_ref_log_probs:
            raise ValueError("precompute_ref_log_probs: every E-step needs the reference's log-probabilities")
        if self.label_smoothing:
            raise ValueError("label_smoothing: an E-step needs the likelihood of verdicts as they are: set it to 0")
        if self.vote_state is not None:
            raise ValueError("vote_state: an E-step needs the likelihood of verdicts as they are: leave it out")
