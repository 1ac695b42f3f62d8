"""Folders of mixtures: adapters of types on one base, their weights, and the annotators' responsibilities."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import ArrayLike, NDArray

from pluralign.choice.likelihoods import AnyTies, RankingLikelihood
from pluralign.choice.plackett_luce import NOT_RANKED
from pluralign.choice.preference_matching import Penalty
from pluralign.core.errors import PluralignError
from pluralign.core.files import disk_errors, read_parquet, write_json
from pluralign.core.records import read_json
from pluralign.evaluation.pairs import judgment_blocks
from pluralign.judgments.lettered import Answers
from pluralign.scoring.items import Items
from pluralign.scoring.loading import adapter_base
from pluralign.scoring.recalibrated import CALIBRATION
from pluralign.scoring.reference import PENALTY, stored_penalty

RESPONSIBILITIES = "responsibilities.parquet"
"""The file of the responsibilities of the annotators that a mixture was trained on."""

MIXTURE = "mixture.json"
"""The file that describes a mixture; its adapters are in folders beside it."""

_ADAPTER = "adapter_config.json"

_PAIRS_AT_ONCE = 1 << 17

LossType = Literal["plackett-luce", "sigmoid"]

Combination = Literal["mixture", "pooled"]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Mixture:
    """The contents of `mixture.json`.

    Args:
        weights: adapter name to weight; the weights of a `mixture` sum to 1.
        beta: inverse temperature of the adapters' implicit rewards.
        loss_type: the likelihood of a ranking in tuning.
        ties: the treatment of equal ranks in tuning.
        top: how many places of a ranking counted in tuning.
        penalty: which part of the reference's log-probability the implicit rewards charge; `kl` is all of it.
        combination: `mixture` draws an adapter for every response; `pooled` adds the adapters' logits at every token.
        tie_nu: with `ties: davidson`, the tie parameters of blocks of 2, 3 ... responses, common to all types.
        answers: what the policies respond with: texts, or letters of the options that the prompt lists.

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
    ties: AnyTies = "efron"
    top: int | None = None
    penalty: Penalty = field(default_factory=lambda: Penalty("kl"))
    combination: Combination = "mixture"
    tie_nu: list[float] = field(default_factory=list)
    answers: Answers = "texts"

    def __post_init__(self) -> None:
        for name in self.weights:  # names of folders beside the file
            if name in ("", ".", "..") or any(sign in name for sign in "/\\\0"):
                raise PluralignError(f"weights of a mixture: found {name!r}, expected the name of a folder in it")
        shares = list(self.weights.values())
        numbers = bool(shares) and all(map(_is_number, shares))
        if self.combination == "pooled":
            if not numbers:
                raise PluralignError(f"weights of pooled policies: found {self.weights}, expected finite numbers")
        elif not (numbers and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6):
            raise PluralignError(f"weights of a mixture: found {self.weights}, expected shares that sum to 1")
        if not (_is_number(self.beta) and self.beta > 0):
            raise PluralignError(f"beta of a mixture: found {self.beta!r}, expected a number above 0")
        allowed = {"loss_type": get_args(LossType), "ties": get_args(AnyTies)}
        allowed |= {"combination": get_args(Combination), "answers": get_args(Answers)}
        for name, choices in allowed.items():
            if (value := getattr(self, name)) not in choices:
                raise PluralignError(f"{name} of a mixture: found {value!r}, expected one of {', '.join(choices)}")
        if not all(_is_number(nu) and nu > 0 for nu in self.tie_nu) or bool(self.tie_nu) != (self.ties == "davidson"):
            raise PluralignError(
                f"tie_nu of a mixture: found {self.tie_nu!r}, expected numbers above 0 with davidson alone"
            )
        if self.top is not None and (type(self.top) is not int or self.top < 1):
            raise PluralignError(f"top of a mixture: found {self.top!r}, expected a whole number, 1 or more")

    @property
    def likelihood(self) -> RankingLikelihood:
        """The likelihood of a ranking in tuning."""
        return RankingLikelihood(self.loss_type == "sigmoid", self.ties, self.top, tuple(self.tie_nu))

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
    given = read_json(file)
    try:
        mixture = Mixture(**(given | {PENALTY: stored_penalty(given, "mixture")}))
    except PluralignError as fault:
        raise PluralignError(f"{file}: {fault}") from fault
    except (TypeError, AttributeError) as fault:  # other keys, weights without names
        raise PluralignError(f"{file}: is not a valid mixture ({fault}): write the folder again") from fault
    bases = {name: base_of(Path(folder) / name) for name in mixture.weights}
    if len(set(bases.values())) > 1:
        raise PluralignError(f"{folder}: the adapters have different bases, expected one: {bases}")
    return mixture


def read_types(run: str | os.PathLike[str]) -> Mixture:
    """Read `mixture.json` where each adapter is to be the policy of a type.

    Raises:
        PluralignError: as `read_mixture`, or the folder holds one pooled policy.
    """
    mixture = read_mixture(run)
    if mixture.combination == "pooled":
        raise PluralignError(
            f"{run}: is one pooled policy, whose weights are no shares of annotators: give the em-dpo run that it was "
            "made from"
        )
    return mixture


