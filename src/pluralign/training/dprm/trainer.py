"""DPRM: a reward model that predicts how a crowd would label a response (arXiv 2402.09764).

How it differs from the paper: votes come from annotators, not from simulated personas; the posterior, its decay and
its smoothing, and the cost between labels are our own formulas where the paper's are not available; responses to a
prompt share its tokens, and each is read once however many annotators voted on it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import peft
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging

from pluralign.choice.dirichlet import total_variation
from pluralign.choice.label_costs import LabelCost, label_cost
from pluralign.choice.transport import distribution_loss, expected_reward, transport_cost
from pluralign.core.errors import PluralignError
from pluralign.judgments.inputs import Files
from pluralign.judgments.reading import read
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes import VoteState, read_votes
from pluralign.scoring.crowd_predictions import crowd_metrics, evaluate_crowd, group_gain, verdicts
from pluralign.scoring.crowds import Crowd, check_labels, crowd_of, crowd_of_state, crowds_by_group, crowds_of_strata
from pluralign.scoring.group_heads import Groups, population_shares
from pluralign.scoring.items import Items, compares, items_of
from pluralign.scoring.label_baselines import LabelBaselines
from pluralign.scoring.measured import Measured, pairs_under, reward_metrics, slices_of
from pluralign.scoring.reward_models import LabelModel
from pluralign.scoring.tokens import TokenizedItems
from pluralign.training.batches import JudgmentCollator
from pluralign.training.dprm.config import DPRMConfig
from pluralign.training.objective import TrainingRun, trainer_config
from pluralign.training.response_trainer import ModelOrName, ResponseTrainer, adapted, weighted_judgments, weighted_mean
from pluralign.training.reward_trainer import reward_model_of

logger = logging.get_logger(__name__)


MOST_PARAMETERS = 1_000_000_000
"""Features of larger models are computed only where the config asks for them."""

LOGGED = ("transport_cost", "total_variation", "expected_reward_error", "majority_accuracy", "entropy")
"""The logged means over the items since the last log."""


@dataclass(frozen=True)
class TargetCollator:
    """A batch as `JudgmentCollator` lays it out, with the target of each item, `(items, labels)` in float32."""

    collator: JudgmentCollator
    targets: Tensor

    def __call__(self, batch: list[int]) -> dict[str, Any]:
        """The collator's batch with `target`."""
        return self.collator(batch) | {"target": self.targets[batch]}


