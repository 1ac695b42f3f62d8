"""Latent types of annotators as sources: a judgment belongs to each by its annotator's responsibilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.judgments.table import Judgments
from pluralign.scoring.annotator_types import annotator_types
from pluralign.scoring.mixtures import read_responsibilities
from pluralign.scoring.panels import annotators_of
from pluralign.training.more.config import MOREConfig

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class SoftSources:
    """The share of each judgment that belongs to each type.

    Args:
        row: `(judgments,)` the row of `shares` of each judgment's annotator.
        shares: `(annotators, types)`; rows sum to 1.
    """

    row: np.ndarray
    shares: np.ndarray


def soft_sources(judgments: Judgments, rows: np.ndarray, args: MOREConfig) -> SoftSources:
    """The types of the annotators of some rows: read from a file, or fitted as a latent-class model.

    An annotator who is not in the file belongs to every type by its mean share.

    Args:
        judgments: the table.
        rows: the rows of the judgments that training reads.
        args: the config.

    Raises:
        PluralignError: the file holds no responsibilities, or the fit is not possible.
    """
    number, keys = annotators_of(judgments, rows)
    known: dict[str | int, np.ndarray] = {}
    if args.responsibilities is None:
        known = _fitted(judgments, args)
    else:
        known.update(read_responsibilities(Path(args.responsibilities)).items())
    if not any(key in known for key in keys):
        raise PluralignError(f"responsibilities: {args.responsibilities} knows none of the {len(keys)} annotators")
    for key, own in known.items():
        if not (np.isfinite(own).all() and own.min() >= 0 < own.sum()):
            raise PluralignError(
                f"responsibilities: those of {key} in {args.responsibilities} are {own.tolist()}, expected shares "
                "of at least 0 with a sum above 0"
            )
    mean_shares: np.ndarray = np.mean(list(known.values()), 0)
    unknown = sum(key not in known for key in keys)
    if unknown:
        logger.warning(
            f"{unknown} of {len(keys)} annotators have no responsibilities; they belong to every type by its share"
        )
    shares = np.stack([known.get(key, mean_shares) for key in keys])
    masses = ", ".join(f"{share:.0%}" for share in shares.mean(0))
    logger.info(f"{shares.shape[1]} types of annotators as sources, with shares {masses}")
    return SoftSources(number, shares / shares.sum(1, keepdims=True))


def _fitted(judgments: Judgments, args: MOREConfig) -> dict[str | int, np.ndarray]:
    options: dict[str, Any] = {"features": args.features, "most_types": args.most_types, "dimensions": args.dimensions}
    found = annotator_types(judgments, types=args.types, **options)
    logger.info(f"types of annotators: {found.verdict.verdict}")
    return dict(zip(found.annotators, np.array(found.responsibilities), strict=True))
