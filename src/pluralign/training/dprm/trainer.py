"""DPRM: a reward model that predicts the distribution of what a crowd would say (arXiv 2402.09764).

How it differs from the paper: votes are those of people, not of simulated personas; the posterior, its decay and
its smoothing, and the cost between labels are our own formulas, where the paper's could not be had; responses to a
prompt share its tokens, and each is read once however many voted on it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import peft
import torch
from scipy.special import softmax
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from pluralign.choice.dirichlet import total_variation
from pluralign.choice.label_costs import LabelCost, label_cost
from pluralign.choice.transport import distribution_loss, expected_reward, transport_cost
from pluralign.core.errors import PluralignError
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes import read_votes
from pluralign.scoring.crowds import Crowd, check_labels, crowd_metrics, crowd_of, crowd_of_state
from pluralign.scoring.items import Items
from pluralign.scoring.loading import SETTINGS, is_encoder, limits_of, set_pad_token
from pluralign.scoring.pooling import as_reward_model, label_scale_of, write_label_scale, write_settings
from pluralign.scoring.reward_models import LabelModel, RewardModel, build_reward_model
from pluralign.scoring.tokens import TokenizedItems
from pluralign.training.batches import JudgmentCollator
from pluralign.training.dprm.config import DPRMConfig
from pluralign.training.response_trainer import ResponseTrainer, adapted, load_options, weighted_mean

logger = logging.get_logger(__name__)


LOGGED = ("transport_cost", "total_variation", "expected_reward_error", "majority_accuracy", "entropy")
"""Means over the items of the steps since the last log."""


@dataclass(frozen=True)
class TargetCollator:
    """A batch as `JudgmentCollator` lays it out, with the target of each item.

    Args:
        collator: of the items, each a judgment of one response.
        targets: `(items, labels)`, float32.
    """

    collator: JudgmentCollator
    targets: Tensor

    def __call__(self, batch: list[int]) -> dict[str, Any]:
        """What the collator gives, and `target` `(items of the batch, labels)`."""
        return self.collator(batch) | {"target": self.targets[batch]}


@dataclass(frozen=True)
class _Evaluated:
    """A data set for evaluation, kept alive with its votes and texts."""

    dataset: Judgments
    crowd: Crowd
    items: Items
    tokens: TokenizedItems


class DPRMTrainer(ResponseTrainer):
    """Trains a model to predict the crowd's distribution over labels; its reward is the expected one.

    Args:
        model: a folder or hub id, a model from `build_reward_model(..., label_scale=...).model`, or any causal
            sequence classifier with an output for each label.
        args: the config.
        train_dataset: `Judgments` with labels.
        eval_dataset: the same, for evaluation.
        processing_class: the tokenizer; needed when `model` is not a name.
        peft_config: train an adapter instead of the whole model.
        trainer_arguments: passed on to `transformers.Trainer` (callbacks, optimizers ...).

    Raises:
        PluralignError: the judgments have no labels, or others than the model.

    Train on what people said of statements:

        args = pluralign.DPRMConfig("runs/crowd", per_device_train_batch_size=32)
        pluralign.DPRMTrainer("my-model", args, pluralign.read("votes.parquet")).train()
    """

    args: DPRMConfig

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel | peft.PeftModel,
        args: DPRMConfig,
        train_dataset: Judgments | None = None,
        eval_dataset: Judgments | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        peft_config: peft.PeftConfig | None = None,
        **trainer_arguments: Any,
    ) -> None:
        if train_dataset is None:
            raise PluralignError("no training judgments were given")
        scale = training_scale(train_dataset, args)
        self.cost = args.label_cost(scale)
        self._told_cost = label_cost(scale.rewards)  # one for all losses, so that their logs can be compared
        self.crowd = _training_crowd(train_dataset, args, self.cost)
        given = _given(model, args, processing_class, scale)
        trained = adapted(given.model, args, peft_config, "SEQ_CLS")
        self.label_model = LabelModel(trained, given.tokenizer, given.limits, scale=scale)
        items = self.crowd.items(self.crowd.votes if args.item_weight == "votes" else None)
        logger.info(
            f"training: {self.crowd.votes.sum():g} votes on {items.judgments} responses to {len(items.prompts)} prompts"
        )
        self._eval_of: dict[int, _Evaluated] = {}  # by identity
        super().__init__(self.label_model, args, items, eval_dataset, **trainer_arguments)
        sources = np.zeros(items.judgments, dtype=np.int64)
        self.data_collator = TargetCollator(
            JudgmentCollator(items, self.train_tokens, self.layout, sources),
            torch.from_numpy(self.crowd.distribution).float(),
        )

    def _losses(self, utilities: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Loss of each item by its logits `(items, 1, labels)`: `(items,)`."""
        return distribution_loss(utilities.squeeze(1), inputs["target"], loss=self.args.loss, cost=self.cost)

    # What is logged.

    def _note(self, utilities: Tensor, values: Tensor, inputs: dict[str, Any]) -> None:
        """Add a batch to the sums: what is predicted against what should be."""
        mu, target, weight = utilities.squeeze(1).float().softmax(-1), inputs["target"], inputs["weight"]
        rewards = self.label_model.scale.rewards
        top = target.gather(1, mu.argmax(-1, keepdim=True)).squeeze(1) >= target.amax(-1)
        noted = (
            transport_cost(mu, target, self._told_cost),
            total_variation(mu, target),
            (expected_reward(mu, rewards) - expected_reward(target, rewards)).abs(),
            top,
            torch.special.entr(mu).sum(-1),
        )
        self._add("items", torch.stack([weight.sum(), *((weight * one).sum() for one in noted)]))

    def _told(self, sums: dict[str, Tensor]) -> dict[str, float]:
        weight, *totals = sums["items"].tolist()
        return {name: total / weight for name, total in zip(LOGGED, totals, strict=True)} if weight > 0 else {}

    # Evaluation: every response with a vote once, metrics by pluralign.evaluation.

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Loss and the metrics of predicted distributions; keys are `eval_loss`, `eval_total_variation` ..."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise PluralignError("no evaluation judgments were given")
        if id(dataset) not in self._eval_of:
            crowd = self.crowd_of(dataset)
            items = crowd.items()
            self._eval_of[id(dataset)] = _Evaluated(dataset, crowd, items, self._tokens(items, "evaluation"))
        found = self._eval_of[id(dataset)]
        predicted = softmax(self._values(found.tokens), -1)[found.items.response]
        metrics = {"loss": self.mean_loss(found.crowd, predicted)} | crowd_metrics(found.crowd, predicted)
        return self._announced(metrics, metric_key_prefix)

    def crowd_of(self, judgments: Judgments) -> Crowd:
        """The votes of a table, with targets as in training.

        Raises:
            PluralignError: it has no labels, or others than the model predicts.
        """
        if judgments.label_scale is not None:  # without one the complaint is that there are no labels
            check_labels(judgments.label_scale, self.label_model.scale, "evaluation")
        args = self.args
        return crowd_of(judgments, strength=args.prior_strength, smoothing=args.smoothing, cost=self.cost)

    def distributions(self, items: Items) -> np.ndarray:
        """mu of every unique response under the model as it is now: `(responses, labels)`, float64."""
        return np.asarray(softmax(self._values(self._tokens(items, "evaluation")), -1))

    def mean_loss(self, crowd: Crowd, distributions: np.ndarray) -> float:
        """Mean loss of items under predicted distributions `(items, labels)`, weighted as in training."""
        weight = crowd.votes if self.args.item_weight == "votes" else np.ones(len(crowd.prompt))
        logits = np.log(np.maximum(distributions, np.finfo(float).tiny))
        targets = torch.from_numpy(crowd.distribution)
        found = distribution_loss(torch.from_numpy(logits), targets, loss=self.args.loss, cost=self.cost)
        return weighted_mean(found.numpy(), weight)


