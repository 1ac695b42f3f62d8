"""Rankings by annotators of several types and trainers of EM-DPO, for the tests of EM-DPO."""

import random

import peft
import torch

from pluralign.judgments import Judgments
from pluralign.training.dpo import DPOConfig, DPOTrainer
from pluralign.training.em_dpo.config import EMDPOConfig
from pluralign.training.em_dpo.trainer import EMDPOTrainer

LIKED = ("tea", "milk", "rain")
OTHERS = ("good", "bad", "cat", "dog")


def people(annotators=8, each=6, shown=3, types=2, seed=0, **columns):
    """Strict rankings, each of new texts. Annotators of type k like the k-th word and belong to group `g(k + 1)`."""
    draw, rows = random.Random(seed), []
    for person in range(annotators):
        for turn in range(each):
            texts = [" ".join(draw.choices(LIKED + OTHERS, k=5)) + f" {person}.{turn}.{n}" for n in range(shown)]
            scores = [text.split().count(LIKED[person % types]) + draw.random() / 2 for text in texts]
            row = {
                "prompt": f"Say something about number {draw.randrange(6)}:",
                "responses": texts,
                "ranks": [1 + sum(other > score for other in scores) for score in scores],
                "annotator": f"w{person}",
                "group": f"g{person % types + 1}",
            }
            rows.append(row | {name: value(person, turn) for name, value in columns.items()})
    return rows


def lora(dropout=0.0):
    """A small adapter on all linear layers."""
    return peft.LoraConfig(r=2, lora_dropout=dropout, target_modules="all-linear")


def make(model, judgments, folder, *, dropout=0.0, evaluated=None, plain=False, callbacks=None, **values):
    """A trainer of EM-DPO, or of DPO where `plain`."""
    defaults = {
        "output_dir": str(folder),
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
        "learning_rate": 3e-3,
        "beta": 0.5,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    if not plain:
        defaults |= {"types": 2, "start": "groups", "features": "tfidf"}
    kind, config = (DPOTrainer, DPOConfig) if plain else (EMDPOTrainer, EMDPOConfig)
    table = judgments if isinstance(judgments, Judgments) else Judgments.from_rows(judgments)
    torch.manual_seed(0)
    args = config(**{**defaults, **values})
    return kind(
        model, args=args, train_dataset=table, eval_dataset=evaluated, peft_config=lora(dropout), callbacks=callbacks
    )


def losses_of(trainer, m_step=None):
    """The logged losses, of all M-steps or of one."""
    history = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [entry["loss"] for entry in history if m_step is None or entry["m_step"] == m_step]


def tensors_of(trainer, kind):
    """The tensors of one type's adapter (for DPO, of its only adapter), by their names without the adapter's."""
    name = f".type-{kind + 1}." if isinstance(trainer, EMDPOTrainer) else ".default."
    found = {key: weight.detach().clone() for key, weight in trainer.model.named_parameters() if name in key}
    return {key.replace(name, "."): weight for key, weight in found.items()}
