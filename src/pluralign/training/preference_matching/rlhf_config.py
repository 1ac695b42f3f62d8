"""The config of online preference matching (arXiv 2405.16455), and the settings that would break the match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trl

from pluralign.choice.preference_matching import Gate, Mode, Penalty
from pluralign.core.errors import PluralignError
from pluralign.training.configs import (
    ALPHA_HELP,
    BAR_HELP,
    GATE_HELP,
    WEIGHT_HELP,
    setting,
    unpin_without_gpu,
    without_bar,
)
from pluralign.training.sharding import load_whole_weights

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "temperature": (1, None),
    "top_p": (1, None),
    "top_k": (0, -1, None),
    "min_p": (0, None),
    "repetition_penalty": (1, None),
    "do_sample": (True,),
    "num_beams": (1, None),
}
"""Settings of sampling, with the values that leave the policy's distribution as it is."""

_HARMLESS = {"max_new_tokens", "max_tokens", "use_cache", "cache_implementation", "seed"}


@dataclass
class PMRLHFConfig(trl.RLOOConfig):
    """Online preference matching on TRL's `RLOOTrainer`: its fields, and the penalty.

    Training maximises E[r(x, y)] - beta E[penalty], so the target of `pm` is softmax(r / beta): only at beta 1 are the
    policy's odds the reward's own.

    Raises:
        ValueError: a setting breaks the match, or beta or the penalty is out of range.
    """

    mode: Mode = setting(
        "flattened",
        "The reference that the penalty log pi - log pi_ref charges: the model itself, which is ordinary RLHF (kl); "
        "the model with all likely tokens equally likely (flattened); its power pi_ref^reference_weight (tempered); "
        "none (pm); or none for likely tokens and the model elsewhere (conditional).",
    )
    alpha: float = setting(Penalty.alpha, ALPHA_HELP)
    gate: Gate = setting("token", GATE_HELP)
    reference_weight: float = setting(0.5, WEIGHT_HELP)
    beta: float = setting(1.0, "Weight of the penalty, above 0; the target is softmax(r / beta).")
    reward_model: str | list[str] | None = setting(
        None,
        "A folder or hub id of a reward model, or of a policy tuned by dpo or em-dpo, whose implicit reward is used; "
        "a list is averaged. Rewards must be log-odds.",
    )
    reward_quantile: float | None = setting(
        None, "For reward models that predict labels: use this quantile as the reward, not the mean."
    )
    stop_if_endless: bool = setting(
        True, "Stop if nearly all responses run to max_completion_length, where few did at the first log."
    )
    allow_mismatch: bool = setting(False, "Only warn of settings under which the policy cannot match the reward.")
    gradient_checkpointing: bool | None = setting(
        None, "The old name of activation_checkpointing, which is off by default."
    )
    bf16: bool | None = setting(False, "Train in bfloat16 mixed precision.")
    disable_tqdm: bool | None = setting(None, BAR_HELP)
    disable_dropout: bool = setting(True, "Switch the model's dropout off.")

    def __post_init__(self) -> None:
        without_bar(self)
        super().__post_init__()
        unpin_without_gpu(self)
        load_whole_weights()
        if not self.beta > 0:
            raise ValueError(f"beta: found {self.beta}, expected a number above 0: without a penalty there is no match")
        try:
            _ = self.penalty
        except PluralignError as fault:
            raise ValueError(str(fault)) from fault
        if self.sync_ref_model:
            raise ValueError("sync_ref_model: moves the reference, and so the target: leave it out")
        if not self.allow_mismatch and (broken := mismatches(self)):
            raise ValueError(f"{'; '.join(broken)} (allow_mismatch: true only warns)")

    @property
    def penalty(self) -> Penalty:
        """What the penalty charges."""
        return Penalty(self.mode, self.alpha, self.gate, self.reference_weight)

    def cautions(self) -> list[str]:
        """What the trainer warns of, once."""
        told = [f"{reason}; the policy will not match the reward" for reason in mismatches(self)]
        if warning := self.penalty.length_warning(f"max_completion_length, {self.max_completion_length} tokens"):
            told.append(warning)
        if self.reward_clip_range is not None:
            low, high = self.reward_clip_range
            told.append(
                f"reward_clip_range: the policy matches rewards cut to [{low:g}, {high:g}], so its divergence from "
                "the rewards themselves cannot reach 0 where they lie outside"
            )
        return told


def mismatches(config: trl.RLOOConfig) -> list[str]:
    """Settings of TRL's `RLOOConfig` under which the optimum is not the match, each with the reason.

    Examples:
        >>> args = trl.RLOOConfig("never-made", top_p=0.9, report_to="none", bf16=False, gradient_checkpointing=None)
        >>> mismatches(args)
        ['top_p: found 0.9; responses that are not drawn from the policy itself do not estimate its penalty']
    """
    reasons = []
    if config.normalize_advantages:
        reasons.append(
            "normalize_advantages: dividing by the spread of a batch changes the weight of the penalty in each step"
        )
    if config.mask_truncated_completions:
        reasons.append(
            "mask_truncated_completions: truncated responses would count in the baseline of the others without "
            "being trained on, which moves the optimum"
        )
    drawn = {name: getattr(config, name) for name in _NEUTRAL if name in config.__dataclass_fields__}
    kwargs = config.generation_kwargs
    for name, value in {**drawn, **(kwargs if isinstance(kwargs, dict) else {})}.items():
        if name in _HARMLESS or value in _NEUTRAL.get(name, ()):
            continue
        reasons.append(
            f"{name}: found {value}; responses that are not drawn from the policy itself do not estimate its penalty"
        )
    if config.vllm_structured_outputs_regex is not None:
        reasons.append("vllm_structured_outputs_regex: a grammar restricts the policy's responses")
    return reasons