class DPRMTrainer(ResponseTrainer):
    """Trains a model to predict the crowd's distribution over labels; its reward is the expected reward.

    Arguments that are not listed are those of `RewardTrainer`.

    Args:
        model: a folder or hub id, a model from `build_reward_model(..., label_scale=...).model`, or any causal
            sequence classifier with an output for each label.
        args: the config.
        train_dataset: what `read` takes, with labels and a label scale.
        eval_dataset: the same, for evaluation.

    Raises:
        PluralignError: the judgments have no labels, or other labels than the model.

    Train on votes on statements:

        args = pluralign.DPRMConfig("runs/crowd", per_device_train_batch_size=32)
        pluralign.DPRMTrainer("my-model", args, train_dataset=pluralign.read("votes.parquet")).train()
    """

    args: DPRMConfig
    file_keys: ClassVar[tuple[str, ...]] = ("vote_state", "cost_matrix")
    card_tag: ClassVar[str] = "reward-model"
    card_usage: ClassVar[str] = """```python
import pluralign

reward_model = pluralign.load_reward_model("{folder}")  # the expected reward; quantile=0.2 is a cautious one
reward_model.score("a prompt", ["one response", "another"])
items = pluralign.items_of(pluralign.read("judgments.parquet"), keep_all=True)
reward_model.distributions(items)  # how a crowd would label them: (responses, labels)
```"""

    def __init__(
        self,
        model: ModelOrName,
        args: DPRMConfig | None = None,
        data_collator: None = None,
        train_dataset: Files | None = None,
        eval_dataset: Files | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        peft_config: peft.PeftConfig | None = None,
        **trainer_arguments: Any,
    ) -> None:
        args = trainer_config(args, DPRMConfig, model, data_collator)
        if train_dataset is None:
            raise PluralignError("no training judgments were given")
        judgments, evaluated = read(train_dataset), None if eval_dataset is None else read(eval_dataset)
        state = None if args.vote_state is None else read_votes(args.vote_state)
        scale = training_scale(judgments, state, args)
        self.cost = args.label_cost(scale)
        self._logged_cost = label_cost(scale.rewards)  # the same for all losses, so that their logs can be compared
        self.groups = _groups(judgments, state, args)
        self.crowd, self._group_of = _training_crowd(judgments, state, args, self.cost, self.groups)
        loaded = reward_model_of(model, args, processing_class, scale, self.groups)
        trained = adapted(loaded.model, args, peft_config, "SEQ_CLS")
        self.label_model = LabelModel(trained, loaded.tokenizer, loaded.limits, scale=scale, groups=self.groups)
        self.starting_model = str(model) if isinstance(model, str | os.PathLike) else ""
        items = self.crowd.items(None if args.item_weight == "equal" else self.crowd.votes)
        logger.info(
            f"training: {self.crowd.votes.sum():g} votes on {items.judgments} responses to {len(items.prompts)} prompts"
        )
        self._eval_of: dict[int, tuple[Judgments, Crowd, Items, TokenizedItems]] = {}  # by identity, kept alive
        super().__init__(self.label_model, args, items, evaluated, **trainer_arguments)
        sources = np.zeros(items.judgments, dtype=np.int64)
        columns = {}
        if self.groups is not None:
            votes = np.bincount(self._group_of, items.weight, len(self.groups) + 1)
            shrinkage = args.group_shrinkage / np.where(votes > 0, votes, np.inf)
            columns = {"group": self._group_of, "shrinkage": shrinkage[self._group_of].astype(np.float32)}
        self.data_collator = TargetCollator(
            JudgmentCollator(items, self.train_tokens, self.layout, sources, columns=columns),
            torch.from_numpy(self.crowd.distribution).float(),
        )

    def _losses(self, utilities: Tensor, inputs: dict[str, Any]) -> Tensor:
        """Loss of each item `(items,)`, from the head's outputs `(items, 1, outputs)`, with groups' shrinkage."""
        logits, deviation = self._logits(utilities, inputs)
        losses: Tensor = distribution_loss(logits, inputs["target"], loss=self.args.loss, cost=self.cost)
        return losses if deviation is None else losses + inputs["shrinkage"] / 2 * deviation.square().sum(-1)

    def _logits(self, utilities: Tensor, inputs: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        """The logits of each item `(items, labels)`, and its group's deviation."""
        outputs = utilities.squeeze(1)
        return (outputs, None) if self.groups is None else self.groups.logits(outputs, inputs["group"])

    # Logs.

    def _note(self, utilities: Tensor, values: Tensor, inputs: dict[str, Any]) -> None:
        """Add a batch to the sums: predictions against targets."""
        mu, target, weight = self._logits(utilities, inputs)[0].float().softmax(-1), inputs["target"], inputs["weight"]
        rewards = self.label_model.scale.rewards
        top = target.gather(1, mu.argmax(-1, keepdim=True)).squeeze(1) >= target.amax(-1)
        means = (
            transport_cost(mu, target, self._logged_cost),
            total_variation(mu, target),
            (expected_reward(mu, rewards) - expected_reward(target, rewards)).abs(),
            top,
            torch.special.entr(mu).sum(-1),
        )
        self._add("items", torch.stack([weight.sum(), *((weight * mean).sum() for mean in means)]))

    def _logs(self, sums: dict[str, Tensor]) -> dict[str, float]:
        weight, *totals = sums["items"].tolist()
        return {name: total / weight for name, total in zip(LOGGED, totals, strict=True)} if weight > 0 else {}

    # Baselines, fitted once: what the model must beat.

    @cached_property
    def baselines(self) -> LabelBaselines:
        """Of the training votes; the logistic regression needs a model that was given by name."""
        wanted = self.args.logistic_baseline
        if wanted is None:
            wanted = sum(weight.numel() for weight in self.label_model.model.parameters()) < MOST_PARAMETERS
        features = self.starting_model if wanted and not self.args.trust_remote_code else ""
        return LabelBaselines.fit(self.crowd, self._item_weight(self.crowd), features, self.args.seed)

    @classmethod
    def from_run(cls, run: TrainingRun, judgments: Judgments, evaluated: Judgments | None) -> Self:
        """Also fits the baselines, so that what could fail does so before training."""
        trainer = super().from_run(run, judgments, evaluated)
        trainer.baselines  # noqa: B018
        return trainer

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Also the baselines, except in checkpoints."""
        super()._save(output_dir, state_dict)
        if self.args.should_save and not self._in_checkpoint:
            self.baselines.write(Path(output_dir or self.args.output_dir))

    def _item_weight(self, crowd: Crowd) -> np.ndarray:
        """Weight of each item in the loss, `(items,)`."""
        return crowd.votes if self.args.item_weight == "votes" else np.ones(len(crowd.prompt))

    # Evaluation: every response with a vote is read once.

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
            self._eval_of[id(dataset)] = dataset, crowd, items, self._tokens(items, "evaluation")
        _, crowd, items, tokens = self._eval_of[id(dataset)]
        predicted = self.label_model.predicted(self._values(tokens))[items.response]
        metrics = {"loss": self.mean_loss(crowd, predicted)} | crowd_metrics(crowd, predicted)
        return self._announced(metrics, metric_key_prefix)

    def measure(self, judgments: Judgments) -> Measured:
        """Predictions against votes; if the judgments compare responses, also the metrics of rewards."""
        crowd = self.crowd_of(judgments)
        result = evaluate_crowd(judgments, crowd, self.distributions, baselines=self.baselines.predict)
        for line in verdicts(result.metrics):
            logger.warning(f"evaluation: {line}")
        metrics = result.metrics | {"eval_loss": self.mean_loss(crowd, result.predicted)}
        if self.groups is not None:
            metrics |= group_gain(judgments, self.groups, self._by_group)
        if not compares(judgments):
            return Measured(metrics, crowds=result)
        items = items_of(judgments)
        rewards = self.label_model.rewards_of(self.distributions(items))
        metrics = reward_metrics(judgments, items, rewards) | metrics
        pairs = pairs_under(items, rewards, judgments=judgments)
        return Measured(metrics, pairs, slices_of(judgments, items), result)

    def crowd_of(self, judgments: Judgments) -> Crowd:
        """The votes of a table, with targets as in training.

        Raises:
            PluralignError: it has no labels, or other labels than the model predicts.
        """
        if judgments.label_scale is not None:  # without one, `crowd_of` raises
            check_labels(judgments.label_scale, self.label_model.scale, "evaluation")
        args = self.args
        return crowd_of(judgments, strength=args.prior_strength, smoothing=args.smoothing, cost=self.cost)

    def distributions(self, items: Items) -> np.ndarray:
        """mu of every unique response under the model as it is now: `(responses, labels)`, float64."""
        return self.label_model.predicted(self._values(self._tokens(items, "evaluation")))

    def _by_group(self, items: Items) -> np.ndarray:
        assert self.groups is not None
        return self.groups.distributions(self._values(self._tokens(items, "evaluation")))

    def mean_loss(self, crowd: Crowd, distributions: np.ndarray) -> float:
        """Mean loss of items under predicted distributions `(items, labels)`, weighted as in training."""
        weight = self._item_weight(crowd)
        logits = np.log(np.maximum(distributions, np.finfo(float).tiny))
        targets = torch.from_numpy(crowd.distribution)
        losses = distribution_loss(torch.from_numpy(logits), targets, loss=self.args.loss, cost=self.cost)
        return weighted_mean(losses.numpy(), weight)


def training_scale(judgments: Judgments, state: VoteState | None, args: DPRMConfig) -> LabelScale:
    """The labels to predict: those of the vote state if there is one, else of the judgments.

    Raises:
        PluralignError: there are none, or the two differ.
    """
    own = judgments.label_scale
    if state is None:
        if own is None:
            raise PluralignError(
                "dprm predicts labels, and the training judgments have none: import them with a label scale"
            )
        return own
    if own is not None:
        check_labels(own, state.scale, f"vote_state: {args.vote_state}")
    return state.scale


def _groups(judgments: Judgments, state: VoteState | None, args: DPRMConfig) -> Groups | None:
    """The groups of the training judgments or the vote state, with their shares in the population."""
    if not args.by_group:
        return None
    if state is None:
        votes = _votes_by_group(judgments)
    elif state.settings.strata == "group":
        votes = dict(state.settings.shares or {})
    else:
        raise PluralignError(
            f"by_group: {args.vote_state} does not keep the votes of groups apart: create it with `pluralign votes "
            "update --shares FILE`, which has a share for each group, or leave vote_state out to count the votes of "
            "the training files"
        )
    if len(votes) < 2:
        raise PluralignError("by_group: the training votes have less than two groups in `group`")
    names = tuple(sorted(votes))
    shares = args.group_shares
    if shares is not None and set(shares) != set(names):
        raise PluralignError(
            f"group_shares: found {', '.join(sorted(shares))}, expected one for each of {', '.join(names)}"
        )
    try:
        return Groups(names, population_shares([(shares or votes)[name] for name in names]))
    except ValueError as fault:
        raise PluralignError(f"group_shares: {fault}") from fault


def _votes_by_group(judgments: Judgments) -> dict[str, float]:
    """The weight of each group's votes."""
    columns = (judgments.column(name) for name in ("group", "labels", "weight"))
    votes: dict[str, float] = {}
    for name, own, weight in zip(*columns, strict=True):
        if name is not None and own is not None:
            votes[name] = votes.get(name, 0.0) + weight * sum(label is not None for label in own)
    return votes


def _training_crowd(
    judgments: Judgments, state: VoteState | None, args: DPRMConfig, cost: LabelCost, groups: Groups | None
) -> tuple[Crowd, np.ndarray]:
    """The votes on each item, and the number of its group where groups are told apart."""
    if state is not None:
        posterior: dict[str, Any] = {"smoothing": args.smoothing, "cost": cost}
        if groups is not None:
            return crowds_of_strata(state, judgments, groups.names, **posterior)
        crowd = crowd_of_state(state, judgments, **posterior)
        return crowd, np.zeros(len(crowd.prompt), dtype=np.int64)
    judgments = weighted_judgments(judgments, args)
    options: dict[str, Any] = {"strength": args.prior_strength, "smoothing": args.smoothing, "cost": cost}
    if groups is not None:
        return crowds_by_group(judgments, groups.names, **options)
    crowd = crowd_of(judgments, **options)
    return crowd, np.zeros(len(crowd.prompt), dtype=np.int64)