def training_scale(judgments: Judgments, args: DPRMConfig) -> LabelScale:
    """The labels that are to be predicted: those of the vote state where one is given, else of the judgments.

    Raises:
        PluralignError: there are none, or the two have different ones.
    """
    own = judgments.label_scale
    if args.vote_state is None:
        if own is None:
            raise PluralignError("dprm predicts labels, and the training judgments have none: import them with a scale")
        return own
    scale = read_votes(args.vote_state).scale
    if own is not None:
        check_labels(own, scale, f"vote_state: {args.vote_state}")
    return scale


def _training_crowd(judgments: Judgments, args: DPRMConfig, cost: LabelCost) -> Crowd:
    if args.vote_state is None:
        return crowd_of(judgments, strength=args.prior_strength, smoothing=args.smoothing, cost=cost)
    return crowd_of_state(read_votes(args.vote_state), judgments, smoothing=args.smoothing, cost=cost)


def _given(
    model: str | os.PathLike[str] | PreTrainedModel | peft.PeftModel,
    args: DPRMConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    scale: LabelScale,
) -> RewardModel:
    """The model that was named or given, with a head for the labels, its tokenizer and limits."""
    if isinstance(model, str | os.PathLike):
        return build_reward_model(model, label_scale=scale, **load_options(args))
    if tokenizer is None:
        raise PluralignError("processing_class: a model in memory needs its tokenizer")
    config = model.config
    if config.num_labels != len(scale.labels) or (getattr(config, SETTINGS, None) is None and is_encoder(config)):
        raise PluralignError(
            f"model: expected a causal sequence classifier with {len(scale.labels)} outputs, one for each label of "
            f"'{scale.name}', or a model of build_reward_model with this label_scale"
        )
    stored = label_scale_of(config)
    if stored is not None:
        check_labels(scale, stored, "training")
    limits = limits_of(config, tokenizer, args.max_length, args.max_response_length)
    write_settings(config, limits)
    write_label_scale(config, scale)
    tokenizer.padding_side = "right"
    set_pad_token(model, tokenizer)
    return LabelModel(as_reward_model(model), tokenizer, limits, scale=scale)
