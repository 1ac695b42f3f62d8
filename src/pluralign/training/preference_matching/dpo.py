"""Preference matching from pairs and rankings, without a reward model and without sampling.

    u(x, y) = beta * s(y),   s(y) = sum over t of log pi(y_t) - sum over outside t of log pi_ref(y_t)

The loss of a judgment is minus its log-probability under u, as in DPO. Where judgments follow Plackett-Luce with
rewards r its minimiser has the odds of preference matching (arXiv 2405.16455) among the responses that were judged.
The paper tunes online only: this form is derived by this project (docs: matching by DPO). With all tokens outside
it is DPO; with all inside it needs no reference.
"""

from __future__ import annotations

from typing import ClassVar

from pluralign.training.configs import PMDPOConfig
from pluralign.training.dpo import DPOTrainer


class PMDPOTrainer(DPOTrainer):
    """Tunes a policy on judgments so that its odds are those of the judgments.

    Arguments as in `DPOTrainer`; `ref_model` has no meaning under `mode: pm`.

    Train on judgments:

        args = pluralign.PMDPOConfig(output_dir="runs/policy", alpha=0.3, per_device_train_batch_size=8)
        pluralign.PMDPOTrainer("my-model", args, pluralign.read("train.parquet")).train()
    """

    args: PMDPOConfig
    objective: ClassVar[str] = "pm-dpo"
