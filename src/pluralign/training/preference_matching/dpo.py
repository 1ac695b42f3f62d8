"""Preference matching (arXiv 2405.16455) from pairs and rankings, without a reward model and without sampling.

    u(x, y) = beta * s(y),   s(y) = sum over t of log pi(y_t) - sum over outside t of log pi_ref(y_t)

The loss of a judgment is minus its log-probability under u, as in DPO. If judgments follow Plackett-Luce with
rewards r, the minimiser has the odds of preference matching among the judged responses. The paper tunes online only;
this form is derived by this project (docs: matching by DPO). With all tokens outside it is DPO; with all tokens inside
it needs no reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pluralign.choice.preference_matching import Gate, Mode, Penalty
from pluralign.training.configs import GATE_HELP, setting
from pluralign.training.dpo import DPOConfig, DPOTrainer

_MODE = (
    "What the implicit reward subtracts: all of log pi_ref(y|x), which is DPO (kl), nothing (pm), or that of the "
    "tokens that the reference finds unlikely (conditional)."
)


@dataclass
class MatchingConfig(DPOConfig):
    """DPO whose implicit reward subtracts only a part of the reference's log-probability."""

    mode: Mode = setting("kl", _MODE)
    alpha: float = setting(0.1, "With mode: conditional, tokens above this probability under the reference are likely.")
    gate: Gate = setting("token", GATE_HELP)

    def __post_init__(self) -> None:
        super().__post_init__()
        Penalty(self.mode, self.alpha, self.gate)  # raises for values that do not fit together

    @property
    def penalty(self) -> Penalty:
        """The part of the reference's log-probability that the implicit reward subtracts."""
        return Penalty(self.mode, self.alpha, self.gate)


@dataclass
class PMDPOConfig(MatchingConfig):
    """Preference matching from pairs and rankings (docs: matching by DPO)."""

    beta: float = setting(
        1.0,
        "Inverse temperature: the policy's odds are those of exp(r / beta), r the judgments' log-odds; at 1 they are "
        "the judgments' own.",
    )
    mode: Mode = setting("conditional", _MODE)


class PMDPOTrainer(DPOTrainer):
    """Tunes a policy on judgments until its odds are those of the judgments.

    Arguments as in `DPOTrainer`; `ref_model` has no meaning with `mode: pm`.

    Train on judgments:

        args = pluralign.PMDPOConfig(output_dir="runs/policy", alpha=0.3, per_device_train_batch_size=8)
        pluralign.PMDPOTrainer("my-model", args, pluralign.read("train.parquet")).train()
    """

    args: PMDPOConfig
    objective: ClassVar[str] = "pm-dpo"
