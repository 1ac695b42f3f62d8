"""Adapters of types on one base: what their folder says, and who belongs to which type."""

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
import torch
from numpy.typing import ArrayLike, NDArray

from pluralign.choice.plackett_luce import Ties, log_likelihood, pair_log_likelihood
from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors, write_json
from pluralign.evaluation.pairs import judgment_blocks
from pluralign.scoring.items import Items
from pluralign.scoring.recalibrated import CALIBRATION
from pluralign.scoring.reference import PENALTY, stored_penalty

RESPONSIBILITIES = "responsibilities.parquet"
"""The file of the posteriors of the annotators that a mixture was trained on."""

MIXTURE = "mixture.json"
"""The file of a mixture's folder; its adapters lie beside it, each in a folder of its name."""

_ADAPTER = "adapter_config.json"

_PAIRS_AT_ONCE = 1 << 17

LossType = Literal["plackett-luce", "sigmoid"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_one(total: float) -> bool:
    return abs(total - 1.0) <= 1e-6


@dataclass(frozen=True)
class Mixture:
    """What a mixture's folder says.

    Args:
        weights: of each adapter, by name, summing to 1.
        beta: inverse temperature of the adapters' implicit rewards.
        loss_type: `plackett-luce` or `sigmoid`, the likelihood of a ranking that they were tuned with.
        ties: and what equal ranks meant,
        top: and how many places counted.
        penalty: what of the reference's log-probability is charged in the implicit rewards; `kl` is all of it.

    Raises:
        PluralignError: there is no adapter, the weights are no distribution, or there is no such likelihood.

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
    """What a mixture's folder says.

    Raises:
        PluralignError: the folder holds no mixture, a damaged one, or one that lacks an adapter, or the adapters
            are on several bases.
    """
    file = Path(folder) / MIXTURE
    if not file.is_file():
        raise PluralignError(f"{folder}: no mixture of policies there ({MIXTURE} is missing)")
    with disk_errors(file):
        text = file.read_text(encoding="utf-8")
    try:
        given = json.loads(text)
        found = Mixture(**(given | {PENALTY: stored_penalty(given, "mixture")}))
    except PluralignError as fault:
        raise PluralignError(f"{file}: {fault}") from fault
    except (ValueError, TypeError, AttributeError) as fault:  # no JSON, other keys, weights without names
        raise PluralignError(f"{file}: is not the file of a mixture ({fault}): write the folder again") from fault
    bases = {name: base_of(Path(folder) / name) for name in found.weights}
    if len(set(bases.values())) > 1:
        raise PluralignError(f"{folder}: the adapters are on several bases, expected one: {bases}")
    return found


def base_of(adapter: str | os.PathLike[str]) -> str:
    """The model that an adapter's folder is on: a folder or a hub id.

    Raises:
        PluralignError: no adapter is there.
    """
    if not (Path(adapter) / _ADAPTER).exists():
        raise PluralignError(f"{adapter}: no adapter there ({_ADAPTER} is missing)")
    return str(peft.PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path)


def is_mixture(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder is a mixture's."""
    return (Path(folder) / MIXTURE).is_file()


def responsibilities_table(names: Sequence[str | None], judgments: np.ndarray, gamma: np.ndarray) -> pa.Table:
    """Posterior of each annotator: `annotator`, `judgments`, `type` (from 1) and `probability_1` ... `_K`.

    Args:
        names: `(annotators,)` ids; `None` for those without.
        judgments: `(annotators,)` how many each made.
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
    """Posteriors `(types,)` of annotators, by id; those without an id are left out.

    Args:
        place: the folder of a run or an audit, or the Parquet file itself.
        types: how many types there must be; `None` takes any number.

    Raises:
        PluralignError: there are none, or they are not of so many types.
    """
    file = Path(place)
    file = file / RESPONSIBILITIES if file.is_dir() else file
    with disk_errors(file), open(file, "rb") as data:
        try:
            table = pq.read_table(data)
        except pa.ArrowInvalid as fault:
            raise PluralignError(f"{file}: is no Parquet file ({fault}): run the training again") from fault
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


def ranking_log_likelihoods(utilities: ArrayLike, items: Items, mixture: Mixture) -> NDArray[np.float64]:
    """log P_k of every judgment under utilities, in nats, by the likelihood that a mixture was tuned with.

    Args:
        utilities: of the unique responses, `(types, responses)`.
        items: the judgments.
        mixture: its `loss_type`, `ties` and `top` define the likelihood.

    Returns:
        `(judgments, types)`, without the judgments' weights; 0 where a judgment ranks nothing.

    Raises:
        PluralignError: the mixture's likelihood does not take such ties.

    Examples:
        >>> from pluralign.judgments import Judgments
        >>> from pluralign.scoring.items import items_of
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": ranks} for ranks in ([1, 2], [2, 1])]
        >>> items = items_of(Judgments.from_rows(rows))
        >>> each = ranking_log_likelihoods([[np.log(3.0), 0.0], [0.0, 0.0]], items, Mixture({"a": 0.5, "b": 0.5}))
        >>> np.exp(each).round(3).tolist()
        [[0.75, 0.5], [0.25, 0.5]]
    """
    values = np.asarray(utilities, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(items.responses):
        raise PluralignError(f"utilities: shape {values.shape}, expected (types, {len(items.responses)})")
    log_likelihoods = np.zeros((items.judgments, len(values)))
    # Judgments of one length at a time need no padding; those of a single response carry no information and stay 0.
    for block, places in judgment_blocks(items.offsets, _PAIRS_AT_ONCE):
        shown = torch.from_numpy(values[:, items.response[places]])  # (types, judgments, responses)
        ranks = torch.from_numpy(items.ranks[places])
        try:
            if mixture.loss_type == "sigmoid":
                each = pair_log_likelihood(shown, ranks, ties=mixture.ties)
            else:
                each = log_likelihood(shown, ranks, ties=mixture.ties, top=mixture.top)
        except ValueError as fault:
            raise PluralignError(f"the mixture was tuned with ties: {mixture.ties}: {fault}") from fault
        log_likelihoods[block] = each.numpy().T
    return log_likelihoods


def weight_files(model: str | os.PathLike[str], raw: bool = False) -> list[Path]:
    """The files that decide what a local model gives, for a fingerprint; a hub id has none.

    Args:
        model: a folder or a hub id.
        raw: leave the stored recalibration out.
    """
    folder = Path(model)
    if not folder.is_dir():
        return []
    with disk_errors(folder):
        files = sorted(folder.glob("*.safetensors"))
        if not raw:
            files += folder.glob(CALIBRATION)
        if is_mixture(folder):
            files += [folder / MIXTURE, *folder.glob(RESPONSIBILITIES)]
            for name in read_mixture(folder).weights:
                files += sorted((folder / name).glob("*.safetensors"))
        return files
