"""Judgments from several sources and trainers of MORE, for the tests of MORE."""

import random

import numpy as np
import peft
import torch

from pluralign.judgments import Judgments
from pluralign.scoring.forward import block_values
from pluralign.scoring.probe import plain_model
from pluralign.scoring.reward_models import build_reward_model
from pluralign.training.more.config import MOREConfig
from pluralign.training.more.trainer import MORETrainer

NAMES = ("a", "b", "c")
WORDS = ("good", "bad", "cat", "dog", "tea", "milk", "rain", "sun")


def rows(count=96, names=NAMES, seed=0, **values):
    """Rankings of two to four responses, with ties and weights. All sources like "good"; each also likes its own word."""
    draw = random.Random(seed)
    found = []
    for number in range(count):
        source = number % len(names)
        texts = [
            " ".join(draw.choices(WORDS, k=draw.randint(3, 9))) + f" {number}.{index}"
            for index in range(draw.choice([2, 3, 4]))
        ]
        scores = [2 * text.split().count("good") + text.split().count(WORDS[source + 3]) for text in texts]
        row = {
            "prompt": f"Say something about number {number % 20}:",
            "responses": texts,
            "ranks": [1 + sum(other > score for other in scores) for score in scores],
            "annotator": f"w{number % 9}",
            "source": names[source],
            "weight": 1.0 + number % 2,
        }
        found.append(row | values)
    return found


def make(folder, judgments, output, evaluated=None, peft_config=None, kind=(MOREConfig, MORETrainer), **values):
    """A trainer of MORE, or of another `kind` (config, trainer), on a new reward model from a folder."""
    config, trainer = kind
    torch.manual_seed(0)
    built = build_reward_model(folder)
    with torch.no_grad():  # a head whose rewards differ enough to matter
        built.model.score.weight.mul_(20)
    defaults = {
        "output_dir": str(output),
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }
    if not isinstance(judgments, Judgments | dict):
        judgments = Judgments.from_rows(judgments)
    return trainer(
        built.model,
        config(**{**defaults, **values}),
        train_dataset=judgments,
        eval_dataset=evaluated,
        processing_class=built.tokenizer,
        peft_config=peft_config,
    )


def logged(trainer, key):
    """The logged values of a key, in order."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]


def lambdas(trainer):
    """The logged weights of the sources, `(logs, sources)`."""
    return np.array([logged(trainer, f"weight/source={name}") for name in trainer.sources]).T


def head_gradients(trainer, inputs):
    """Each source's mean loss, that loss's gradient at the head's weights by autograd, and the source's total weight."""
    head = plain_model(trainer.model).score
    weight = head.modules_to_save["default"].weight if isinstance(trainer.model, peft.PeftModel) else head.weight
    values = torch.cat([block_values(trainer.model, block, trainer.layout) for block in inputs["blocks"]])
    losses = trainer._losses(values[inputs["index"]], inputs)
    member = inputs["membership"] * inputs["weight"].unsqueeze(-1)
    means, gradients = [], []
    for mine in member.T:
        mean = (mine * losses).sum() / mine.sum().clamp(min=1e-30)
        gradients.append(torch.autograd.grad(mean, weight, retain_graph=True)[0][0])
        means.append(mean.item())
    return np.array(means), torch.stack(gradients), member.sum(0).numpy()
