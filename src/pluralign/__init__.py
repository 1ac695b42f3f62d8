"""Align language models with a population, not with an average annotator.

Names load when they are first used, so that `import pluralign` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pluralign.core.errors import PluralignError
    from pluralign.judgments import BUILT_IN_SCALES, Judgments, LabelScale, read
    from pluralign.policies.loading import load_policy
    from pluralign.policies.mixture import MixturePolicy
    from pluralign.policies.policy import Policy, Sample
    from pluralign.scoring.averaged import AveragedRewardModel
    from pluralign.scoring.features import text_features
    from pluralign.scoring.implicit_rewards import ImplicitReward, load_implicit_reward
    from pluralign.scoring.items import items_of
    from pluralign.scoring.reward_models import LabelModel, RewardModel, build_reward_model, load_reward_model
    from pluralign.training.dpo import DPOConfig, DPOTrainer
    from pluralign.training.dprm.config import DPRMConfig
    from pluralign.training.dprm.trainer import DPRMTrainer
    from pluralign.training.em_dpo.config import EMDPOConfig
    from pluralign.training.em_dpo.trainer import EMDPOTrainer
    from pluralign.training.more.config import MOREConfig
    from pluralign.training.more.trainer import MORETrainer
    from pluralign.training.preference_matching.dpo import PMDPOConfig, PMDPOTrainer
    from pluralign.training.preference_matching.reward_functions import reward_function
    from pluralign.training.preference_matching.rlhf import PMRLHFTrainer
    from pluralign.training.preference_matching.rlhf_config import PMRLHFConfig
    from pluralign.training.reward_trainer import (
        BradleyTerryConfig,
        BradleyTerryTrainer,
        PlackettLuceConfig,
        PlackettLuceTrainer,
    )
    from pluralign.training.sft import SFTConfig, SFTTrainer
    from pluralign.workflows.aggregate.run import aggregate
    from pluralign.workflows.audit.run import audit
    from pluralign.workflows.best_of import best_of
    from pluralign.workflows.calibrate import calibrate, remove_calibration
    from pluralign.workflows.evaluate import evaluate
    from pluralign.workflows.report import report
    from pluralign.workflows.route import route
    from pluralign.workflows.score import score
    from pluralign.workflows.train.run import train
    from pluralign.workflows.votes.simulate import simulate_votes
    from pluralign.workflows.votes.update import update_votes

_HOMES = {
    "AveragedRewardModel": "pluralign.scoring.averaged",
    "BUILT_IN_SCALES": "pluralign.judgments",
    "BradleyTerryConfig": "pluralign.training.reward_trainer",
    "BradleyTerryTrainer": "pluralign.training.reward_trainer",
    "DPOConfig": "pluralign.training.dpo",
    "DPOTrainer": "pluralign.training.dpo",
    "DPRMConfig": "pluralign.training.dprm.config",
    "DPRMTrainer": "pluralign.training.dprm.trainer",
    "EMDPOConfig": "pluralign.training.em_dpo.config",
    "EMDPOTrainer": "pluralign.training.em_dpo.trainer",
    "ImplicitReward": "pluralign.scoring.implicit_rewards",
    "Judgments": "pluralign.judgments",
    "LabelModel": "pluralign.scoring.reward_models",
    "LabelScale": "pluralign.judgments",
    "MOREConfig": "pluralign.training.more.config",
    "MORETrainer": "pluralign.training.more.trainer",
    "MixturePolicy": "pluralign.policies.mixture",
    "PMDPOConfig": "pluralign.training.preference_matching.dpo",
    "PMDPOTrainer": "pluralign.training.preference_matching.dpo",
    "PMRLHFConfig": "pluralign.training.preference_matching.rlhf_config",
    "PMRLHFTrainer": "pluralign.training.preference_matching.rlhf",
    "PlackettLuceConfig": "pluralign.training.reward_trainer",
    "PlackettLuceTrainer": "pluralign.training.reward_trainer",
    "PluralignError": "pluralign.core.errors",
    "Policy": "pluralign.policies.policy",
    "RewardModel": "pluralign.scoring.reward_models",
    "Sample": "pluralign.policies.policy",
    "SFTConfig": "pluralign.training.sft",
    "SFTTrainer": "pluralign.training.sft",
    "aggregate": "pluralign.workflows.aggregate.run",
    "audit": "pluralign.workflows.audit.run",
    "best_of": "pluralign.workflows.best_of",
    "build_reward_model": "pluralign.scoring.reward_models",
    "calibrate": "pluralign.workflows.calibrate",
    "evaluate": "pluralign.workflows.evaluate",
    "items_of": "pluralign.scoring.items",
    "load_implicit_reward": "pluralign.scoring.implicit_rewards",
    "load_policy": "pluralign.policies.loading",
    "load_reward_model": "pluralign.scoring.reward_models",
    "read": "pluralign.judgments",
    "remove_calibration": "pluralign.workflows.calibrate",
    "report": "pluralign.workflows.report",
    "reward_function": "pluralign.training.preference_matching.reward_functions",
    "route": "pluralign.workflows.route",
    "score": "pluralign.workflows.score",
    "simulate_votes": "pluralign.workflows.votes.simulate",
    "text_features": "pluralign.scoring.features",
    "train": "pluralign.workflows.train.run",
    "update_votes": "pluralign.workflows.votes.update",
}

__all__ = [
    "BUILT_IN_SCALES",
    "AveragedRewardModel",
    "BradleyTerryConfig",
    "BradleyTerryTrainer",
    "DPOConfig",
    "DPOTrainer",
    "DPRMConfig",
    "DPRMTrainer",
    "EMDPOConfig",
    "EMDPOTrainer",
    "ImplicitReward",
    "Judgments",
    "LabelModel",
    "LabelScale",
    "MOREConfig",
    "MORETrainer",
    "MixturePolicy",
    "PMDPOConfig",
    "PMDPOTrainer",
    "PMRLHFConfig",
    "PMRLHFTrainer",
    "PlackettLuceConfig",
    "PlackettLuceTrainer",
    "PluralignError",
    "Policy",
    "RewardModel",
    "SFTConfig",
    "SFTTrainer",
    "Sample",
    "aggregate",
    "audit",
    "best_of",
    "build_reward_model",
    "calibrate",
    "evaluate",
    "items_of",
    "load_implicit_reward",
    "load_policy",
    "load_reward_model",
    "read",
    "remove_calibration",
    "report",
    "reward_function",
    "route",
    "score",
    "simulate_votes",
    "text_features",
    "train",
    "update_votes",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'pluralign' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
