"""Folders of mixtures: adapters of types on one base, their weights, and the annotators' responsibilities."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import peft
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pluralign.choice.plackett_luce import Ties
from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors, write_json
from pluralign.scoring.reference import PENALTY, stored_penalty

RESPONSIBILITIES = "responsibilities.parquet"
"""The file of the responsibilities of the annotators that a mixture was trained on."""

MIXTURE = "mixture.json"
"""The file that describes a mixture; its adapters are in folders beside it."""

_ADAPTER = "adapter_config.json"

LossType = Literal["plackett-luce", "sigmoid"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_one(total: float) -> bool:
    return abs(total - 1.0) <= 1e-6


@dataclass(frozen=True)
class Mixture:
    """The contents of `mixture.json`.

    Args:
        weights: adapter name to weight; the weights sum to 1.
        beta: inverse temperature of the adapters' implicit rewards.
        loss_type: `plackett-luce` or `sigmoid`, the likelihood of a ranking in tuning.
        ties: the treatment of equal ranks in tuning.
        top: how many places of a ranking counted in tuning.
        penalty: which part of the reference's log-probability the implicit rewards charge; `kl` is all of it.

    Raises:
        PluralignError: there is no adapter, the weights do not sum to 1, or a setting is unknown.

    Examples:
        >>> Mixture({"type-1": 0.5, "type-2": 0.4})
        Traceback (most recent call last):
        ...
        pluralign.core.errors.PluralignError: weights of a mixture: found {'type-1': 0.5, 'type-2': 0.4}, expected
        shares that sum to 1
    """

    weights: dict[str, float]
    beta: float = 0.1
    loss_type: LossType = "plackett-luce"
    ties: Ties = "efron"
    top: int | None = None
    penalty: Penalty = field(default_factory=lambda: Penalty("kl"))

    def __post_init__(self) -> None:
        shares = list(self.weights.values())
        if not (shares and all(_is_number(share) and share >= 0 for share in shares) and _is_one(sum(shares))):
            raise PluralignError(f"weights of a mixture: found {self.weights}, expected shares that sum to 1")
        if not (_is_number(self.beta) and self.beta > 0):
            raise PluralignError(f"beta of a mixture: found {self.beta!r}, expected a number above 0")
        for name, found, choices in (
            ("loss_type", self.loss_type, get_args(LossType)),
            ("ties", self.ties, get_args(Ties)),
        ):
            if found not in choices:
                raise PluralignError(f"{name} of a mixture: found {found!r}, expected one of {', '.join(choices)}")
        if self.top is not None and (type(self.top) is not int or self.top < 1):
            raise PluralignError(f"top of a mixture: found {self.top!r}, expected a whole number, 1 or more")

    def write(self, folder: Path) -> None:
        """Write `mixture.json`."""
        write_json(folder / MIXTURE, asdict(self))


def read_mixture(folder: str | os.PathLike[str]) -> Mixture:
    """Read and check `mixture.json`.

    Raises:
        PluralignError: the folder holds no mixture or a damaged one, lacks an adapter, or the adapters have different
            bases.
    """
    file = Path(folder) / MIXTURE
    if not file.is_file():
        raise PluralignError(f"{folder}: not a mixture of policies ({MIXTURE} is missing)")
    with disk_errors(file):
        text = file.read_text(encoding="utf-8")
    try:
        given = json.loads(text)
        found = Mixture(**(given | {PENALTY: stored_penalty(given, "mixture")}))
    except PluralignError as fault:
        raise PluralignError(f"{file}: {fault}") from fault
    except (ValueError, TypeError, AttributeError) as fault:  # no JSON, other keys, weights without names
        raise PluralignError(f"{file}: is not a valid mixture ({fault}): write the folder again") from fault
    bases = {name: base_of(Path(folder) / name) for name in found.weights}
    if len(set(bases.values())) > 1:
        raise PluralignError(f"{folder}: the adapters have different bases, expected one: {bases}")
    return found


def base_of(adapter: str | os.PathLike[str]) -> str:
    """The base model of an adapter's folder: a folder or a hub id.

    Raises:
        PluralignError: the folder holds no adapter.
    """
    if not (Path(adapter) / _ADAPTER).exists():
        raise PluralignError(f"{adapter}: not an adapter ({_ADAPTER} is missing)")
    return str(peft.PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)


def is_mixture(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a mixture."""
    return (Path(folder) / MIXTURE).is_file()


def responsibilities_table(names: Sequence[str | None], judgments: np.ndarray, gamma: np.ndarray) -> pa.Table:
    """Responsibilities as a table: `annotator`, `judgments`, `type` (from 1) and `probability_1` ... `_K`.

    Args:
        names: `(annotators,)` ids; `None` for those without.
        judgments: `(annotators,)` number of judgments of each.
        gamma: `(annotators, K)`.

    Examples:
        >>> responsibilities_table(["ann"], np.array([3]), np.array([[0.25, 0.75]])).to_pylist()
        [{'annotator': 'ann', 'judgments': 3, 'type': 2, 'probability_1': 0.25, 'probability_2': 0.75}]
    """
    columns: dict[str, Any] = {
        "annotator": pa.array(names, pa.string()),
        "judgments": judgments,
        "type": gamma.argmax(1) + 1,
    }
    return pa.table(columns | {f"probability_{kind + 1}": gamma[:, kind] for kind in range(gamma.shape[1])})


def read_responsibilities(place: str | os.PathLike[str], types: int | None = None) -> dict[str, NDArray[np.float64]]:
    """Responsibilities `(types,)` by annotator id; annotators without an id are left out.

    Args:
        place: the folder of a run or an audit, or the Parquet file itself.
        types: the expected number of types; `None` accepts any.

    Raises:
        PluralignError: there is no such file, or it has another number of types.
    """
    file = Path(place)
    file = file / RESPONSIBILITIES if file.is_dir() else file
    with disk_errors(file), open(file, "rb") as data:
        try:
            table = pq.read_table(data)
        except pa.ArrowInvalid as fault:
            raise PluralignError(f"{file}: is not a Parquet file ({fault}): run the training again") from fault
    given = [name for name in table.column_names if name.startswith("probability_")]
    columns = [f"probability_{kind + 1}" for kind in range(types or max(len(given), 1))]
    if "annotator" not in table.column_names or given != columns:
        raise PluralignError(
            f"{file}: expected the columns annotator, {', '.join(columns)}, one for each type; "
            f"found {', '.join(table.column_names)}"
        )
    shares = np.stack([table.column(name).to_numpy() for name in columns], 1)
    names = table.column("annotator").to_pylist()
    return {name: own for name, own in zip(names, shares, strict=True) if name is not None}