def base_of(adapter: str | os.PathLike[str]) -> str:
    """The base model of an adapter's folder: a folder or a hub id.

    Raises:
        PluralignError: the folder holds no adapter.
    """
    if not (Path(adapter) / _ADAPTER).exists():
        raise PluralignError(f"{adapter}: not an adapter ({_ADAPTER} is missing)")
    return adapter_base(adapter)


def is_mixture(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a mixture."""
    return (Path(folder) / MIXTURE).is_file()


def responsibilities_table(names: Sequence[str | None], judgments: np.ndarray, gamma: np.ndarray) -> pa.Table:
    """Responsibilities as a table: `annotator`, `judgments`, `type` (from 1) and `probability_1` ... `_K`.

    Args:
        names: `(annotators,)` ids; `None` if an annotator has none.
        judgments: `(annotators,)` number of judgments.
        gamma: `(annotators, K)`.

    Examples:
        >>> responsibilities_table(["ann"], np.array([3]), np.array([[0.25, 0.75]])).to_pylist()
        [{'annotator': 'ann', 'judgments': 3, 'type': 2, 'probability_1': 0.25, 'probability_2': 0.75}]
    """
    probabilities: dict[str, Any] = {f"probability_{kind}": column for kind, column in enumerate(gamma.T, 1)}
    annotator = pa.array(names, pa.string())
    return pa.table({"annotator": annotator, "judgments": judgments, "type": gamma.argmax(1) + 1} | probabilities)


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
    table = read_parquet(file)
    given = [name for name in table.column_names if name.startswith("probability_")]
    columns = [f"probability_{kind + 1}" for kind in range(types or max(len(given), 1))]
    if "annotator" not in table.column_names or given != columns:
        raise PluralignError(
            f"{file}: expected the columns annotator, {', '.join(columns)}, one for each type; "
            f"found {', '.join(table.column_names)}"
        )
    shares = np.stack([table.column(name).to_numpy() for name in columns], 1)
    names = table.column("annotator").to_pylist()
    return {name: gamma for name, gamma in zip(names, shares, strict=True) if name is not None}


def ranking_log_likelihoods(utilities: ArrayLike, items: Items, mixture: Mixture) -> NDArray[np.float64]:
    """log P_k of every judgment under utilities, in nats, by the likelihood used in a mixture's tuning.

    With `sigmoid` a ranking counts as the sum over its pairs: tuning takes their mean, but a posterior multiplies the
    probabilities of everything that was observed.

    Args:
        utilities: of the unique responses, `(types, responses)`.
        items: the judgments.
        mixture: provides the likelihood.

    Returns:
        `(judgments, types)`, without the judgments' weights; 0 where a judgment ranks nothing.

    Raises:
        PluralignError: shapes do not match, or the mixture's likelihood does not allow these ties.

    Examples:
        >>> from pluralign.judgments import Judgments
        >>> from pluralign.scoring.items import items_of
        >>> rows = [{"prompt": "Tea?", "responses": ["Yes", "No"], "ranks": ranks} for ranks in ([1, 2], [2, 1])]
        >>> items = items_of(Judgments.from_rows(rows))
        >>> log_p = ranking_log_likelihoods([[np.log(3.0), 0.0], [0.0, 0.0]], items, Mixture({"a": 0.5, "b": 0.5}))
        >>> np.exp(log_p).round(3).tolist()
        [[0.75, 0.5], [0.25, 0.5]]
    """
    values = np.asarray(utilities, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] != len(items.responses):
        raise PluralignError(f"utilities: shape {values.shape}, expected (types, {len(items.responses)})")
    log_likelihoods = np.zeros((items.judgments, len(values)))
    pairs = pair_counts(items)
    # Judgments are grouped by length, which needs no padding; those of a single response stay 0.
    for block, places in judgment_blocks(items.offsets, _PAIRS_AT_ONCE):
        shown = torch.from_numpy(values[:, items.response[places]])  # (types, judgments, responses)
        ranks = torch.from_numpy(items.ranks[places])
        try:
            log_p = mixture.likelihood(shown, ranks)
            if mixture.loss_type == "sigmoid":
                log_p = log_p * torch.from_numpy(pairs[block])
        except ValueError as fault:
            raise PluralignError(f"the mixture was tuned with ties: {mixture.ties}: {fault}") from fault
        log_likelihoods[block] = log_p.numpy().T
    return log_likelihoods


def pair_counts(items: Items) -> NDArray[np.int64]:
    """Number of pairs in each judgment of which at least one response is ranked: `(judgments,)`.

    Examples:
        >>> from pluralign.judgments import Judgments
        >>> from pluralign.scoring.items import items_of
        >>> shown = {"prompt": "Tea?", "responses": ["a", "b", "c"]}
        >>> judgments = Judgments.from_rows([shown | {"ranks": [1, 2, 3]}, shown | {"ranks": [1, None, None]}])
        >>> pair_counts(items_of(judgments)).tolist()
        [3, 2]
    """
    shown = np.diff(items.offsets)
    unranked = np.bincount(
        np.repeat(np.arange(items.judgments), shown)[items.ranks == NOT_RANKED], minlength=items.judgments
    )
    return np.asarray((shown * (shown - 1) - unranked * (unranked - 1)) // 2)


def weight_files(model: str | os.PathLike[str], raw: bool = False) -> list[Path]:
    """The files that determine what a local model computes, for a fingerprint; a hub id has none.

    Args:
        model: a folder or a hub id.
        raw: exclude the stored recalibration.
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
