"""Online preference matching on TRL's `RLOOTrainer` (arXiv 2405.16455).

    max  E[ r(x, y) - beta sum_t (log pi(y_t) - c_t) ],   c_t the charged part of the reference

TRL subtracts from the reward beta times the sum of log pi minus the reference's log-probability. The reference given
to it here is a small module that runs the frozen model and returns c_t (`choice.preference_matching`); sampling,
vLLM, reward functions, the leave-one-out baseline and logging stay TRL's own. With `mode: kl` it is `RLOOTrainer`, to
the bit.

How it differs from the paper: REINFORCE with a leave-one-out baseline over whole responses in place of PPO, so that
there is no value model and the penalty is part of the reward of a response; and the default `mode: flattened`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Self

import datasets
import numpy as np
import peft
import torch
import trl
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import logging
from trl import get_peft_config
from trl.models import prepare_deepspeed, prepare_fsdp
from trl.trainer.utils import FusedCausalLMOutput, add_fused_lm_head, use_adapter

from pluralign.choice.preference_matching import Penalty, charged, inside_mask, with_shares
from pluralign.core.errors import PluralignError
from pluralign.judgments.messages import for_template
from pluralign.judgments.table import Judgments
from pluralign.policies.comparison import answer_rows, compare, drawn_by_both
from pluralign.policies.loading import load_policy
from pluralign.policies.matching import margin_map_of, of_draws, write_matching
from pluralign.scoring.causal_models import load_causal_model
from pluralign.scoring.implicit_rewards import IMPLICIT_REWARD
from pluralign.scoring.loading import SETTINGS
from pluralign.scoring.measured import Measured
from pluralign.scoring.mixtures import weight_files
from pluralign.scoring.probe import plain_model
from pluralign.scoring.reference import PENALTY
from pluralign.scoring.scorers import Scorer
from pluralign.scoring.tokens import as_parts, check_embedded, model_context, prompt_tokens, reads_parts
from pluralign.training.configs import SECOND_ADAPTER
from pluralign.training.dpo import TUNED_POLICY_USAGE
from pluralign.training.objective import Objective, TrainingRun, trainer_config, warn_once
from pluralign.training.preference_matching.lengths import stop_if_endless
from pluralign.training.preference_matching.reward_functions import load_rewards, reward_function, reward_name
from pluralign.training.preference_matching.rlhf_config import PMRLHFConfig
from pluralign.training.trl_datasets import trl_dataset

logger = logging.get_logger(__name__)

MOST_PROMPTS = 500
"""The most held-out prompts that the policy responds to after training; as many as in the paper."""

HELD_OUT_SAMPLES = 2
"""Responses to each of them."""


UNGATED = ("kl", "tempered")
"""Modes in which no token is inside."""


class ChargedReference(nn.Module):
    """A frozen reference that gives the charged part c_t of each token in place of its log-probability.

    TRL calls it as any reference with a fused head: `reference(..., labels=labels, fused_lm_head=True)`, where
    labels are -100 except at the tokens of responses.

    Args:
        run: the reference itself, called with the same arguments, or without the last two for its logits; `None` if
            the penalty needs none.
        penalty: mode, threshold and gate.
        ends: ids of the tokens that end a response.
    """

    def __init__(self, run: Callable[..., Any] | None, penalty: Penalty, ends: Sequence[int] = ()) -> None:
        super().__init__()
        self.run = run
        self.penalty = penalty
        self.ends = ends
        self.counts: list[Tensor] = []

    def forward(self, **inputs: Any) -> Any:
        """`log_probs` `(rows, tokens - 1)`: c_t of the labels, in nats; 0 where there is no label."""
        labelled = inputs["labels"][:, 1:] != -100
        if self.run is None:
            self._count(labelled, labelled)
            return FusedCausalLMOutput(log_probs=torch.zeros_like(labelled, dtype=torch.float), label_mask=labelled)
        shares = None
        if self.penalty.mode == "flattened" and not self.penalty.charges_all:
            log_probs, shares = self._with_shares(inputs)
            output = FusedCausalLMOutput(log_probs=log_probs, label_mask=labelled)
        else:
            output = self.run(**inputs)
        labelled = labelled.to(output.log_probs.device)
        if self.penalty.mode not in UNGATED:
            self._count(inside_mask(output.log_probs, labelled, self.penalty, shares), labelled)
        if not self.penalty.charges_all:
            output.log_probs = charged(output.log_probs, labelled, self.penalty, shares)
        return output

    def _with_shares(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """`with_shares` of the labels: both `(rows, tokens - 1)`. Logits are made from the first label on."""
        assert self.run is not None
        rest = {name: value for name, value in inputs.items() if name not in ("labels", "fused_lm_head")}
        labels = inputs["labels"][:, 1:]
        first = int((labels != -100).any(0).int().argmax())
        logits = self.run(**rest, logits_to_keep=labels.shape[1] + 1 - first).logits[:, :-1]
        labels, there = labels.to(logits.device), (labels != -100).to(logits.device)
        chosen = there[:, first:]
        found = with_shares(logits[chosen].float(), labels[there], self.penalty.alpha, self.ends)
        log_probs, shares = (torch.zeros_like(there, dtype=torch.float).masked_scatter(there, one) for one in found)
        return log_probs, shares

    def _count(self, inside: Tensor, labelled: Tensor) -> None:
        self.counts.append(torch.stack([inside.sum(), labelled.sum()]).float())

    def counted(self) -> Tensor:
        """Tokens inside, and all tokens, since the last call `(2,)`; `UNGATED` modes count none."""
        counts, self.counts = self.counts, []
        return torch.stack(counts).sum(0) if counts else torch.zeros(2)


class PMRLHFTrainer(Objective, trl.RLOOTrainer):
    """Tunes a policy until its odds are those of a reward.

    Args:
        model: a folder or hub id, a causal language model, or a PEFT model (then the reference is the adapter as
            it is given).
        reward_funcs: as in TRL: functions `f(prompts, completions, **columns) -> list[float]`, sequence
            classifiers or their names. `None` uses the `reward_model` of the config.
        args: the config.
        train_dataset: rows with a column `prompt`, of text or messages, or judgments, for their different prompts: what
            `read` takes.
        eval_dataset: the same.
        processing_class: the tokenizer.
        peft_config: train an adapter; the reference is the model without it.
        ref_model: the reference, if it is not the given model.
        trainer_arguments: passed on to `RLOOTrainer` (callbacks, optimizers, reward_processing_classes ...).

    Raises:
        PluralignError: there is no reward, or the reference does not fit.

    Match a reward model:

        args = pluralign.PMRLHFConfig("runs/matched", reward_model="runs/reward", num_generations=4)
        pluralign.PMRLHFTrainer("my-model", args=args, train_dataset=prompts).train()
    """

    args: PMRLHFConfig
    required_keys: ClassVar[tuple[str, ...]] = ("reward_model",)
    card_usage: ClassVar[str] = TUNED_POLICY_USAGE

    def __init__(
        self,
        model: str | PreTrainedModel | peft.PeftModel,
        reward_funcs: Any = None,
        args: PMRLHFConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        peft_config: peft.PeftConfig | None = None,
        ref_model: PreTrainedModel | peft.PeftModel | None = None,
        **trainer_arguments: Any,
    ) -> None:
        args = trainer_config(args, PMRLHFConfig, model)
        warn_once(args, args.cautions())
        if ref_model is not None and args.penalty.charges_none:
            raise PluralignError("ref_model: mode pm uses no reference: leave it out")
        if isinstance(model, peft.PeftModel) and peft_config is not None:
            raise PluralignError(SECOND_ADAPTER)
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
            reward_funcs = reward_function(scorer, reward_name(args.reward_model), lambda: self.eos_token_ids)
        # With a beta TRL would load a second reference by the model's name, which a model in memory does not have.
        beta, args.beta = args.beta, 0.0
        try:
            super().__init__(
                os.fspath(model) if isinstance(model, os.PathLike) else model,
                reward_funcs,
                args,
                trl_dataset(train_dataset, _different_prompts),
                trl_dataset(eval_dataset, _different_prompts),
                processing_class,
                peft_config=peft_config,
                **trainer_arguments,
            )
        finally:
            args.beta = beta
        self.beta = beta
        self.scorer = scorer
        self._cut_before: float | None = None
        self.ref_model = ChargedReference(self._reference(ref_model), args.penalty, self.eos_token_ids)
        stored = getattr(self.model.config, SETTINGS, None) or {}
        settings = {"objective": "pm-rlhf", "beta": beta, PENALTY: asdict(args.penalty), IMPLICIT_REWARD: False}
        setattr(self.model.config, SETTINGS, stored | settings)
        if self.is_fsdp_enabled:
            # Processes draw responses together; `generate` does not see by itself that accelerate sharded the weights.
            plain_model(self.model)._is_fsdp_managed_module = True

    def _reference(self, given: PreTrainedModel | peft.PeftModel | None) -> Callable[..., Any] | None:
        """The function that runs the reference: a frozen copy, the model without its adapter, or nothing for `pm`."""
        if self.args.penalty.charges_none:
            return None
        if given is None and isinstance(self.model, peft.PeftModel):
            return self._without_adapter
        if given is None:
            given = copy.deepcopy(self.model)
            vars(given).pop("forward")  # the patched one belongs to the model that is trained
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
        """The model without its adapter, or with TRL's copy "ref" of an adapter that is trained further."""
        plain = self.accelerator.unwrap_model(self.model)
        with use_adapter(plain, adapter_name="ref" if "ref" in plain.peft_config else None):
            return self.model(**inputs)

    def _tokenize_prompts(self, prompts: list[Any]) -> Any:
        """As TRL does, with the contents of messages as the chat template reads them."""
        if isinstance(prompts[0], list) and reads_parts(self._tokenizer):
            prompts = [as_parts(prompt) for prompt in prompts]
        return super()._tokenize_prompts(prompts)

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        batch = super()._generate_and_score_completions(inputs)
        metrics = self._metrics["train" if self.model.training else "eval"]
        if self.args.mode != "kl":
            # TRL logs the mean penalty per token as `kl`, which here it is not.
            metrics["penalty"].extend(metrics.pop("kl"))
        if self.args.mode not in UNGATED:
            counts = self.accelerator.reduce(self.ref_model.counted().to(self.accelerator.device), reduction="sum")
            metrics["inside"].append((counts[0] / counts[1].clamp(min=1)).item())
        return batch

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log as TRL does, and stop if responses no longer end."""
        super().log(logs, start_time)
        cut = self.state.log_history[-1].get("completions/clipped_ratio")
        if cut is not None and self.args.stop_if_endless:
            self._cut_before = cut if self._cut_before is None else self._cut_before
            stop_if_endless(cut, self._cut_before, self.args.max_completion_length, "stop_if_endless: false")

    @classmethod
    def input_files(cls, args: PMRLHFConfig) -> list[str]:
        """The weights of the reward models."""
        names = args.reward_model or []
        return [str(file) for name in ([names] if isinstance(names, str) else names) for file in weight_files(name)]

    @classmethod
    def from_run(cls, run: TrainingRun, judgments: Judgments, evaluated: Judgments | None) -> Self:
        """The trainer of a run, on the prompts of its judgments."""
        args: Any = run.args
        loaded: Any = load_causal_model(
            run.model.model_name_or_path,
            revision=run.model.model_revision,
            trust_remote_code=args.trust_remote_code,
            **run.model_kwargs,
            **(args.model_init_kwargs or {}),
        )
        args.model_init_kwargs = None
        if isinstance(loaded.model, peft.PeftModel):
            loaded.model.set_adapter(loaded.model.active_adapter)  # an adapter is loaded frozen
        most_tokens = model_context(loaded.model.config, loaded.tokenizer) - args.max_completion_length
        train = _prompt_dataset(judgments, loaded.tokenizer, most_tokens)
        test = None if evaluated is None else _prompt_dataset(evaluated, loaded.tokenizer, most_tokens)
        for name, given in (("train_files", train), ("eval_files", test)):
            ids = [] if given is None else prompt_tokens(list(given["prompt"]), loaded.tokenizer, most_tokens)
            check_embedded(name, ids, loaded.model, loaded.tokenizer)
        at_once = args.generation_batch_size // args.num_generations
        if len(train) < at_once:
            raise PluralignError(
                f"train_files: found {len(train)} prompts, and each batch needs {at_once}: lower "
                "per_device_train_batch_size or gradient_accumulation_steps, or raise num_generations"
            )
        arguments: dict[str, Any] = {"processing_class": loaded.tokenizer, "peft_config": get_peft_config(run.model)}
        return cls(loaded.model, None, args, train, test, **arguments)

    def training_metrics(self) -> dict[str, Any]:
        """The means of the last log."""
        return last_means(self.state.log_history)

    def measure(self, judgments: Judgments) -> Measured:
        """Nothing before the policy is saved; see `after_saving`."""
        return Measured({})

    def after_saving(self, run: TrainingRun) -> dict[str, Any]:
        """Metrics of the saved policy's match with its reward on held-out prompts; writes responses and plots."""
        if self.scorer is None or self.eval_dataset is None:
            return {}
        prompts: list[Any] = list(self.eval_dataset["prompt"])
        if len(prompts) > MOST_PROMPTS:
            chosen = np.random.default_rng(run.args.seed).choice(len(prompts), size=MOST_PROMPTS, replace=False)
            prompts = [prompts[index] for index in sorted(chosen)]
        tokenizer: Any = self.processing_class
        options: dict[str, Any] = {
            "max_length": model_context(self.model.config, tokenizer),
            "trust_remote_code": self.args.trust_remote_code,
            "device": self.args.device,
            **run.model_kwargs,
        }
        draws = drawn_by_both(
            load_policy(run.folder, **options),
            load_policy(run.model.model_name_or_path, revision=run.model.model_revision, **options),
            self.scorer,
            prompts,
            samples=HELD_OUT_SAMPLES,
            max_new_tokens=self.args.max_completion_length,
            seed=run.args.seed,
        )
        metrics, plots = of_draws(draws, margin_map_of(self.scorer), {}, run.args.seed)
        write_matching(run.folder, answer_rows(prompts, draws), plots)
        return compare(draws, run.args.seed) | metrics


