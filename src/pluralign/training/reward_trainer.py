"""Reward models from judgments: one trainer, two losses, Bradley-Terry (1952) and Plackett-Luce (1959; 1975).

How it differs from TRL's `RewardTrainer`: judgments may rank any number of responses, with ties and weights;
prompts that are too long are cut on the left instead of dropping the judgment; see also
`pluralign.training.judgment_trainer`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import peft
import safetensors.torch
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pluralign.choice.davidson import davidson_log_likelihood, davidson_pair_log_likelihood
from pluralign.choice.plackett_luce import log_likelihood, pair_log_likelihood
from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes import read_votes
from pluralign.scoring.crowds import check_labels
from pluralign.scoring.loading import SETTINGS, is_encoder, limits_of, set_pad_token
from pluralign.scoring.measured import Measured, outcome_metrics
from pluralign.scoring.pooling import as_reward_model, label_scale_of, write_label_scale, write_settings
from pluralign.scoring.reward_models import TIE_NU, LabelModel, RewardModel, build_reward_model
from pluralign.scoring.votes import PairVotes
from pluralign.training.configs import TOP_HELP, JudgmentConfig, setting
from pluralign.training.judgment_trainer import Dataset, JudgmentTrainer
from pluralign.training.response_trainer import ModelOrName, adapted, load_options
from pluralign.training.ties import RewardTies, chosen_ties

TIES = "ties.safetensors"
"""The file of a checkpoint that holds the tie parameters."""

REWARD_MODEL_USAGE = """```python
import pluralign

reward_model = pluralign.load_reward_model("{folder}")
reward_model.score("a prompt", ["one response", "another"])
```"""


@dataclass
class RewardConfig(JudgmentConfig):
    """The config of all reward models."""

    learning_rate: float = setting(2e-5, "The initial learning rate of AdamW.")
    center_rewards_coefficient: float | None = setting(
        None, "Add this times the mean squared reward to the loss, which centres rewards at zero."
    )


@dataclass
class TiedRewardConfig(RewardConfig):
    """The config of reward models whose ties may have a probability of their own."""

    ties: RewardTies = setting(  # type: ignore[assignment]
        "efron",
        "How the likelihood treats equal ranks: davidson predicts ties, with tie parameters that are learned; efron, "
        "breslow, average and marginal take them for orders that were lost. auto is davidson where 5 % or more of the "
        "compared pairs are tied, else efron.",
    )


@dataclass
class BradleyTerryConfig(TiedRewardConfig):
    """Bradley-Terry: a ranking counts as its pairs, and a judgment's loss is the mean over them."""

    vote_state: str | None = setting(
        None,
        "A stored vote state of pairs: a judgment then counts with the crowd's posterior share for it, and the "
        "opposite judgment with the rest.",
    )


@dataclass
class PlackettLuceConfig(TiedRewardConfig):
    """Plackett-Luce: a ranking counts as a whole."""

    top: int | None = setting(None, TOP_HELP)


