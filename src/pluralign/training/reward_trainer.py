"""Reward models from judgments: Bradley-Terry (1952) and Plackett-Luce (1959; 1975).

How it differs from TRL's `RewardTrainer`: judgments may rank any number of responses, with ties and weights;
prompts that are too long are cut on the left instead of dropping the judgment; see also
`pluralign.training.judgment_trainer`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import peft
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from pluralign.choice.ordered import UNKNOWN, ordered_pair_log_likelihood
from pluralign.choice.sign import sign_score
from pluralign.core.errors import PluralignError
from pluralign.core.files import write_json
from pluralign.evaluation.calibration.group_scales import GroupScales, scale_metrics
from pluralign.evaluation.pairs import rank_keys
from pluralign.judgments.inputs import Files
from pluralign.judgments.reading import read
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes import read_votes
from pluralign.scoring.crowds import check_labels
from pluralign.scoring.group_heads import Groups
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.loading import SETTINGS, STRENGTHS, is_encoder, limits_of, set_pad_token
from pluralign.scoring.measured import Measured, column_of, strength_metrics
from pluralign.scoring.pooling import as_reward_model, label_scale_of, write_label_scale, write_settings
from pluralign.scoring.reward_models import ANNOTATOR_SCALES, LabelModel, RewardModel, build_reward_model
from pluralign.scoring.votes import PairVotes
from pluralign.training.choice_parameters import LearnedScales, LearnedThresholds, strength_levels, tie_share
from pluralign.training.configs import TOP_HELP, JudgmentConfig, check_choices, setting
from pluralign.training.judgment_trainer import JudgmentTrainer
from pluralign.training.objective import trainer_config
from pluralign.training.response_trainer import ModelOrName, adapted, load_options
from pluralign.training.reward_usage import reward_model_usage


@dataclass
class RewardConfig(JudgmentConfig):
    """The config of all reward models."""

    learning_rate: float = setting(2e-5, "The initial learning rate of AdamW.")
    center_rewards_coefficient: float | None = setting(
        None, "Add this times the mean squared reward to the loss, which centres rewards at zero."
    )


@dataclass
class BradleyTerryConfig(RewardConfig):
    """Bradley-Terry: a ranking counts as its pairs, and a judgment's loss is the mean over them."""

    loss: Literal["log", "sign"] = setting(
        "log",
        "Minus the log-likelihood (log), or the expected share of wrongly ordered pairs (sign): the sign estimator, "
        "whose rewards are in the order of the mean utility of a mixed population, and have no scale.",
    )
    strength: Literal["ignore", "ordered"] = setting(
        "ignore",
        "With ordered, the strength of a preference between two responses is an ordered outcome, with thresholds on "
        "the difference of rewards that are learned; ties are the outcome in the middle.",
    )
    annotator_scales: bool = setting(
        False,
        "Learn with the rewards how decidedly each annotator judges: rewards are multiplied by a scale of the "
        "annotator, log-normal around 1.",
    )
    vote_state: str | None = setting(
        None,
        "A stored vote state of pairs: a judgment then counts with the crowd's posterior share for it, and the "
        "opposite judgment with the rest.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choices(self, loss=Literal["log", "sign"], strength=Literal["ignore", "ordered"])
        if self.loss == "sign":
            for name, given in (("strength", self.strength == "ordered"), ("annotator_scales", self.annotator_scales)):
                if given:
                    raise ValueError(
                        f"{name}: needs probabilities of judgments, and loss: sign has none: leave one out"
                    )
            if self.vote_state is not None or self.ties != "efron":
                raise ValueError("loss: sign classifies single judgments: leave vote_state and ties out")
        if self.strength == "ordered" and (self.vote_state is not None or self.ties != "efron"):
            raise ValueError("strength: ordered has ties as its middle outcome: leave ties and vote_state out")


@dataclass
class PlackettLuceConfig(RewardConfig):
    """Plackett-Luce: a ranking counts as a whole."""

    top: int | None = setting(None, TOP_HELP)


class RewardTrainer(JudgmentTrainer):
    """Trains a reward model; subclasses define the loss of a judgment.

    Args:
        model: a folder or hub id, a reward model from `build_reward_model(...).model`, or any causal sequence
            classifier with one output.
        args: the config; `None` is its defaults.
        data_collator: must be `None`; it is here for the order of arguments in TRL.
        train_dataset: what `read` takes, such as `Judgments`, a `datasets.Dataset` or a frame; also in TRL's format.
        eval_dataset: the same, for evaluation.
        processing_class: the tokenizer; needed when `model` is not a name.
        peft_config: train an adapter instead of the whole model.
        trainer_arguments: passed on to `transformers.Trainer` (callbacks, optimizers ...).

    Raises:
        PluralignError: the model gives no reward, or no judgment ranks anything.
    """

    args: RewardConfig
    config_class: ClassVar[type[RewardConfig]] = RewardConfig
    card_tag: ClassVar[str] = "reward-model"
    reports_over_rewarding: ClassVar[bool] = True

    def __init__(
        self,
        model: ModelOrName,
        args: RewardConfig | None = None,
        data_collator: None = None,
        train_dataset: Files | None = None,
        eval_dataset: Files | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        *,
        peft_config: peft.PeftConfig | None = None,
        **trainer_arguments: Any,
    ) -> None:
        args = trainer_config(args, self.config_class, model, data_collator)
        loaded = reward_model_of(model, args, processing_class)
        trained = adapted(loaded.model, args, peft_config, "SEQ_CLS")
        getattr(trained.config, SETTINGS).pop(STRENGTHS, None)  # of an earlier training
        self.reward_model = RewardModel(trained, loaded.tokenizer, loaded.limits)
        super().__init__(self.reward_model, args, train_dataset, eval_dataset, **trainer_arguments)

    def usage(self) -> str:
        """With pluralign and, if a causal model is at its base, without it."""
        return reward_model_usage(self.reward_model.model, chat=isinstance(self.train_items.responses[0], list))

    def _penalty(self, utilities: Tensor, ranks: Tensor) -> Tensor | float:
        if self.args.center_rewards_coefficient is None:
            return 0.0
        shown = (ranks >= 0).float()
        return self.args.center_rewards_coefficient * (utilities.square() * shown).sum(-1) / shown.sum(-1)

    def _note(self, utilities: Tensor, values: Tensor, inputs: dict[str, Any]) -> None:
        super()._note(utilities, values, inputs)
        shown = (inputs["ranks"] >= 0) & (inputs["weight"] > 0).unsqueeze(-1)
        self._add("rewards", torch.stack((shown.sum().float(), (utilities * shown).sum())))

    def _logged(self, sums: dict[str, Tensor]) -> dict[str, float]:
        count, total = sums["rewards"].tolist()
        return {"mean_reward": total / max(count, 1.0)} | super()._logged(sums)


class BradleyTerryTrainer(RewardTrainer):
    """A ranking counts as its pairs: a judgment's log-likelihood is the mean over them.

    Further options: strengths as ordered outcomes (`pluralign.choice.ordered`), a scale for each annotator, and the
    sign estimator (`pluralign.choice.sign`).
    """

    args: BradleyTerryConfig
    config_class: ClassVar[type[RewardConfig]] = BradleyTerryConfig
    file_keys: ClassVar[tuple[str, ...]] = ("vote_state",)

    def __init__(
        self,
        model: ModelOrName,
        args: BradleyTerryConfig | None = None,
        data_collator: None = None,
        train_dataset: Files | None = None,
        *given: Any,
        **others: Any,
    ) -> None:
        args = trainer_config(args, BradleyTerryConfig, model, data_collator)
        if args.annotator_scales or args.strength == "ordered":
            train_dataset = None if train_dataset is None else read(train_dataset)
        super().__init__(model, args, None, train_dataset, *given, **others)
        self.thresholds: LearnedThresholds | None = None
        self.levels: list[float] = []
        self.scales: LearnedScales | None = None
        self.annotators: list[str] = []
        columns: dict[str, np.ndarray] = {}
        if args.strength == "ordered":
            self.levels, columns["strength"] = strength_levels(*self._strengths(train_dataset, self.train_items))
            self.thresholds = LearnedThresholds(self._counts(columns["strength"]))
            self.learned["thresholds"] = self.thresholds
        if args.annotator_scales:
            self.annotators, columns["annotator"], weights = self._annotators(train_dataset)
            self.scales = LearnedScales(weights)
            self.learned["scales"] = self.scales
        self.data_collator = replace(self.data_collator, columns=columns)

    @property
    def counts_pairs(self) -> bool:
        """Always."""
        return True

    def judgment_log_likelihood(self, utilities: Tensor, ranks: Tensor, opposite: Tensor | float = 0.0) -> Tensor:
        """Mean log-probability of the outcomes of the pairs; with `loss: sign`, minus the mean share of wrong ones."""
        if self.args.loss == "sign":
            return sign_score(utilities, ranks)
        if self.thresholds is not None:
            unknown = torch.full((len(ranks),), UNKNOWN, device=ranks.device)
            return ordered_pair_log_likelihood(utilities, ranks, unknown, self.thresholds.cuts.detach())
        return super().judgment_log_likelihood(utilities, ranks, opposite)

    def _losses(self, utilities: Tensor, inputs: dict[str, Any]) -> Tensor:
        scaled, ranks = utilities, inputs["ranks"]
        if self.scales is not None:
            scaled = utilities * self.scales.of(inputs["annotator"]).to(utilities).unsqueeze(-1)
        if self.thresholds is None:
            log_likelihood = self.judgment_log_likelihood(scaled, ranks, inputs.get("opposite", 0.0))
        else:
            log_likelihood = ordered_pair_log_likelihood(scaled, ranks, inputs["strength"], self.thresholds.cuts)
        return self._penalty(utilities, ranks) - log_likelihood

    def _opposite(self) -> Any:
        if self.args.vote_state is None:
            return None
        return PairVotes.of_state(self.train_items, read_votes(self.args.vote_state)).opposite

    # Strengths and annotators of judgments.

    def _strengths(self, judgments: Any, items: Items) -> tuple[np.ndarray, np.ndarray]:
        """Strength of each judgment, NaN where there is none, and whether it is a strict pair: `(judgments,)` each."""
        values = np.array([np.nan if one is None else one for one in column_of(judgments, items, "strength")])
        pairs = np.diff(items.offsets) == 2
        first, second = (rank_keys(items.ranks)[items.offsets[:-1] + side * pairs] for side in (0, 1))
        return values.astype(np.float64), pairs & (first != second)

    def _counts(self, level: np.ndarray) -> np.ndarray:
        """Weight of the training judgments that are ties, and of each strength: `(m + 1,)`."""
        weight = self.train_items.weight
        strong = np.bincount(level, weight, len(self.levels) + 1)
        return np.append(tie_share(self.train_items) * weight.sum(), strong[1:])

    def _annotators(self, judgments: Any) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Names, each judgment's number among them (past the last for none), and the weight of each one's judgments."""
        names = column_of(judgments, self.train_items, "annotator")
        known = sorted({name for name in names if name is not None})
        if not known:
            raise PluralignError("annotator_scales: no training judgment has an annotator: leave it out")
        number: dict[str | None, int] = {name: place for place, name in enumerate(known)} | {None: len(known)}
        place = np.array([number[name] for name in names], dtype=np.int64)
        weight = np.bincount(place, self.train_items.weight, len(known) + 1)[: len(known)]
        return known, place, np.maximum(weight, np.finfo(float).tiny)

    @property
    def annotator_scales(self) -> GroupScales | None:
        """The annotators' scales, where they are learned."""
        if self.scales is None:
            return None
        values = self.scales.value.detach().exp().tolist()
        return GroupScales("annotator", self.scales.tau, dict(zip(self.annotators, values, strict=True)))

    # Reports.

    def training_metrics(self) -> dict[str, Any]:
        """Also the thresholds between strengths, and the spread of the annotators' scales."""
        metrics = super().training_metrics()
        if self.thresholds is not None:
            cuts = self.thresholds.cuts.detach().tolist()
            metrics |= {f"threshold/{place}": cut for place, cut in enumerate(cuts) if self.thresholds.ties or place}
        return metrics if self.scales is None else metrics | {"annotator_scale_spread": self.scales.tau}

    def measure(self, judgments: Judgments) -> Measured:
        """Also how well strengths are predicted, and what the annotators' scales gain."""
        measured = super().measure(judgments)
        metrics = dict(measured.metrics)
        if self.thresholds is not None:
            items, rewards = self.score(judgments)
            cuts = self.thresholds.cuts.detach().tolist()
            metrics |= strength_metrics(judgments, items, rewards, self.levels, cuts)
        if (scales := self.annotator_scales) is not None and measured.pairs is not None:
            names = column_of(judgments, items_of(judgments), scales.column)
            metrics |= scale_metrics(measured.pairs, names, scales)
        return replace(measured, metrics=metrics)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Also the thresholds, and `annotator_scales.json` except in checkpoints, where they are learned."""
        if self.thresholds is not None:
            stored = {"levels": self.levels, "thresholds": self.thresholds.cuts.detach().tolist()}
            getattr(self.model.config, SETTINGS)[STRENGTHS] = stored
        super()._save(output_dir, state_dict)
        scales = self.annotator_scales
        if scales is not None and self.args.should_save and not self._in_checkpoint:
            write_json(Path(output_dir or self.args.output_dir) / ANNOTATOR_SCALES, scales.as_dict())


class PlackettLuceTrainer(RewardTrainer):
    """A ranking counts as a whole, or by its first `top` places."""

    args: PlackettLuceConfig
    config_class: ClassVar[type[RewardConfig]] = PlackettLuceConfig

    @property
    def top(self) -> int | None:
        """As the config says."""
        return self.args.top


def reward_model_of(
    model: ModelOrName,
    args: JudgmentConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    scale: LabelScale | None = None,
    groups: Groups | None = None,
) -> RewardModel:
    """A reward model, loaded by name or wrapped, with its tokenizer and limits; with a scale a label model."""
    if isinstance(model, str | os.PathLike):
        return build_reward_model(model, label_scale=scale, groups=groups, **load_options(args))
    if tokenizer is None:
        raise PluralignError("processing_class: a model in memory needs its tokenizer")
    config = model.config
    outputs = 1 if scale is None else len(scale.labels) * (1 + (len(groups) if groups else 0))
    if config.num_labels != outputs or (getattr(config, SETTINGS, None) is None and is_encoder(config)):
        wanted = "one output" if scale is None else f"{outputs} outputs, one for each label of '{scale.name}'"
        wanted += f", for everybody and for each of {len(groups)} groups" if groups else ""
        raise PluralignError(
            f"model: expected a causal sequence classifier with {wanted}, or a model of build_reward_model"
        )
    limits = limits_of(config, tokenizer, args.max_length, args.max_response_length)
    if scale is not None:
        stored = label_scale_of(config)
        if stored is not None:
            check_labels(scale, stored, "training")
        write_label_scale(config, scale, groups)
    write_settings(config, limits)
    tokenizer.padding_side = "right"
    set_pad_token(model, tokenizer)
    wrapped = as_reward_model(model)
    if scale is None:
        return RewardModel(wrapped, tokenizer, limits)
    return LabelModel(wrapped, tokenizer, limits, scale=scale, groups=groups)
