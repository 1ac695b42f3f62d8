"""The config of online preference matching, and the settings that would break the match."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trl
from transformers.utils import logging

from pluralign.choice.preference_matching import Gate, Mode, Penalty
from pluralign.core.errors import PluralignError

logger = logging.get_logger(__name__)

_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "temperature": (1, None),
    "top_p": (1, None),
    "top_k": (0, -1, None),
    "min_p": (0, None),
    "repetition_penalty": (1, None),
    "do_sample": (True,),
    "num_beams": (1, None),
}
"""Settings of sampling, and the values with which answers come from the policy itself."""

_HARMLESS = {"max_new_tokens", "max_tokens", "use_cache", "cache_implementation", "seed"}


@dataclass
class PMRLHFConfig(trl.RLOOConfig):
    """Online preference matching on TRL's `RLOOTrainer`: its fields, and what is charged of log pi.

    What is maximised is E[r(x, y)] - beta E[penalty], so the target of `pm` is softmax(r / beta): only at beta 1
    are the policy's odds the reward's own.

    Args:
        mode: `kl` charges log pi - log pi_ref (ordinary RLHF), `pm` log pi, `conditional` log pi where the
            reference finds a token likely and log pi - log pi_ref elsewhere.
        alpha: of `conditional`: likely is more than this probability under the reference. From 1 on it is `kl`.
        gate: of `conditional`: `token` asks each token, `sequence` a response's geometric mean, and
            `sequence-minimum` its least likely token.
        beta: weight of the penalty, above 0.
        reward_model: a folder or hub id of a reward model, or a policy tuned by DPO or EM-DPO, whose implicit
            reward is taken; of a list the mean. Rewards are to be log-odds.
        reward_quantile: of reward models that predict labels: the reward is this quantile, not the mean.
        reward_clip_range: TRL's: rewards are cut to this range. The policy then matches the clipped reward.
        allow_mismatch: only warn of settings under which the policy cannot match the reward.

    Raises:
        ValueError: a setting breaks the match, or beta or the penalty is out of range.
    """

    mode: Mode = field(default="conditional", metadata={"help": "What the penalty is charged on."})
    alpha: float = field(default=0.1, metadata={"help": "Inside is what the reference gives more than this."})
    gate: Gate = field(default="token", metadata={"help": "Whether tokens or whole responses are inside."})
    beta: float = field(default=1.0, metadata={"help": "Weight of the penalty; the target is softmax(r / beta)."})
    reward_model: str | list[str] | None = field(
        default=None, metadata={"help": "A folder or hub id of what gives rewards, or several to average."}
    )
    reward_quantile: float | None = field(
        default=None, metadata={"help": "The reward is this quantile of the predicted labels."}
    )
    allow_mismatch: bool = field(default=False, metadata={"help": "Only warn of settings that break the match."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Recompute states to save memory."})
    bf16: bool | None = field(default=False, metadata={"help": "Train in bfloat16 mixed precision."})
    disable_dropout: bool = field(default=True, metadata={"help": "Switch the model's dropout off."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.beta > 0:
            raise ValueError(
                f"beta: found {self.beta}, expected a number above 0: without a penalty nothing is matched"
            )
        try:
            _ = self.penalty
        except PluralignError as fault:
            raise ValueError(str(fault)) from fault
        if self.sync_ref_model:
            raise ValueError("sync_ref_model: moves the reference, and with it the target: leave it out")
        if broken := mismatches(self):
            if not self.allow_mismatch:
                raise ValueError(f"{'; '.join(broken)} (allow_mismatch: true only warns)")
            for reason in broken:
                logger.warning(f"{reason}; the policy will not match the reward")
        if self.reward_clip_range is not None:
            low, high = self.reward_clip_range
            logger.warning(
                f"reward_clip_range: the policy matches rewards cut to [{low:g}, {high:g}], so its divergence from "
                "the rewards themselves keeps a floor wherever they lie outside"
            )

    @property
    def penalty(self) -> Penalty:
        """On what log pi is charged."""
        return Penalty(self.mode, self.alpha, self.gate)


def mismatches(config: trl.RLOOConfig) -> list[str]:
    """Settings of TRL's `RLOOConfig` under which the optimum is not the match, each with the reason.

    Args:
        config: of this project or of TRL.

    Examples:
        >>> args = trl.RLOOConfig("/tmp/never-made", top_p=0.9, report_to="none", bf16=False)
        >>> mismatches(args)
        ['top_p: found 0.9; answers that are not drawn from the policy itself do not estimate its penalty']
    """
    found = []
    if config.normalize_advantages:
        found.append(
            "normalize_advantages: dividing by the spread of a batch weighs reward against penalty anew each step"
        )
    if config.mask_truncated_completions:
        found.append(
            "mask_truncated_completions: cut-off answers would keep their reward in the others' baseline, pay no "
            "penalty and be learned from in no other way, which moves the optimum"
        )
    drawn = {name: getattr(config, name) for name in _NEUTRAL if name in config.__dataclass_fields__}
    kwargs = config.generation_kwargs
    for name, value in {**drawn, **(kwargs if isinstance(kwargs, dict) else {})}.items():
        if name in _HARMLESS or value in _NEUTRAL.get(name, ()):
            continue
        found.append(
            f"{name}: found {value}; answers that are not drawn from the policy itself do not estimate its penalty"
        )
    if config.vllm_structured_outputs_regex is not None:
        found.append("vllm_structured_outputs_regex: a grammar keeps the policy from what it would say itself")
    return found
