"""Trainers of DPRM and their predictions, for the tests of DPRM."""

import torch

from labelled import SCALE
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.dprm.config import DPRMConfig
from pluralign.training.dprm.trainer import DPRMTrainer

LOSSES = ("ot", "w1", "energy", "ce")


def make(folder, judgments, tmp_path, evaluated=None, peft_config=None, scale=SCALE, seed=0, **values):
    """A trainer of DPRM on a new label model from a folder."""
    torch.manual_seed(seed)
    built = build_reward_model(folder, label_scale=scale)
    defaults = {
        "output_dir": str(tmp_path),
        "per_device_train_batch_size": 12,
        "learning_rate": 1e-3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    args = DPRMConfig(**{**defaults, **values})
    return DPRMTrainer(
        built.model,
        args=args,
        train_dataset=judgments,
        eval_dataset=evaluated,
        processing_class=built.tokenizer,
        peft_config=peft_config,
    )


def predictions(trainer):
    """The predicted distributions of the training items, in the order of the crowd's."""
    items = trainer.crowd.items()
    return trainer.distributions(items)[items.response]
