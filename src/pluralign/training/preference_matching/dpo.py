"""Preference matching (arXiv 2405.16455) from pairs and rankings, without a reward model and without sampling.

    u(x, y) = beta * s(y),   s(y) = log pi(y) - c(y),   c(y) the charged part of the reference

The loss of a judgment is minus its log-probability under u, as in DPO. If judgments follow Plackett-Luce with
rewards r, the minimiser has the odds of preference matching among the judged responses. The paper tunes online only;
this form is derived by this project (docs: matching by DPO). With c(y) = log pi_ref(y) it is DPO; with c(y) = 0 it
needs no reference. `choice.preference_matching` has the modes between.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from pluralign.choice.preference_matching import Gate, Mode, Penalty
from pluralign.core.errors import PluralignError
from pluralign.judgments.lettered import Answers, asked_for
from pluralign.judgments.table import Judgments
from pluralign.policies.comparison import drawn_tokens
from pluralign.policies.policy import Policy, Sample
from pluralign.scoring.forward import block_values
from pluralign.scoring.items import Items
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.reference import ANSWERS
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.trees import blocks_of, lay_out
from pluralign.training.configs import ALPHA_HELP, GATE_HELP, WEIGHT_HELP, check_choices, check_least, setting
from pluralign.training.dpo import DPOConfig, DPOTrainer
from pluralign.training.objective import trainer_config, warn_once
from pluralign.training.preference_matching.lengths import LengthChecks
from pluralign.training.response_trainer import ModelOrName

_MODE = (
    "The reference whose log-probability the implicit reward subtracts: the model itself, which is DPO (kl); the model "
    "with all likely tokens equally likely (flattened); its power pi_ref^reference_weight (tempered); none (pm); or "
    "none for likely tokens and the model elsewhere (conditional)."
)


@dataclass
class MatchingConfig(DPOConfig):
    """DPO whose implicit reward subtracts only a part of the reference's log-probability."""

    mode: Mode = setting("kl", _MODE)
    alpha: float = setting(Penalty.alpha, ALPHA_HELP)
    gate: Gate = setting("token", GATE_HELP)
    reference_weight: float = setting(0.5, WEIGHT_HELP)
    answers: Answers = setting(
        "texts",
        "What the policy responds with: the texts themselves, or the letter of one of the options that the prompt "
        "lists (letters), for statements and survey options, whose lengths would decide otherwise.",
    )
    anchor: Literal["nll", "kl"] | None = setting(
        None,
        "Also learn what judgments leave open, the probability of everything that was not judged: keep it on the "
        "judged responses (nll), or as the reference has it, by responses drawn from the reference (kl).",
    )
    anchor_weight: float = setting(0.1, "Weight of the anchor, in nats per response, beside a judgment's loss.")
    anchor_draws: int = setting(256, "With anchor: kl, the number of responses drawn from the reference.")
    length_checks: int = setting(
        4,
        "How often, at equal distances, responses are drawn and their length is logged; training stops if they no "
        "longer end. 0 is never, and mode: kl has none.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, anchor_draws=1, length_checks=0)
        check_choices(self, answers=Answers)
        if self.anchor not in (None, "nll", "kl"):
            raise ValueError(f"anchor: found {self.anchor!r}, expected nll or kl, or leave it out")
        if not self.anchor_weight > 0:
            raise ValueError(f"anchor_weight: found {self.anchor_weight}, expected a number above 0")
        _ = self.penalty  # checks its settings

    def cautions(self) -> list[str]:
        """What the trainer warns of, once."""
        warning = self.penalty.length_warning("whatever limit they are drawn with")
        return [] if warning is None else [warning]

    @property
    def penalty(self) -> Penalty:
        """The part of the reference's log-probability that the implicit reward subtracts."""
        return Penalty(self.mode, self.alpha, self.gate, self.reference_weight)


@dataclass
class PMDPOConfig(MatchingConfig):
    """Preference matching from pairs and rankings (docs: matching by DPO)."""

    beta: float = setting(
        1.0,
        "Inverse temperature: the policy's odds are those of exp(r / beta), r the judgments' log-odds; at 1 they are "
        "the judgments' own.",
    )
    mode: Mode = setting("flattened", _MODE)
    matching_by: Literal["everyone", "type"] = setting(
        "everyone",
        "One policy that matches all judgments, or annotator types, found by em-dpo, each with a policy that matches "
        "its own people (type); then the keys of em-dpo apply, and the run is a mixture that draws a type first.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.matching_by != "everyone":
            raise ValueError(
                f"matching_by: found {self.matching_by!r}, expected everyone: in Python, types are matched by "
                'EMDPOTrainer with EMDPOConfig(mode="flattened", beta=1.0)'
            )


class MatchingTrainer(DPOTrainer):
    """DPO under a penalty, with what judgments leave open: responses that nobody judged, and their length."""

    args: MatchingConfig
    config_class: ClassVar[type[MatchingConfig]] = MatchingConfig

    def __init__(
        self, model: ModelOrName, ref_model: Any = None, args: MatchingConfig | None = None, *data: Any, **others: Any
    ) -> None:
        args = self.args = trainer_config(args, self.config_class, model)
        warn_once(args, args.cautions())
        super().__init__(model, ref_model, args, *data, **others)
        getattr(self.policy.model.config, SETTINGS)[ANSWERS] = args.answers
        if args.anchor == "kl" and self.sharded:
            raise PluralignError("anchor: kl draws responses, which sharded weights do not allow here: use nll")
        longest = max(len(ids) for ids in self.train_tokens.response_ids)
        room = self.policy.limits.max_length - 1
        self._draws: TokenizedItems | None = None
        if args.anchor == "kl":
            self._draws = self._drawn_from_reference(min(longest, room))
        if args.length_checks and not self.sharded and not args.penalty.charges_all:
            prompts = list(self.train_items.prompts)
            self.add_callback(LengthChecks(self, self._drawn, prompts, min(2 * longest, room), args.length_checks))

    def _drawn(self, prompts: Sequence[Any], limit: int) -> list[list[Sample]]:
        """A response to each prompt by each policy that is trained, for the checks of length."""
        policy = Policy(self.policy.model, self.policy.tokenizer, self.policy.limits)
        return [[sample for (sample,) in policy.sample(prompts, max_new_tokens=limit, seed=self.args.seed)]]

    def _ranked(self, judgments: Judgments, name: str) -> Items:
        return super()._ranked(asked_for(judgments, self.args.answers), name)

    def _drawn_from_reference(self, longest: int) -> TokenizedItems:
        """Responses of the reference to training prompts, drawn before the model is trained."""
        model = self.policy.model if self._ref_model is None else self._ref_model
        off = self._adapter_off and self._ref_model is None
        reference = Policy(model, self.policy.tokenizer, self.policy.limits)
        chosen = np.random.default_rng(self.args.seed).permutation(len(self.train_items.prompts))
        prompts = [self.train_items.prompts[place] for place in chosen[: self.args.anchor_draws]]
        n = -(-self.args.anchor_draws // len(prompts))
        with model.disable_adapter() if off else nullcontext():
            samples = reference.sample(prompts, n=n, max_new_tokens=longest, seed=self.args.seed)
        return drawn_tokens(prompts, samples, self.policy.tokenizer, self.policy.limits.max_length - longest)

    def _read(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        values = super()._read(model, inputs)
        if self.args.anchor == "nll":
            inputs["said"] = self._judged_mass(values, inputs)[inputs["index"][:, 0]]
        elif self._draws is not None:
            inputs["said"] = self._read_draws(model, inputs["judgment"])
        return values

    def _judged_mass(self, values: Tensor, inputs: dict[str, Any]) -> Tensor:
        """log of the probability that one of the prompt's responses in the batch is said: `(responses,)`.

        Its gradient moves them together, so their odds stay.
        """
        item = torch.from_numpy(self.train_tokens.item)[inputs["response"].cpu()].to(values.device)
        own, place = item.unique(return_inverse=True)
        lowest = torch.full((len(own),), -torch.inf, device=values.device)
        most = lowest.scatter_reduce(0, place, values.detach().float(), "amax")[place]
        mass = torch.zeros_like(lowest).index_add(0, place, (values - most).exp())
        return mass.log()[place] + most

    def _read_draws(self, model: nn.Module, judgments: Tensor) -> Tensor:
        """log pi(y|x) of one of the reference's responses for each judgment `(judgments,)`, another one in each step.

        Which one does not depend on how a step is divided into batches and processes.
        """
        assert self._draws is not None
        count = len(self._draws.item)
        turn = int(np.random.default_rng((self.args.seed, self.state.global_step)).integers(count))
        chosen, place = np.unique((judgments.cpu().numpy() + turn) % count, return_inverse=True)
        said: list[Tensor] = []
        order: list[Tensor] = []
        for rows in blocks_of(self._draws, chosen, self.layout):
            block = {
                name: value.to(judgments.device) for name, value in lay_out(self._draws, rows, self.layout).items()
            }
            said.append(block_values(model, block, self.layout))
            order.append(block["response"])
        return torch.cat(said)[torch.cat(order).argsort()][torch.from_numpy(place).to(judgments.device)]

    def _losses(self, utilities: Tensor, inputs: dict[str, Any]) -> Tensor:
        losses = super()._losses(utilities, inputs)
        if "said" in inputs:
            anchor, weight = -inputs["said"], inputs["weight"]
            self._add("anchor", torch.stack([weight @ anchor.detach(), weight.sum()]))
            losses = losses + self.args.anchor_weight * anchor
        return losses

    def _logged(self, sums: dict[str, Tensor]) -> dict[str, float]:
        logs = super()._logged(sums)
        if "anchor" in sums:
            logs["anchor"] = float(sums["anchor"][0] / sums["anchor"][1])
        return logs


class PMDPOTrainer(MatchingTrainer):
    """Tunes a policy on judgments until its odds are those of the judgments.

    Arguments as in `DPOTrainer`; `ref_model` has no meaning with `mode: pm`.

    Raises:
        PluralignError: as in `DPOTrainer`; in training, if responses no longer end.

    Train on judgments:

        args = pluralign.PMDPOConfig(output_dir="runs/policy", alpha=0.3, per_device_train_batch_size=8)
        pluralign.PMDPOTrainer("my-model", args=args, train_dataset=pluralign.read("train.parquet")).train()
    """

    args: PMDPOConfig
    config_class: ClassVar[type[MatchingConfig]] = PMDPOConfig
    objective: ClassVar[str] = "pm-dpo"