def prompts_that_fit(judgments: Judgments, tokenizer: Any, most_tokens: int) -> list[Any]:
    """The different prompts of a table that leave space for a response, in order; warns of the others.

    TRL does not cut prompts: a longer one would exceed the model's context, and a prompt without tokens gives the
    model nothing to start from.

    Args:
        judgments: the table.
        tokenizer: the policy's.
        most_tokens: the most tokens of a prompt.

    Raises:
        PluralignError: none is left.
    """
    prompts = judgments.unique_prompts()
    lengths = [len(ids) for ids in prompt_tokens(prompts, tokenizer, most_tokens + 1)]
    kept = [prompt for prompt, length in zip(prompts, lengths, strict=True) if 0 < length <= most_tokens]
    if not kept:
        raise PluralignError(
            f"no prompt is left of {len(prompts)}: each is empty or has more than the {most_tokens} tokens that "
            "max_completion_length leaves of the model's context: lower it"
        )
    if len(kept) < len(prompts):
        logger.warning(
            f"{len(prompts) - len(kept)} of {len(prompts)} prompts are left out: empty, or more than the {most_tokens} "
            "tokens that max_completion_length leaves of the model's context"
        )
    return kept


def _prompt_dataset(judgments: Judgments, tokenizer: Any, most_tokens: int) -> datasets.Dataset:
    return _as_dataset(prompts_that_fit(judgments, tokenizer, most_tokens))


def _different_prompts(judgments: Judgments) -> datasets.Dataset:
    return _as_dataset(judgments.unique_prompts())


def _as_dataset(prompts: Sequence[Any]) -> datasets.Dataset:
    rows = [{"prompt": prompt if isinstance(prompt, str) else for_template(prompt)} for prompt in prompts]
    return datasets.Dataset.from_list(rows, on_mixed_types="use_json")


_LAST = {
    "reward": "reward",
    "penalty": "penalty",
    "kl": "kl",
    "inside": "inside",
    "entropy": "entropy",
    "completions/mean_length": "mean_length",
    "completions/clipped_ratio": "clipped_ratio",
}


def last_means(log_history: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The means of the last log of training: `train_reward`, `train_penalty` ..., those that it holds.

    Args:
        log_history: of the trainer's state.

    Examples:
        >>> last_means([{"reward": 1.0, "penalty": -3.0}, {"eval_reward": 2.0}])
        {'train_reward': 1.0, 'train_penalty': -3.0}
    """
    logs = [entry for entry in log_history if "reward" in entry]
    last = logs[-1] if logs else {}
    return {f"train_{name}": last[key] for key, name in _LAST.items() if last.get(key) is not None}
