"""Reward models from judgments: one trainer, two losses.

How it differs from TRL's `RewardTrainer`: judgments may rank any number of responses, with ties and weights; a
response that several judgments of a batch share is read once; the loss of an optimiser step is the weighted
mean over all of its judgments, however they fall into micro-batches and processes; prompts that are too long
are cut on the left instead of dropping the judgment; evaluation scores each response once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer
from transformers.utils import logging

from pluralign.choice.plackett_luce import log_likelihood, pair_log_likelihood, pair_margins
from pluralign.core.errors import PluralignError
from pluralign.evaluation.summary import evaluate_rewards
from pluralign.judgments.formats.trl import from_trl
from pluralign.judgments.table import Judgments
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.reward_models import (
    DEFAULT_MAX_LENGTH,
    SETTINGS,
    RewardModel,
    build_reward_model,
    is_encoder,
    score_tokens,
    set_pad_token,
    write_settings,
)
from pluralign.scoring.tokens import TokenizedItems, TokenLimits, model_context
from pluralign.training.batches import FlatCollator, JudgmentIndices, judgment_arrays
from pluralign.training.checkpoints import CompletionMarker
from pluralign.training.configs import BradleyTerryConfig, PlackettLuceConfig, RewardConfig

logger = logging.get_logger(__name__)


class RewardTrainer(Trainer):
    """Trains a reward model; subclasses say what a judgment's loss is.

    Args:
        model: a folder or hub id, a reward model from `build_reward_model(...).model`, or any causal sequence
            classifier with one output.
        args: the config.
        train_dataset: `Judgments`, or preference rows in TRL's format (a `datasets.Dataset`, a list of dicts).
        eval_dataset: the same, for evaluation.
        processing_class: the tokenizer; needed when `model` is not a name.
        peft_config: train an adapter instead of the whole model.
        trainer_arguments: passed on to `transformers.Trainer` (callbacks, optimizers ...).

    Raises:
        PluralignError: the model gives no reward, or no judgment ranks anything.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel | peft.PeftModel,
        args: RewardConfig,
        train_dataset: Judgments | Iterable[Mapping[str, Any]] | None = None,
        eval_dataset: Judgments | Iterable[Mapping[str, Any]] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: peft.PeftConfig | None = None,
        **trainer_arguments: Any,
    ) -> None:
        if args.n_gpu > 1:
            raise PluralignError("several GPUs in one process are not supported: start with `accelerate launch`")
        self.reward_model = _prepared(model, args, processing_class, peft_config)
        self.train_items, self.train_tokens = self._tokenized(train_dataset, "training")
        self._eval_of: dict[int, tuple[Any, Items, TokenizedItems]] = {}  # by identity; the data set kept alive
        super().__init__(
            model=self.reward_model.model,
            args=args,
            data_collator=FlatCollator(
                self.train_items, self.train_tokens, self.reward_model.tokenizer.pad_token_id
            ),
            train_dataset=JudgmentIndices(self.train_items.judgments),
            eval_dataset=eval_dataset,
            processing_class=self.reward_model.tokenizer,
            **trainer_arguments,
        )
        self.loss_is_scaled_for_ga = True
        self.label_names: list[str] = []
        self.add_callback(CompletionMarker())
        self._sums: Tensor | None = None

    def judgment_log_likelihood(self, utilities: Tensor, ranks: Tensor) -> Tensor:
        """`(judgments, responses)` twice to `(judgments,)`: what the method says a judgment's probability is."""
        raise NotImplementedError

    def _tokenized(self, dataset: Any, name: str) -> tuple[Items, TokenizedItems]:
        if dataset is None:
            raise PluralignError(f"no {name} judgments were given")
        items = items_of(as_judgments(dataset))
        tokens = self.reward_model.tokenize(items)
        logger.info(
            f"{name}: {items.judgments} judgments on {len(items.responses)} responses "
            f"to {len(items.prompts)} prompts"
        )
        if items.left_out:
            logger.warning(f"{name}: {items.left_out} row(s) rank nothing and are left out")
        if tokens.cut_prompts or tokens.cut_responses:
            logger.warning(
                f"{name}: {tokens.cut_prompts} of {len(items.prompts)} prompts were cut on the left and "
                f"{tokens.cut_responses} of {len(items.responses)} responses on the right, to "
                f"{self.reward_model.limits.max_length} tokens (responses to {self.reward_model.limits.response}): "
                "raise max_length or max_response_length to keep them whole"
            )
        return items, tokens

    # The step's loss: sum of weight * loss over its judgments, by the sum of their weights.

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor:
        total = sum((batch["weight"].sum().to(device) for batch in batch_samples), torch.zeros((), device=device))
        return self.accelerator.reduce(total, reduction="sum")

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | None = None,
    ) -> Any:
        """Weighted sum of the judgments' losses over the weight of the whole step."""
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        rewards = outputs.logits[:, 0].float()  # (rows,)
        utilities = rewards[inputs["index"]]  # (judgments, responses)
        weight, ranks = inputs["weight"], inputs["ranks"]
        losses = -self.judgment_log_likelihood(utilities, ranks)
        if self.args.center_rewards_coefficient is not None:
            shown = (ranks >= 0).float()
            squares = (utilities.square() * shown).sum(-1) / shown.sum(-1)
            losses = losses + self.args.center_rewards_coefficient * squares
        total = weight.sum() if num_items_in_batch is None else num_items_in_batch
        # Processes average their gradients, so each counts its share as many times as there are processes.
        loss = (weight * losses).sum() / total.clamp(min=torch.finfo(weight.dtype).tiny)
        loss = loss * self.accelerator.num_processes
        self._note(utilities.detach(), ranks, weight)
        return (loss, outputs) if return_outputs else loss

    def _note(self, utilities: Tensor, ranks: Tensor, weight: Tensor) -> None:
        margins, strict = pair_margins(utilities, ranks)
        pairs = strict.sum(-1)
        each = weight * (pairs > 0) / pairs.clamp(min=1)
        agree = (margins > 0).float() + (margins == 0).float() / 2
        shown = ranks >= 0
        sums = torch.stack(
            (
                (each * pairs).sum(),
                (each.unsqueeze(-1) * agree * strict).sum(),
                (each.unsqueeze(-1) * margins * strict).sum(),
                shown.sum().float(),
                (utilities * shown).sum(),
            )
        )
        self._sums = sums if self._sums is None else self._sums + sums

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add `accuracy`, `margin` and `mean_reward` of the training judgments since the last log."""
        if self._sums is not None and "loss" in logs:
            weight, agree, margin, shown, reward = self.accelerator.reduce(self._sums, "sum").tolist()
            self._sums = None
            logs["mean_reward"] = reward / max(shown, 1.0)
            if weight > 0:
                logs["accuracy"], logs["margin"] = agree / weight, margin / weight
        super().log(logs, start_time)

    # Evaluation: every unique response once, metrics by pluralign.evaluation.

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and the metrics of `evaluate_rewards` on judgments; keys are `eval_loss`, `eval_accuracy` ..."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if id(dataset) not in self._eval_of:
            self._eval_of[id(dataset)] = (dataset, *self._tokenized(dataset, "evaluation"))
        _, items, tokens = self._eval_of[id(dataset)]
        rewards = self._rewards(tokens)
        metrics = {"loss": self.mean_loss(items, rewards)} | evaluate_rewards(
            rewards[items.response],
            items.ranks,
            items.offsets,
            items.prompt,
            items.weight,
            response=items.response,
            replicates=0,
        )
        named = {f"{metric_key_prefix}_{key}": float(value) for key, value in metrics.items()}
        self.log(named)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, named)
        return named

    def score(self, dataset: Judgments | Iterable[Mapping[str, Any]]) -> tuple[Items, np.ndarray]:
        """The items of judgments and the reward of each unique response under the model as it is now."""
        items, tokens = self._tokenized(dataset, "evaluation")
        return items, self._rewards(tokens)

    def _rewards(self, tokens: TokenizedItems) -> np.ndarray:
        """`(responses,)`; each process scores its share."""
        processes, mine = self.accelerator.num_processes, self.accelerator.process_index
        share = np.arange(mine, len(tokens.response_ids), processes)
        part = TokenizedItems(
            tokens.prompt_ids, [tokens.response_ids[index] for index in share], tokens.item[share], 0, 0
        )
        rewards = np.zeros(len(tokens.response_ids))
        with self.accelerator.autocast():
            rewards[share] = score_tokens(self.model, part, self.reward_model.tokenizer.pad_token_id)
        total = self.accelerator.reduce(torch.from_numpy(rewards).to(self.accelerator.device), "sum")
        return total.cpu().numpy()

    def mean_loss(self, items: Items, rewards: np.ndarray) -> float:
        """Weighted mean loss of judgments under rewards `(responses,)`; centring left out."""
        total = 0.0
        for start in range(0, items.judgments, 4096):
            batch = range(start, min(start + 4096, items.judgments))
            responses, ranks = judgment_arrays(items, batch)
            utilities = torch.from_numpy(rewards[responses])
            losses = -self.judgment_log_likelihood(utilities, torch.from_numpy(ranks))
            total += float(losses.numpy() @ items.weight[batch.start : batch.stop])
        return total / max(float(items.weight.sum()), np.finfo(float).tiny)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Safetensors, config and tokenizer; no pickled arguments."""
        super()._save(output_dir, state_dict)
        folder = Path(output_dir or self.args.output_dir)
        (folder / "training_args.bin").unlink(missing_ok=True)
        if not isinstance(self.model, PreTrainedModel):
            self.model.config.save_pretrained(folder)


