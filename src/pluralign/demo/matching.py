"""Whose answers does a policy give? The end of `demo`: a town's own choices beside those of policies.

A kind of people chooses among answers with probability softmax(u) of its true utility u; the people are the mixture
of their kinds. An answer is of the kind that chooses it most, each kind measured by what it makes of all answers
that the town composes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp, softmax

from pluralign.demo.people import CONTEXT
from pluralign.evaluation.policies.divergences import list_divergences, minority_mass
from pluralign.judgments.population import PROMPTS, Simulation, compose
from pluralign.policies.loading import load_policy
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.reward_models import load_reward_model

COMPOSED = 4000
"""Answers over all prompts by which kinds are measured."""

LISTED = 12
"""Composed answers to a question, among which policies and people choose."""

BAR = 20
"""Characters of a bar that is full."""


def log_choices(simulation: Simulation, texts: Sequence[str]) -> np.ndarray:
    """True utilities `(kinds, texts)`, each kind's less the log of the mean of exp(u) over composed answers."""
    rng = np.random.default_rng(0)
    composed = [compose(PROMPTS[rng.integers(len(PROMPTS))], rng).text for _ in range(COMPOSED)]
    found, whole = (np.array([simulation.utilities(text) for text in one]).T for one in (texts, composed))
    return np.asarray(found - (logsumexp(whole, axis=1, keepdims=True) - np.log(COMPOSED)))


def shares_of(simulation: Simulation) -> np.ndarray:
    """Shares of the kinds of people: `(kinds,)`."""
    shares = np.array([kind.share for kind in simulation.town.types])
    return np.asarray(shares / shares.sum())


def candidates(prompts: Sequence[str], each: int, seed: int) -> list[list[str]]:
    """Different composed answers to each prompt.

    Examples:
        >>> from pluralign.judgments.population import PROMPTS
        >>> (texts,) = candidates(list(PROMPTS[:1]), 3, seed=0)
        >>> len(set(texts))
        3
    """
    rng = np.random.default_rng([seed, 7])
    found = []
    for prompt in prompts:
        texts: dict[str, None] = {}
        while len(texts) < each:
            texts[compose(prompt, rng).text] = None
        found.append(list(texts))
    return found


def people_choose(simulation: Simulation, texts: Sequence[Sequence[str]]) -> tuple[np.ndarray, np.ndarray]:
    """The log of what share of the people chooses each answer of a list, and whose answer each is.

    Args:
        simulation: knows the people.
        texts: lists of answers, all of one length.

    Returns:
        log of shares and places of kinds, both `(prompts, answers)`.

    Examples:
        >>> from pluralign.judgments.population import PROMPTS, Town, simulate
        >>> town = simulate(Town(annotators=4))
        >>> log_shares, kinds = people_choose(town, candidates(list(PROMPTS[:1]), 5, seed=0))
        >>> log_shares.shape, kinds.shape, round(float(np.exp(log_shares).sum()), 9)
        ((1, 5), (1, 5), 1.0)
    """
    utilities = log_choices(simulation, [text for group in texts for text in group])
    utilities = utilities.reshape(len(utilities), len(texts), -1)
    shares = np.einsum("k,kpa->pa", shares_of(simulation), softmax(utilities, axis=-1))
    return np.log(shares), utilities.argmax(axis=0)


def listed(people: np.ndarray, kinds: np.ndarray, log_probs: np.ndarray) -> dict[str, Any]:
    """Shares of the kinds' answers, distance to the people, and what is kept of their less frequent answers.

    Args:
        people: `(prompts, answers)` log of the people's shares,
        kinds: `(prompts, answers)` whose answer each is, both of `people_choose`.
        log_probs: `(prompts, answers)` log pi(y|x), or anything that differs from it by a number for each prompt.

    Returns:
        `shares` by kind, `total_variation` (mean over prompts), `minority_mass`, and `largest`, the mean share of
        the likeliest answer.

    Examples:
        >>> found = listed(np.log([[0.6, 0.4]]), np.array([[0, 1]]), np.log([[0.9, 0.1]]))
        >>> [round(share, 3) for share in found["shares"]], round(found["total_variation"], 3)
        ([0.9, 0.1], 0.3)
        >>> round(found["minority_mass"], 3)
        0.25
    """
    policy = softmax(log_probs, axis=-1)
    kept, held = minority_mass(people, log_probs)
    return {
        "shares": [float(policy[kinds == kind].sum() / len(policy)) for kind in range(int(kinds.max()) + 1)],
        "total_variation": float(list_divergences(people, log_probs)[2].mean()),
        "minority_mass": float(kept.sum() / held.sum()),
        "largest": float(policy.max(-1).mean()),
    }


def whose_answers(
    simulation: Simulation,
    policies: Mapping[str, Path],
    base: Path,
    reward: Path,
    prompts: Sequence[str],
    seed: int,
) -> dict[str, dict[str, Any]]:
    """What people and policies choose from lists of answers to the same questions; see `listed`.

    Beside the policies two optima over the lists at beta 1, softmax(r + log pi_ref) and softmax(r): what tuning by
    the reward aims at, whatever it reaches.

    Args:
        simulation: knows the people.
        policies: folders, by the name that the table gives them.
        base: the language model that they were tuned from.
        reward: the folder of a reward model.
        prompts: the questions.
        seed: of the lists.
    """
    texts = candidates(prompts, LISTED, seed)
    people, kinds = people_choose(simulation, texts)
    items = items_of_texts(list(prompts), texts)

    def log_probs(folder: Path) -> np.ndarray:
        return load_policy(folder, max_length=CONTEXT).log_probs(items).reshape(len(prompts), -1)

    before = log_probs(base)
    rewards = load_reward_model(reward).score_items(items).reshape(len(prompts), -1)
    aims = {"KL-RLHF, its aim": rewards + before, "matching, its aim": rewards}
    rows = {"the people": people, "language model": before, **aims}
    rows |= {name: log_probs(folder) for name, folder in policies.items()}
    return {name: listed(people, kinds, found) for name, found in rows.items()}


def histograms(simulation: Simulation, found: Mapping[str, Mapping[str, Any]], prompts: int) -> list[str]:
    """A table with a bar for every kind's answers: whom does a policy speak for?

    Args:
        simulation: names the kinds.
        found: of `whose_answers`.
        prompts: how many questions there were.
    """
    width = BAR + 8
    lines = [
        f"Whose answers come? ({LISTED} answers to each of {prompts} questions held out, each of the kind that "
        "chooses it most)",
        "",
        f"{'chosen by':<22}"
        + "".join(f"{kind.name:<{width}}" for kind in simulation.town.types)
        + f"{'off by':>8}{'minority kept':>16}",
    ]
    for name, one in found.items():
        bars = "".join(f"{share:>4.0%} {'#' * round(BAR * share):<{width - 5}}" for share in one["shares"])
        lines.append(f"{name:<22}{bars}{one['total_variation']:>8.2f}{one['minority_mass']:>16.2f}")
    return lines
