"""The folders of the policies that `aggregate` builds."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from pluralign.core.files import atomic_folder
from pluralign.policies.best_of import write_best_of
from pluralign.policies.merging import write_merged
from pluralign.policies.mixture import MixturePolicy
from pluralign.scoring.mixtures import Mixture, base_of
from pluralign.scoring.type_judges import FeatureJudge
from pluralign.workflows.aggregate.tuning import BEST_OF, MERGE, MIXTURE, POOLED, Tuned


def write_policies(
    folder: Path,
    source: Path,
    policy: MixturePolicy,
    tuned: Tuned,
    offer: Sequence[str],
    candidates: int,
    judges: FeatureJudge | Mapping[str, str] | None,
) -> dict[str, Path]:
    """Write every policy that was tuned, completely or not at all; returns their folders by name."""
    mixture = policy.mixture
    built: dict[str, Path] = {}
    if MIXTURE in offer:
        built[MIXTURE] = folder / MIXTURE
        write_mixture(source, built[MIXTURE], mixture, np.array(tuned.mixtures[MIXTURE]))
    if tuned.merge is not None:
        built[MERGE] = folder / MERGE
        with atomic_folder(built[MERGE]) as partial:
            write_merged(policy, dict(zip(mixture.weights, tuned.merge, strict=True)), partial)
    if tuned.pooled is not None:
        built[POOLED] = folder / POOLED
        write_mixture(source, built[POOLED], replace(mixture, combination="pooled"), np.array(tuned.pooled))
    if tuned.best_of is not None and judges is not None:
        built[BEST_OF], best = folder / BEST_OF, tuned.best_of
        weights = None if best.weights is None else dict(zip(mixture.weights, best.weights, strict=True))
        base = base_of(source / next(iter(mixture.weights)))
        with atomic_folder(built[BEST_OF]) as partial:
            write_best_of(
                policy, partial, base=base, n=candidates, weights=weights, judges=judges, yardstick=best.yardstick
            )
    return built


def write_mixture(run: Path, out: Path, mixture: Mixture, weights: np.ndarray) -> None:
    """Write the folder of a mixture with other weights: copies of all adapters, completely or not at all."""
    shares = dict(zip(mixture.weights, weights.tolist(), strict=True))
    with atomic_folder(out) as folder:
        for name in shares:
            # File by file: the error of `copytree` hides why the disk refused a file.
            for file in sorted(path for path in (run / name).rglob("*") if path.is_file()):
                target = folder / file.relative_to(run)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)
        replace(mixture, weights=shares).write(folder)