class BradleyTerryTrainer(RewardTrainer):
    """Every ranking as its pairs: a judgment's log-likelihood is the mean over them (Bradley & Terry 1952)."""

    args: BradleyTerryConfig

    def judgment_log_likelihood(self, utilities: Tensor, ranks: Tensor) -> Tensor:
        """Mean log-sigmoid of the margins."""
        return pair_log_likelihood(utilities, ranks, ties=self.args.ties)


class PlackettLuceTrainer(RewardTrainer):
    """Every ranking as a whole, or its first `top` places (Luce 1959; Plackett 1975)."""

    args: PlackettLuceConfig

    def judgment_log_likelihood(self, utilities: Tensor, ranks: Tensor) -> Tensor:
        """Log-probability of the ranking."""
        return log_likelihood(utilities, ranks, ties=self.args.ties, top=self.args.top)


def as_judgments(dataset: Judgments | Iterable[Mapping[str, Any]]) -> Judgments:
    """Judgments as they are; anything else is read as preference rows in TRL's format."""
    return dataset if isinstance(dataset, Judgments) else from_trl(dataset)


def _prepared(
    model: str | os.PathLike[str] | PreTrainedModel | peft.PeftModel,
    args: RewardConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    peft_config: peft.PeftConfig | None,
) -> RewardModel:
    """The reward model with its tokenizer and limits, dropout off, adapter on, as the config says."""
    if isinstance(model, str | os.PathLike):
        reward_model = build_reward_model(
            model,
            max_length=args.max_length,
            max_response_length=args.max_response_length,
            chat_template_path=args.chat_template_path,
            trust_remote_code=args.trust_remote_code,
            **(args.model_init_kwargs or {}),
        )
    else:
        reward_model = _from_memory(model, args, tokenizer)
    trained: Any = reward_model.model
    if args.disable_dropout:
        for module in trained.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    if peft_config is not None:
        peft_config.task_type = peft.TaskType.SEQ_CLS
        trained = peft.get_peft_model(trained, peft_config)
    return RewardModel(trained, reward_model.tokenizer, reward_model.limits)


def _from_memory(model: Any, args: RewardConfig, tokenizer: PreTrainedTokenizerBase | None) -> RewardModel:
    if tokenizer is None:
        raise PluralignError("processing_class: a model in memory needs its tokenizer")
    config = model.config
    stored = getattr(config, SETTINGS, None)
    if config.num_labels != 1 or (stored is None and is_encoder(config)):
        raise PluralignError(
            "model: expected a causal sequence classifier with one output, or a model of build_reward_model"
        )
    context = model_context(config, tokenizer)
    longest = args.max_length or (stored["max_length"] if stored else min(context, DEFAULT_MAX_LENGTH))
    if longest > context:
        raise PluralignError(
            f"max_length: {longest} is more than the {context} tokens the model can read: lower it"
        )
    limits = TokenLimits(longest, args.max_response_length)
    write_settings(config, limits)
    tokenizer.padding_side = "right"
    set_pad_token(model, tokenizer)
    return RewardModel(model, tokenizer, limits)
