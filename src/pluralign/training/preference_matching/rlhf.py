"""Online preference matching on TRL's `RLOOTrainer` (arXiv 2405.16455).

    max  E[ r(x, y) - beta sum_t penalty_t ],   penalty_t = log pi(y_t)                    inside
                                                penalty_t = log pi(y_t) - log pi_ref(y_t)  outside

TRL subtracts from the reward beta times the sum of log pi minus what its reference model gives. The reference
given here is a small module that runs the frozen model and returns 0 for a token inside; sampling, vLLM, reward
functions, the leave-one-out baseline and logging stay TRL's own. With `mode: kl` it is `RLOOTrainer`, to the bit.

How it differs from the paper: REINFORCE with a leave-one-out baseline over whole responses in place of PPO, so that
there is no value model and the penalty is part of the reward of a response.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import peft
import torch
import trl
from torch import Tensor, nn
from transformers import PreTrainedModel
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head, use_adapter

from pluralign.choice.preference_matching import Penalty, charged, inside_mask
from pluralign.core.errors import PluralignError
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.reference import PENALTY
from pluralign.training.checkpoints import CompletionMarker
from pluralign.training.preference_matching.reward_functions import (
    Scorer,
    load_rewards,
    reward_function,
    reward_name,
)
from pluralign.training.preference_matching.rlhf_config import PMRLHFConfig


class ChargedReference(nn.Module):
    """A frozen reference that gives 0 for the log-probability of a token inside.

    Called as TRL calls a reference with a fused head: `reference(..., labels=labels, fused_lm_head=True)`, where
    labels are -100 but at the tokens of responses.

    Args:
        run: the reference itself, called with what this module is called with; `None` for `pm`, whose penalty
            asks no reference.
        penalty: mode, threshold and gate.
    """

    def __init__(self, run: Callable[..., Any] | None, penalty: Penalty) -> None:
        super().__init__()
        self.run = run
        self.penalty = penalty
        self.counts: list[Tensor] = []

    def forward(self, **inputs: Any) -> Any:
        """`log_probs` `(rows, tokens - 1)` of the labels, in nats, 0 inside and where there is no label."""
        there = inputs["labels"][:, 1:] != -100
        if self.run is None:
            self._count(there, there)
            return FusedCausalLMOutput(log_probs=torch.zeros(there.shape, device=there.device), label_mask=there)
        found = self.run(**inputs)
        there = there.to(found.log_probs.device)
        if self.penalty.mode == "kl":
            return found
        self._count(inside_mask(found.log_probs, there, self.penalty), there)
        found.log_probs = charged(found.log_probs, there, self.penalty)
        return found

    def _count(self, inside: Tensor, there: Tensor) -> None:
        self.counts.append(torch.stack([inside.sum(), there.sum()]).float())

    def counted(self) -> Tensor:
        """`(2,)` tokens inside and all, since it was last asked; `kl` counts none."""
        found, self.counts = self.counts, []
        return torch.stack(found).sum(0) if found else torch.zeros(2)


class PMRLHFTrainer(trl.RLOOTrainer):
    """Tunes a policy until its odds are those of a reward.

    Args:
        model: a folder or hub id, a causal language model, or a PEFT model (then the reference is the adapter as
            it is given).
        reward_funcs: what TRL takes: functions `f(prompts, completions, **columns) -> list[float]`, sequence
            classifiers or their names. `None` takes the `reward_model` of the config.
        args: the config.
        train_dataset: a `datasets.Dataset` with a column `prompt`, of text or messages.
        eval_dataset: the same.
        processing_class: the tokenizer.
        peft_config: train an adapter; the reference is the model without it.
        ref_model: the reference, if it is not the model as it is given.
        trainer_arguments: passed on to `RLOOTrainer` (callbacks, optimizers, reward_processing_classes ...).

    Raises:
        PluralignError: there is no reward, or the reference does not fit.

    Match a reward model:

        args = pluralign.PMRLHFConfig("runs/matched", reward_model="runs/reward", num_generations=4)
        pluralign.PMRLHFTrainer("my-model", args=args, train_dataset=prompts).train()
    """

    args: PMRLHFConfig

    def __init__(
        self,
        model: str | PreTrainedModel | peft.PeftModel,
        reward_funcs: Any = None,
        args: PMRLHFConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        peft_config: peft.PeftConfig | None = None,
        ref_model: PreTrainedModel | peft.PeftModel | None = None,
        **trainer_arguments: Any,
    ) -> None:
        if args is None:
            raise PluralignError("args: expected a PMRLHFConfig, found none")
        if ref_model is not None and args.mode == "pm":
            raise PluralignError("ref_model: mode pm asks no reference: leave it out")
        if isinstance(model, peft.PeftModel) and peft_config is not None:
            raise PluralignError("peft_config: the model has an adapter already; merge it first, or train it on")
        scorer: Scorer | None = None
        if reward_funcs is None:
            if args.reward_model is None:
                raise PluralignError("reward_model: there is no reward: give a model's folder, or a function")
            scorer = load_rewards(
                args.reward_model,
                quantile=args.reward_quantile,
                allow_mismatch=args.allow_mismatch,
                trust_remote_code=args.trust_remote_code,
                device=args.device,
            )
            reward_funcs = reward_function(scorer, reward_name(args.reward_model))
        # With a beta TRL would load a second reference by the model's name, which a model in memory has not.
        beta, args.beta = args.beta, 0.0
        try:
            super().__init__(
                os.fspath(model) if isinstance(model, os.PathLike) else model,
                reward_funcs,
                args,
                train_dataset,
                eval_dataset,
                processing_class,
                peft_config=peft_config,
                **trainer_arguments,
            )
        finally:
            args.beta = beta
        self.beta = beta
        self.scorer = scorer
        self.ref_model = ChargedReference(self._reference(ref_model), args.penalty)
        stored = getattr(self.model.config, SETTINGS, None) or {}
        told = {"objective": "pm-rlhf", "beta": beta, PENALTY: asdict(args.penalty)}
        setattr(self.model.config, SETTINGS, stored | told)
        self.add_callback(CompletionMarker())

    def _reference(self, given: PreTrainedModel | peft.PeftModel | None) -> Callable[..., Any] | None:
        """What runs the reference: a frozen copy, the model without its adapter, or nothing for `pm`."""
        if self.args.mode == "pm":
            return None
        if given is None and isinstance(self.model, peft.PeftModel):
            return self._without_adapter
        if given is None:
            if self.is_deepspeed_enabled and self.args.hf_deepspeed_config.is_zero3():
                raise PluralignError(
                    "ref_model: under DeepSpeed ZeRO-3 the model cannot be copied: give the reference as "
                    "ref_model, or train an adapter"
                )
            given = copy.deepcopy(self.model)
            vars(given).pop("forward")  # the patched one, which belongs to the model that is trained
        elif given is self.model:
            raise PluralignError("ref_model: is the model that is trained: leave it out, a copy is made")
        sizes = [one.config.get_text_config().vocab_size for one in (given, self.model)]
        if sizes[0] != sizes[1]:
            raise PluralignError(f"ref_model: has {sizes[0]} tokens, the model {sizes[1]}: they must share them")
        plain = given.get_base_model() if isinstance(given, peft.PeftModel) else given
        add_fused_lm_head(plain, temperature=self.temperature)
        given.requires_grad_(False)
        if self.is_deepspeed_enabled:
            return prepare_deepspeed(given, self.accelerator)
        if self.is_fsdp_enabled:
            return prepare_fsdp(given, self.accelerator)
        return self.accelerator.prepare_model(given, evaluation_mode=True)

    def _without_adapter(self, **inputs: Any) -> Any:
        """The model without its adapter; with TRL's copy of it, "ref", where one that was there is trained on."""
        plain = self.accelerator.unwrap_model(self.model)
        with use_adapter(plain, adapter_name="ref" if "ref" in plain.peft_config else None):
            return self.model(**inputs)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        found = super()._generate_and_score_completions(inputs)
        metrics = self._metrics["train" if self.model.training else "eval"]
        if self.args.mode != "kl":
            # TRL logs the mean of beta's factor per token as `kl`, which here it is not.
            metrics["penalty"].extend(metrics.pop("kl"))
            counts = self.accelerator.reduce(self.ref_model.counted().to(self.accelerator.device), reduction="sum")
            metrics["inside"].append((counts[0] / counts[1].clamp(min=1)).item())
        return found

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """An adapter's folder gets the config too, so that it loads with its own tokenizer and settings."""
        super()._save(output_dir, state_dict)
        if self.args.should_save and isinstance(self.model, peft.PeftModel):
            self.model.config.save_pretrained(output_dir or self.args.output_dir)


_LAST = {
    "reward": "reward",
    "penalty": "penalty",
    "kl": "kl",
    "inside": "inside",
    "entropy": "entropy",
    "completions/mean_length": "mean_length",
    "completions/clipped_ratio": "clipped_ratio",
}


def last_answers(log_history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the answers of the last log of training: `train_reward`, `train_penalty` ... as far as there are.

    Args:
        log_history: of the trainer's state.

    Examples:
        >>> last_answers([{"reward": 1.0, "penalty": -3.0}, {"eval_reward": 2.0}])
        {'train_reward': 1.0, 'train_penalty': -3.0}
    """
    logs = [entry for entry in log_history if "reward" in entry]
    last = logs[-1] if logs else {}
    return {f"train_{name}": last[key] for key, name in _LAST.items() if last.get(key) is not None}
