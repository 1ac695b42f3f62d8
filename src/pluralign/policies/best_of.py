"""Best of n by the worst type: a policy that draws n candidates and gives the one that serves all types best.

Each type's judge rates the candidates; F_k is the share of a yardstick, responses of the base, that type k likes less
than a candidate, or of the other candidates where there is no yardstick. Chosen is the candidate with the largest
sum_k p_k F_k, p from `best_of_weights`, or with the largest smallest F_k. Shares compare types without comparing their
scales. Candidates come from a base model or from an adapter on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from pluralign.choice.regret import best_of_types, percentiles, standings
from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, write_json
from pluralign.core.records import read_json
from pluralign.core.runs import CONFIG
from pluralign.policies.policy import Policy, Sample
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.reward_models import load_reward_model
from pluralign.scoring.tokens import TokenizedItems
from pluralign.scoring.type_judges import JUDGES, FeatureJudge, ScorerJudges, TypeJudges, read_feature_judge

BEST_OF = "best_of.json"
"""The file that describes a best-of policy."""

NO_LOG_PROB = "has no log-probability of its own: what it says depends on its judges' choice among drawn candidates"
"""What errors say of a best-of policy that is asked for log-probabilities."""

Floats = NDArray[np.float64]

_POINTS = 201


@dataclass(frozen=True)
class BestOfPolicy(Policy):
    """A policy that draws `n` candidates for every response and gives the one that serves all types best.

    The probability of being chosen has no closed form, so the policy gives no log-probabilities; `log_prob` of a sample
    is that of the policy that drew the candidates. Draw responses:

        policy = pluralign.load_policy("runs/together/best-of")
        policy.sample(["Tea?"], n=4, max_new_tokens=32)

    Args:
        n: number of candidates.
        judges: the types' judges.
        weights: p of each type; None chooses by the smallest share.
        yardstick: utilities of responses of the base to each type `(types, points)`, from `yardstick_of`; None compares
            the candidates with each other.
    """

    n: int = 16
    judges: TypeJudges = field(default_factory=lambda: ScorerJudges(()))
    weights: Mapping[str, float] | None = None
    yardstick: Floats | None = None

    def sample(self, prompts: Sequence[Any], *, n: int = 1, **options: Any) -> list[list[Sample]]:
        """As `Policy.sample`; every response is the best of `n` candidates."""
        drawn = Policy(self.model, self.tokenizer, self.limits).sample(prompts, n=n * self.n, **options)
        return best_of_groups(prompts, drawn, self.judges, self.weights, self.n, self.yardstick)

    def values(self, tokens: TokenizedItems, *args: Any, **options: Any) -> np.ndarray:
        """Refused: what the model alone gives is the log-probability of a candidate, not of a response.

        Raises:
            PluralignError: always.
        """
        raise PluralignError(f"a best-of policy {NO_LOG_PROB}; `sample` draws its responses")


def best_of_groups(
    prompts: Sequence[Any],
    drawn: Sequence[Sequence[Sample]],
    judges: TypeJudges,
    weights: Mapping[str, float] | None,
    n: int,
    yardstick: Floats | None = None,
) -> list[list[Sample]]:
    """The best of each `n` successive draws to every prompt."""
    if not prompts:
        return []
    items = items_of_texts(prompts, [[sample.response for sample in group] for group in drawn])
    utilities = judges.utilities(items).reshape(-1, len(prompts), len(drawn[0]) // n, n)
    given = None if weights is None else np.array(list(weights.values()))
    chosen = best_of_types(shares_below(utilities, yardstick), given)  # (prompts, responses)
    return [
        [group[place * n + best] for place, best in enumerate(row)]
        for group, row in zip(drawn, chosen.tolist(), strict=True)
    ]


def yardstick_of(utilities: ArrayLike) -> Floats:
    """Quantiles of the utilities of responses of the base `(types, ...)`, with which candidates are compared.

    Utilities of all prompts stand on one scale, which suits judges that read the response alone.
    """
    table = np.asarray(utilities, dtype=np.float64)
    return np.asarray(np.quantile(table.reshape(len(table), -1), np.linspace(0, 1, _POINTS), axis=1).T)


def shares_below(utilities: ArrayLike, yardstick: ArrayLike | None) -> Floats:
    """F_k of candidates `(types, ..., candidates)`: `standings` on a yardstick, `percentiles` without one."""
    return percentiles(utilities) if yardstick is None else standings(utilities, yardstick)


def write_best_of(
    policy: Policy,
    folder: Path,
    *,
    base: str,
    n: int,
    weights: Mapping[str, float] | None,
    judges: FeatureJudge | Mapping[str, str],
    yardstick: ArrayLike | None = None,
) -> None:
    """Write the folder of a best-of policy.

    Args:
        policy: provides config, token limits and tokenizer.
        folder: where to write.
        base: folder or hub id of the model that draws the candidates.
        n: number of candidates.
        weights: p of each type by name, or None.
        judges: a fitted judge, or the folder of each type's reward model.
        yardstick: as in `BestOfPolicy`.
    """
    policy.model.config.save_pretrained(folder)
    policy.tokenizer.save_pretrained(folder)
    if isinstance(judges, FeatureJudge):
        judges.write(folder)
    with atomic_write(folder / CONFIG, "w") as file:  # names the reference for `evaluate`
        yaml.safe_dump({"command": "aggregate", "model_name_or_path": base}, file)
    models = None if isinstance(judges, FeatureJudge) else dict(judges)
    stored = {"base": base, "n": n, "weights": weights, "reward_models": models}
    write_json(folder / BEST_OF, stored | {"yardstick": None if yardstick is None else np.asarray(yardstick).tolist()})


def is_best_of(folder: Path) -> bool:
    """Whether a folder holds a best-of policy."""
    return (folder / BEST_OF).is_file()


def best_of_files(folder: Path) -> list[Path]:
    """The files of its folder that determine what a best-of policy responds; none in other folders."""
    return [folder / BEST_OF, *folder.glob(JUDGES)] if is_best_of(folder) else []


def read_best_of(folder: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """The model that draws a best-of policy's candidates, and its `n`, `judges`, `weights` and `yardstick`.

    Options are those of `load_reward_model`.
    """
    stored = read_json(folder / BEST_OF)
    models = stored["reward_models"]
    judges: TypeJudges = read_feature_judge(folder) if models is None else reward_model_judges(models, **options)
    given = stored.get("yardstick")
    settings = {"weights": stored["weights"], "yardstick": None if given is None else np.array(given)}
    return str(stored["base"]), {"n": int(stored["n"]), "judges": judges, **settings}


def reward_model_judges(models: Mapping[str, str], **options: Any) -> ScorerJudges:
    """The reward model of each type as its judge."""
    return ScorerJudges([load_reward_model(path, **options) for path in models.values()])