class RewardTrainer(JudgmentTrainer):
    """Trains a reward model; subclasses define the loss of a judgment.

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
    card_tag: ClassVar[str] = "reward-model"
    card_usage: ClassVar[str] = REWARD_MODEL_USAGE
    reports_over_rewarding: ClassVar[bool] = True

    def __init__(
        self,
        model: ModelOrName,
        args: RewardConfig,
        train_dataset: Dataset | None = None,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: peft.PeftConfig | None = None,
        **trainer_arguments: Any,
    ) -> None:
        loaded = reward_model_of(model, args, processing_class)
        trained = adapted(loaded.model, args, peft_config, "SEQ_CLS")
        getattr(trained.config, SETTINGS).pop(TIE_NU, None)  # of an earlier training
        self.reward_model = RewardModel(trained, loaded.tokenizer, loaded.limits)
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


class TiedRewardTrainer(RewardTrainer):
    """A reward model whose ties may have a probability of their own (`pluralign.choice.davidson`).

    The tie parameters are part of a checkpoint and are stored in the model's config as `tie_nu`.
    """

    args: TiedRewardConfig
    counts_pairs: ClassVar[bool]

    def __init__(self, *given: Any, **others: Any) -> None:
        super().__init__(*given, **others)
        soft = self.data_collator.opposite is not None
        self.ties, self.learned_ties = chosen_ties(self.args.ties, self.train_items, self.counts_pairs, soft)

    def _losses(self, utilities: Tensor, inputs: dict[str, Any]) -> Tensor:
        losses = super()._losses(utilities, inputs)
        if self.learned_ties is not None and utilities.requires_grad:
            weight = inputs["weight"]
            (slope,) = torch.autograd.grad(weight @ losses, self.learned_ties.log_nu, retain_graph=True)
            sums = torch.cat((-slope.to(weight), weight.sum().reshape(1)))
            *sums, total = self.accelerator.reduce(sums, "sum")
            self.learned_ties.follow(torch.stack(sums), total)
        return losses

    def _log_nu(self, utilities: Tensor) -> Tensor:
        """log nu on the device and in the precision of the utilities."""
        assert self.learned_ties is not None
        log_nu = self.learned_ties.log_nu
        return (log_nu if utilities.requires_grad else log_nu.detach()).to(utilities)

    def _logged(self, sums: dict[str, Tensor]) -> dict[str, float]:
        logs = super()._logged(sums)
        return logs if self.learned_ties is None else logs | {"tie_nu": self.learned_ties.nu[0]}

    def training_metrics(self) -> dict[str, Any]:
        """The tie parameter of pairs, where ties have one."""
        return {} if self.learned_ties is None else {"tie_nu": self.learned_ties.nu[0]}

    def measure(self, judgments: Judgments) -> Measured:
        """Also how well ties are predicted, where they have a probability."""
        measured = super().measure(judgments)
        if self.learned_ties is None:
            return measured
        items, rewards = self.score(judgments)
        ties = outcome_metrics(judgments, items, rewards, self.learned_ties.nu[0])
        return replace(measured, metrics=measured.metrics | ties)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.learned_ties is not None:
            getattr(self.model.config, SETTINGS)[TIE_NU] = self.learned_ties.nu
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self.learned_ties is not None and self.args.should_save:
            kept = {"log_nu": self.learned_ties.log_nu.detach().clone()}
            safetensors.torch.save_file(kept, Path(output_dir) / TIES)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if self.learned_ties is not None and checkpoint is not None and (Path(checkpoint) / TIES).exists():
            self.learned_ties.log_nu = safetensors.torch.load_file(Path(checkpoint) / TIES)["log_nu"].requires_grad_()


class BradleyTerryTrainer(TiedRewardTrainer):
    """A ranking counts as its pairs: a judgment's log-likelihood is the mean over them."""

    args: BradleyTerryConfig
    file_keys: ClassVar[tuple[str, ...]] = ("vote_state",)
    counts_pairs: ClassVar[bool] = True

    def judgment_log_likelihood(self, utilities: Tensor, ranks: Tensor, opposite: Tensor | float = 0.0) -> Tensor:
        """Mean log-probability of the outcomes of the pairs."""
        if self.learned_ties is not None:
            return davidson_pair_log_likelihood(utilities, ranks, self._log_nu(utilities))
        return pair_log_likelihood(utilities, ranks, ties=self.ties or "efron", opposite=opposite)

    def _opposite(self) -> Any:
        if self.args.vote_state is None:
            return None
        return PairVotes.of_state(self.train_items, read_votes(self.args.vote_state)).opposite


class PlackettLuceTrainer(TiedRewardTrainer):
    """A ranking counts as a whole, or by its first `top` places."""

    args: PlackettLuceConfig
    counts_pairs: ClassVar[bool] = False

    def judgment_log_likelihood(self, utilities: Tensor, ranks: Tensor, opposite: Tensor | float = 0.0) -> Tensor:
        """Log-probability of the ranking."""
        if self.learned_ties is not None:
            return davidson_log_likelihood(utilities, ranks, self._log_nu(utilities), top=self.args.top)
        return log_likelihood(utilities, ranks, ties=self.ties or "efron", top=self.args.top)


def reward_model_of(
    model: ModelOrName,
    args: JudgmentConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    scale: LabelScale | None = None,
) -> RewardModel:
    """A reward model, loaded by name or wrapped, with its tokenizer and limits; with a scale a label model."""
    if isinstance(model, str | os.PathLike):
        return build_reward_model(model, label_scale=scale, **load_options(args))
    if tokenizer is None:
        raise PluralignError("processing_class: a model in memory needs its tokenizer")
    config = model.config
    outputs = 1 if scale is None else len(scale.labels)
    if config.num_labels != outputs or (getattr(config, SETTINGS, None) is None and is_encoder(config)):
        wanted = "one output" if scale is None else f"{outputs} outputs, one for each label of '{scale.name}'"
        raise PluralignError(
            f"model: expected a causal sequence classifier with {wanted}, or a model of build_reward_model"
        )
    limits = limits_of(config, tokenizer, args.max_length, args.max_response_length)
    if scale is not None:
        stored = label_scale_of(config)
        if stored is not None:
            check_labels(scale, stored, "training")
        write_label_scale(config, scale)
    write_settings(config, limits)
    tokenizer.padding_side = "right"
    set_pad_token(model, tokenizer)
    wrapped = as_reward_model(model)
    if scale is None:
        return RewardModel(wrapped, tokenizer, limits)
    return LabelModel(wrapped, tokenizer, limits, scale=scale)
