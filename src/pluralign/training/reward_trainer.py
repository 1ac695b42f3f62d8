"""Reward models from judgments: one trainer, two losses.

How it differs from TRL's `RewardTrainer`: judgments may rank any number of responses, with ties and weights;
prompts that are too long are cut on the left instead of dropping the judgment; see also
`pluralign.training.judgment_trainer`.
"""

from __future__ import annotations

import os
from typing import Any

import peft
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pluralign.choice.plackett_luce import log_likelihood, pair_log_likelihood
from pluralign.core.errors import PluralignError
from pluralign.judgments.votes import read_votes
from pluralign.scoring.loading import SETTINGS, is_encoder, limits_of, set_pad_token
from pluralign.scoring.pooling import as_reward_model, write_settings
from pluralign.scoring.reward_models import RewardModel, build_reward_model
from pluralign.scoring.votes import PairVotes
from pluralign.training.configs import BradleyTerryConfig, PlackettLuceConfig, RewardConfig
from pluralign.training.judgment_trainer import Dataset, JudgmentTrainer
from pluralign.training.response_trainer import adapted, load_options


class RewardTrainer(JudgmentTrainer):
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

    args: RewardConfig

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel | peft.PeftModel,
        args: RewardConfig,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: peft.PeftConfig | None = None,
        **trainer_arguments: Any,
    ) -> None:
        given = _given(model, args, processing_class)
        trained = adapted(given.model, args, peft_config, "SEQ_CLS")
        self.reward_model = RewardModel(trained, given.tokenizer, given.limits)
        super().__init__(self.reward_model, args, train_dataset, eval_dataset, **trainer_arguments)

    def _penalty(self, utilities: Tensor, ranks: Tensor) -> Tensor | float:
        if self.args.center_rewards_coefficient is None:
            return 0.0
        shown = (ranks >= 0).float()
        return self.args.center_rewards_coefficient * (utilities.square() * shown).sum(-1) / shown.sum(-1)

    def _note(self, utilities: Tensor, values: Tensor, inputs: dict[str, Any]) -> None:
        super()._note(utilities, values, inputs)
        shown = inputs["ranks"] >= 0
        self._add("rewards", torch.stack((shown.sum().float(), (utilities * shown).sum())))

    def _logged(self, sums: dict[str, Tensor]) -> dict[str, float]:
        count, total = sums["rewards"].tolist()
        return {"mean_reward": total / max(count, 1.0)} | super()._logged(sums)


class BradleyTerryTrainer(RewardTrainer):
    """Every ranking as its pairs: a judgment's log-likelihood is the mean over them (Bradley & Terry 1952)."""

    args: BradleyTerryConfig

    def judgment_log_likelihood(self, utilities: Tensor, ranks: Tensor, opposite: Tensor | float = 0.0) -> Tensor:
        """Mean log-sigmoid of the margins."""
        return pair_log_likelihood(utilities, ranks, ties=self.args.ties, opposite=opposite)

    def _opposite(self) -> Any:
        if self.args.vote_state is None:
            return None
        return PairVotes.of_state(self.train_items, read_votes(self.args.vote_state)).opposite


class PlackettLuceTrainer(RewardTrainer):
    """Every ranking as a whole, or its first `top` places (Luce 1959; Plackett 1975)."""

    args: PlackettLuceConfig

    def judgment_log_likelihood(self, utilities: Tensor, ranks: Tensor, opposite: Tensor | float = 0.0) -> Tensor:
        """Log-probability of the ranking."""
        return log_likelihood(utilities, ranks, ties=self.args.ties, top=self.args.top)


def _given(
    model: str | os.PathLike[str] | PreTrainedModel | peft.PeftModel,
    args: RewardConfig,
    tokenizer: PreTrainedTokenizerBase | None,
) -> RewardModel:
    """The reward model that was named or given, with its tokenizer and limits."""
    if isinstance(model, str | os.PathLike):
        return build_reward_model(model, **load_options(args))
    if tokenizer is None:
        raise PluralignError("processing_class: a model in memory needs its tokenizer")
    config = model.config
    if config.num_labels != 1 or (getattr(config, SETTINGS, None) is None and is_encoder(config)):
        raise PluralignError(
            "model: expected a causal sequence classifier with one output, or a model of build_reward_model"
        )
    limits = limits_of(config, tokenizer, args.max_length, args.max_response_length)
    write_settings(config, limits)
    tokenizer.padding_side = "right"
    set_pad_token(model, tokenizer)
    return RewardModel(as_reward_model(model), tokenizer, limits)
