"""Who judges for the types: the judges that choose, and those that measure what was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pluralign.judgments.reading import read
from pluralign.judgments.renames import Columns
from pluralign.policies.best_of import reward_model_judges
from pluralign.scoring.mixtures import Mixture, read_responsibilities
from pluralign.scoring.type_judges import FeatureJudge, TypeJudges, fit_feature_judge

LEAST_HELD_OUT = 30
"""Held-out judgments of each type, weighted by responsibilities, from which a second judge is fitted."""


@dataclass(frozen=True)
class Judges:
    """The judges of the types.

    Args:
        choosing: choose weights and responses; None leaves that to the types' own policies.
        measuring: measure win rates; the same where no other can be had.
        stored: what a `best-of` folder keeps of those that choose: a fitted judge, or reward models by type.
        name: who measures, in words.
        warning: why the measured rates may flatter, or None.
    """

    choosing: TypeJudges | None
    measuring: TypeJudges | None
    stored: FeatureJudge | Mapping[str, str] | None
    name: str
    warning: str | None = None


def judges_from(
    run: Path,
    mixture: Mixture,
    reward_models: Mapping[str, str] | None,
    train_files: Sequence[str],
    held_out: Sequence[str],
    scale: str | None,
    seed: int,
    trust_remote_code: bool,
    columns: Columns | None = None,
) -> Judges:
    """The given reward models; else judges fitted to the judgments of a run; else none."""
    if reward_models is not None:
        models = reward_model_judges(reward_models, trust_remote_code=trust_remote_code)
        return Judges(models, models, reward_models, "reward models")
    if not train_files:
        return Judges(None, None, None, "the types' own policies")
    posteriors = read_responsibilities(run, len(mixture.weights))
    first = fit_feature_judge(read(train_files, scale, columns), posteriors, mixture.weights, seed=seed)
    second = second_judge(held_out, scale, posteriors, mixture.weights, seed, columns)
    if second is not None:
        return Judges(first, second, first, "words and traits, fitted to held-out judgments")
    warning = (
        "The judges that choose also measure, which flatters best-of: give the run held-out judgments (eval_files), at "
        f"least {LEAST_HELD_OUT} by each type's annotators."
    )
    return Judges(first, first, first, "words and traits", warning)


def second_judge(
    files: Sequence[str],
    scale: str | None,
    posteriors: Mapping[str, np.ndarray],
    shares: Mapping[str, float],
    seed: int,
    columns: Columns | None = None,
) -> FeatureJudge | None:
    """Judges fitted to held-out judgments, which measure what those of the training judgments chose.

    A judge that chose among responses likes the chosen ones for its own errors too; another one does not share them.
    None where a type has fewer than `LEAST_HELD_OUT` held-out judgments.
    """
    if not files:
        return None
    judgments, prior = read(files, scale, columns), np.array(list(shares.values()))
    counts = sum((posteriors.get(str(name), prior) for name in judgments.column("annotator")), np.zeros(len(prior)))
    return fit_feature_judge(judgments, posteriors, shares, seed=seed) if min(counts) >= LEAST_HELD_OUT else None
