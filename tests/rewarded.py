"""Folders of reward models, and judgments of noisy people who follow their rewards."""

from pathlib import Path

import numpy as np
import torch
from scipy.special import expit

from pluralign.judgments import Judgments
from pluralign.scoring.reward_models import RewardModel, build_reward_model, load_reward_model


def write_reward_model(base: Path, folder: Path, seed: int = 0) -> Path:
    """A reward model with a random head on a base, in a folder; its rewards are of size one."""
    built = build_reward_model(base)
    torch.manual_seed(seed)
    with torch.no_grad():
        built.model.score.weight.normal_()
    built.save(folder)
    return folder


def noisy_judgments(folder: Path, rows: list[dict], temperature: float, seed: int = 0, each: int = 3) -> Judgments:
    """Pairs out of rows, won with the probability sigmoid(reward difference / (temperature * their mean size))."""
    model: RewardModel = load_reward_model(folder, raw=True, device="cpu")
    generator = np.random.default_rng(seed)
    pairs, margins = [], []
    for row in rows:
        rewards = model.score(row["prompt"], row["responses"][:2])
        pairs.append((row["prompt"], row["responses"][:2], row["source"]))
        margins.append(rewards[0] - rewards[1])
    sizes = np.array(margins) / np.abs(margins).mean()
    found = []
    for (prompt, responses, source), size in zip(pairs, sizes, strict=True):
        for _ in range(each):
            first = generator.random() < expit(size / temperature)
            ranks = [1, 2] if first else [2, 1]
            found.append({"prompt": prompt, "responses": responses, "ranks": ranks, "source": source})
    return Judgments.from_rows([row | {"annotator": f"a{n}"} for n, row in enumerate(found)])
