"""A crowd's labels on responses: targets for a model that predicts their distribution, and metrics of predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from transformers.utils import logging

from pluralign.choice.label_costs import LabelCost
from pluralign.choice.transport import expected_reward, reward_quantile, reward_variance
from pluralign.core.errors import PluralignError
from pluralign.core.files import write_parquet
from pluralign.evaluation.crowds.distributions import Votes, evaluate_distributions, log_loss_gain
from pluralign.evaluation.crowds.pairwise import pairwise_calibration
from pluralign.evaluation.crowds.vote_slices import VoteSlice, sliced_votes, time_names
from pluralign.evaluation.intervals import annotator_ids
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import schema
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes import VoteState, item_key, votes_of
from pluralign.scoring.group_heads import Groups
from pluralign.scoring.items import Items, items_of_responses

logger = logging.get_logger(__name__)

CROWDS = "crowds.parquet"
"""The file of a run or an evaluation that holds predictions beside votes."""

QUANTILES = (0.1, 0.5, 0.9)
"""The quantiles of the labels' rewards that `score` writes."""

ARRAYS = ("distribution", "counts", "low", "high")
"""The fields of a crowd that have a row for each item."""

PriorStrength = float | Literal["labels", "estimated"]
"""Votes that the uniform prior counts as in a target: a number, one per label, or the most likely number."""

Predict = Callable[[Items], np.ndarray]
"""The texts of items to distributions `(responses, labels)`."""

Baselines = Callable[[Items], Mapping[str, np.ndarray]]
"""The texts of items to predictions of each baseline, `(items, labels)`."""


@dataclass(frozen=True)
class Crowd:
    """The votes on distinct responses. An item is a (prompt, response) pair with at least one vote.

    Args:
        prompt: `(items,)` texts or lists of messages.
        response: `(items,)`.
        distribution: `(items, labels)` the training target: shares of the votes, or the posterior mean; smoothed.
        counts: `(items, labels)` votes by label, as counted by the posterior.
        low: `(items, labels)` lower bound of each share's credible interval (95 %).
        high: `(items, labels)` its upper bound.
        scale: the labels and their rewards.
    """

    prompt: list[Any]
    response: list[Any]
    distribution: np.ndarray
    counts: np.ndarray
    low: np.ndarray
    high: np.ndarray
    scale: LabelScale

    @property
    def votes(self) -> np.ndarray:
        """Votes on each item: `(items,)`."""
        return np.asarray(self.counts.sum(1))

    @property
    def keys(self) -> list[tuple[str, ...]]:
        """The key of each item, as in a vote state."""
        return [item_key(*texts) for texts in zip(self.prompt, self.response, strict=True)]

    def of_items(self, rows: Sequence[int]) -> Crowd:
        """The crowd of some items, in this order."""
        arrays = {name: getattr(self, name)[list(rows)] for name in ARRAYS}
        prompt, response = [self.prompt[row] for row in rows], [self.response[row] for row in rows]
        return Crowd(prompt, response, **arrays, scale=self.scale)

    def items(self, weight: np.ndarray | None = None) -> Items:
        """The texts; item j is judgment j, which shows one response, with weight 1 or `weight[j]`."""
        return items_of_responses(self.prompt, self.response, np.ones(len(self.prompt)) if weight is None else weight)


def crowd_of(
    judgments: Judgments, *, strength: PriorStrength = 0.0, smoothing: float = 0.0, cost: LabelCost | None = None
) -> Crowd:
    """The crowd of a table's labels; rows without a label are left out.

    Args:
        judgments: the table.
        strength: of the uniform prior in the targets, in votes: a number, `labels` for one vote per label, or
            `estimated` (`pluralign.choice.dirichlet.estimated_strength`). At 0, the targets are the shares of the
            votes, and intervals have the estimated prior.
        smoothing: as in `VoteState.targets`.
        cost: decides between tied runners-up in smoothing.

    Raises:
        PluralignError: the table has no labels.

    Examples:
        >>> from pluralign.judgments import BUILT_IN_SCALES
        >>> row = {"prompt": "Tea?", "responses": ["Yes", "No"]}
        >>> rows = [row | {"labels": ["1", "0"]}, row | {"labels": ["1", None]}]
        >>> crowd = crowd_of(Judgments.from_rows(rows, BUILT_IN_SCALES["binary"]), strength=2.0)
        >>> crowd.response, crowd.counts.tolist(), crowd.distribution.round(3).tolist()
        (['Yes', 'No'], [[0.0, 2.0], [1.0, 0.0]], [[0.25, 0.75], [0.667, 0.333]])
    """
    labelled = [any(label is not None for label in labels or ()) for labels in judgments.column("labels")]
    if judgments.label_scale is None or not any(labelled):
        raise PluralignError("the judgments have no labels, which are a crowd's votes: import them with a label scale")
    if not all(labelled):
        logger.warning(f"{labelled.count(False)} row(s) without a label are left out")
    given = None if strength in (0, "labels", "estimated") else float(strength)
    state = votes_of(judgments, strength=given, kind="labels")
    if strength in (0, "estimated"):
        state = state.with_strength()
    return crowd_of_state(state, smoothing=smoothing, cost=cost, prior=strength != 0)


def crowds_by_group(judgments: Judgments, names: Sequence[str], **options: Any) -> tuple[Crowd, np.ndarray]:
    """The crowds of the groups in one: an item is a (prompt, response) and the group of those who voted on it.

    Args:
        judgments: the table; votes of other groups, or of none, are items of no group.
        names: the groups.
        options: as in `crowd_of`.

    Returns:
        The crowd, and the number of each item's group, one past the last for none: `(items,)`.

    Raises:
        PluralignError: the table has no labels.
    """
    number = {name: place for place, name in enumerate(names)}
    of_row = np.array([number.get(name, len(names)) for name in judgments.column("group")], dtype=np.int64)
    voted = np.array([any(label is not None for label in labels or ()) for labels in judgments.column("labels")])
    present = np.unique(of_row[voted]).tolist()
    crowds = [crowd_of(judgments.select(np.flatnonzero(of_row == place).tolist()), **options) for place in present]
    if not crowds:
        return crowd_of(judgments, **options), of_row  # raises
    return _joined(crowds, present)


def crowds_of_strata(
    state: VoteState, judgments: Judgments, names: Sequence[str], **options: Any
) -> tuple[Crowd, np.ndarray]:
    """The crowds of a vote state's strata in one, as `crowds_by_group` gives those of a table's groups.

    Args:
        state: post-stratified, so that it keeps the votes of its strata apart.
        judgments: the table that names the items.
        names: the strata.
        options: as in `crowd_of_state`.

    Raises:
        PluralignError: the state counts pairs, has no such stratum, or holds no vote on an item of the table.
    """
    wanted = set(crowd_of_state(state, judgments, **options).keys)
    crowds, present = [], []
    for place, name in enumerate(names):
        part = state.of_stratum(name)
        if part.voted.any():
            crowd = crowd_of_state(part, **options)
            crowds.append(crowd.of_items([row for row, key in enumerate(crowd.keys) if key in wanted]))
            present.append(place)
    return _joined(crowds, present)


def _joined(crowds: Sequence[Crowd], groups: Sequence[int]) -> tuple[Crowd, np.ndarray]:
    """The items of some groups' crowds in one crowd, and the group of each."""
    joined = {name: np.concatenate([getattr(crowd, name) for crowd in crowds]) for name in ARRAYS}
    prompt, response = ([text for crowd in crowds for text in getattr(crowd, key)] for key in ("prompt", "response"))
    group = np.repeat(groups, [len(crowd.prompt) for crowd in crowds])
    return Crowd(prompt, response, **joined, scale=crowds[0].scale), group


def group_gain(judgments: Judgments, groups: Groups, predict: Predict, seed: int = 0) -> dict[str, float]:
    """By how much a model's predictions for groups are better than its prediction for the population.

    Args:
        judgments: the table.
        groups: those that the model tells apart.
        predict: texts to predictions for the groups, `(responses, groups, labels)`.
        seed: seed of the bootstrap.

    Returns:
        `group_items`, the number of (response, group) with votes; `gain_of_groups`, the mean over them of
        sum_k s_k log(mu_gk / mu_k), in nats per vote, with its interval over prompts and annotators;
        `gain_of_groups/group=NAME`, the same for one group. Empty without votes of these groups.
    """
    names = groups.names
    crowd, group = crowds_by_group(judgments, names)
    kept = group < len(names)
    if not kept.any():
        return {}
    items = crowd.items()
    by_group = predict(items)[items.response]
    own = by_group[np.arange(len(group)), np.minimum(group, len(names) - 1)]
    common = np.einsum("g,igl->il", np.array(groups.shares), by_group)
    voters = voters_of(judgments, crowd, names, group)
    metrics = {"group_items": float(kept.sum())}
    places = {"": kept} | {f"/group={name}": group == place for place, name in enumerate(names)}
    for key, rows in places.items():
        if rows.any():
            found = log_loss_gain(
                own[rows], common[rows], crowd.counts[rows], items.prompt[rows], voters=voters.of_items(rows), seed=seed
            )
            metrics |= {name.replace("gain", "gain_of_groups", 1) + key: value for name, value in found.items()}
    return metrics


def crowd_of_state(
    state: VoteState,
    judgments: Judgments | None = None,
    *,
    smoothing: float = 0.0,
    cost: LabelCost | None = None,
    prior: bool = True,
) -> Crowd:
    """The crowd of a vote state of labels, for all its items with a vote; with `prior`, targets are posterior means.

    With `judgments`, only items whose texts are in that table are kept, and a warning counts its texts without a vote.
    `smoothing` and `cost` are as in `crowd_of`.

    Raises:
        PluralignError: the state counts pairs, or no item is left.
    """
    if state.kind != "labels":
        raise PluralignError("vote_state: holds votes on pairs, expected labels of single responses")
    targets = state.targets(smoothing, None if cost is None else cost.matrix, prior=prior)
    counts = state.crowd[state.voted if prior else state.votes > 0]
    crowd = Crowd(
        targets.prompt, targets.response, targets.distribution, counts, targets.low, targets.high, targets.scale
    )
    if judgments is not None:
        crowd = crowd.of_items(_known(crowd.keys, judgments))
    if not crowd.prompt:
        raise PluralignError("no item is left: no response has a vote")
    return crowd


def crowd_metrics(
    crowd: Crowd,
    predicted: np.ndarray,
    slices: Iterable[VoteSlice] = (),
    replicates: int = 0,
    seed: int = 0,
    voters: Votes | None = None,
) -> dict[str, float]:
    """Metrics of predictions, from `pluralign.evaluation.crowds.distributions.evaluate_distributions`.

    The log-loss of votes is named `vote_log_loss`, since `log_loss` is that of pairs. Costs are
    |R_i - R_j| + 0.1 [i != j] whatever the training cost was, so that models can be compared.

    Args:
        crowd: the votes.
        predicted: `(items, labels)`.
        slices: of the votes.
        replicates: bootstrap draws; 0 omits the intervals.
        voters: the single votes, which extend the intervals from prompts to annotators.

    Examples:
        >>> from pluralign.judgments import BUILT_IN_SCALES
        >>> row = {"prompt": "Tea?", "responses": ["Yes"], "labels": ["1"]}
        >>> crowd = crowd_of(Judgments.from_rows([row] * 3, BUILT_IN_SCALES["binary"]))
        >>> metrics = crowd_metrics(crowd, np.array([[0.25, 0.75]]))
        >>> metrics["items"], metrics["total_variation"], round(metrics["vote_log_loss"], 3)
        (1, 0.25, 0.288)
    """
    votes = (crowd.counts, crowd.scale.rewards, crowd.items().prompt)
    metrics = evaluate_distributions(predicted, *votes, slices=slices, replicates=replicates, seed=seed, voters=voters)
    del metrics["left_out"]  # every item of a crowd has a vote
    return {f"vote_{key}" if key.startswith("log_loss") else key: value for key, value in metrics.items()}


def _known(keys: Sequence[Any], judgments: Judgments) -> list[int]:
    """Indices of the items whose texts are in a table, in the table's order."""
    place = {key: number for number, key in enumerate(keys)}
    shown = {item_key(row["prompt"], text): None for row in judgments.rows() for text in row["responses"]}
    unvoted = sum(key not in place for key in shown)
    if unvoted:
        logger.warning(f"vote_state: {unvoted} of {len(shown)} responses have no votes in it and are left out")
    return [place[key] for key in shown if key in place]


def check_labels(found: LabelScale, expected: LabelScale, place: str) -> None:
    """Raise a `PluralignError` if votes do not use the labels, and rewards of labels, that a model predicts."""
    if found.same_labels(expected):
        return
    missing = [label for label in found.labels if label not in expected.labels]
    if missing:
        fault = f"the label '{missing[0]}' is not one of the model's ({', '.join(expected.labels)})"
    elif found.labels != expected.labels:
        fault = f"labels are {', '.join(found.labels)}, and the model's {', '.join(expected.labels)}"
    else:
        fault = f"labels are worth {list(found.rewards)}, and the model was trained with {list(expected.rewards)}"
    raise PluralignError(f"{place}: {fault}: give votes on the scale '{expected.name}' of the model")


@dataclass(frozen=True)
class CrowdResult:
    """Predictions compared with votes.

    Args:
        metrics: flat, as in `metrics.json`.
        predicted: `(items, labels)` in the crowd's order.
        table: the rows of `crowds.parquet`.
    """

    metrics: dict[str, Any]
    predicted: np.ndarray
    table: pa.Table

    def write(self, folder: Path) -> None:
        """Write `crowds.parquet`, as `crowds_table` describes it."""
        write_parquet(self.table, folder / CROWDS)


def evaluate_crowd(
    judgments: Judgments, crowd: Crowd, predict: Predict, seed: int = 0, baselines: Baselines | None = None
) -> CrowdResult:
    """Predict every response that was voted on, reading each once, and compare with the votes.

    Args:
        judgments: the table.
        crowd: its votes.
        predict: the model.
        seed: seed of the bootstrap.
        baselines: predictions that the model must beat; they add `baseline_metrics`.
    """
    items = crowd.items()
    predicted = predict(items)[items.response]
    voters = voters_of(judgments, crowd)
    metrics: dict[str, Any] = {
        "judgments": len(judgments),
        "annotators": len(set(judgments.column("annotator")) - {None}),
        "prompts": len(items.prompts),
        "unique_responses": len(items.responses),
    }
    metrics |= crowd_metrics(crowd, predicted, vote_slices(judgments, crowd), 1000, seed, voters)
    votes = (crowd.counts, crowd.scale.rewards, items.prompt)
    metrics |= pairwise_calibration(predicted, *votes, seed=seed)
    if baselines is not None:
        metrics |= baseline_metrics(crowd, predicted, baselines(items), voters, seed)
    return CrowdResult(metrics, predicted, crowds_table(crowd, predicted))


def baseline_metrics(
    crowd: Crowd, predicted: np.ndarray, baselines: Mapping[str, np.ndarray], voters: Votes, seed: int = 0
) -> dict[str, float]:
    """The metrics of baselines, and the model's gain over each.

    Args:
        crowd: the votes.
        predicted: of the model, `(items, labels)`.
        baselines: name to predictions, `(items, labels)`.
        voters: the single votes.
        seed: seed of the bootstrap.

    Returns:
        For each baseline `total_variation/baseline=NAME`, `transport_cost/...`, `vote_log_loss/...`, and
        `gain_over_NAME` with its interval, from `pluralign.evaluation.crowds.distributions.log_loss_gain`.
    """
    metrics: dict[str, float] = {}
    prompt = crowd.items().prompt
    for name, own in baselines.items():
        found = crowd_metrics(crowd, own)
        for key in ("total_variation", "transport_cost", "vote_log_loss"):
            metrics[f"{key}/baseline={name}"] = found[key]
        gain = log_loss_gain(predicted, own, crowd.counts, prompt, voters=voters, seed=seed)
        metrics |= {key.replace("gain", f"gain_over_{name}", 1): value for key, value in gain.items()}
    return metrics


def verdict(metrics: Mapping[str, Any], baseline: str = "marginal") -> str | None:
    """Whether predictions are better than a baseline, as a sentence; `None` if that was not measured.

    Examples:
        >>> verdict({"gain_over_marginal": 0.031, "gain_over_marginal_low": 0.01, "gain_over_marginal_high": 0.05})
        'better than the marginal by 0.0310 [0.0100, 0.0500] nats a vote'
        >>> verdict({"gain_over_marginal": 0.031, "gain_over_marginal_low": -0.01, "gain_over_marginal_high": 0.07})
        'not better than the marginal: 0.0310 [-0.0100, 0.0700] nats a vote'
    """
    key = f"gain_over_{baseline}"
    if f"{key}_low" not in metrics:
        return None
    rival = "logistic regression" if baseline == "logistic" else f"the {baseline}"
    found = f"{metrics[key]:.4f} [{metrics[f'{key}_low']:.4f}, {metrics[f'{key}_high']:.4f}] nats a vote"
    if metrics[f"{key}_low"] > 0:
        return f"better than {rival} by {found}"
    return f"not better than {rival}: {found}"


def verdicts(metrics: Mapping[str, Any]) -> list[str]:
    """The `verdict` on each baseline that proper scores compare: the marginal and the logistic regression."""
    found = (verdict(metrics, name) for name in ("marginal", "logistic"))
    return [one for one in found if one is not None]


def vote_slices(judgments: Judgments, crowd: Crowd) -> Iterator[VoteSlice]:
    """The votes of each source, each group, and each month, where there are several."""
    votes = _single_votes(judgments, crowd)
    rows = [row for _, _, row in votes]
    times = [None if row["time"] is None else row["time"].replace(tzinfo=None) for row in rows]
    months = time_names(np.array(times, dtype="datetime64[s]"))
    columns = {name: [row[name] for row in rows] for name in ("source", "group")} | {"time": months}
    several = {name: values for name, values in columns.items() if len(set(values) - {None}) > 1}
    return sliced_votes(
        [item for item, _, _ in votes],
        [label for _, label, _ in votes],
        len(crowd.prompt),
        len(crowd.scale.labels),
        several,
        [row["weight"] for row in rows],
    )


def voters_of(judgments: Judgments, crowd: Crowd, names: Sequence[str] = (), group: np.ndarray | None = None) -> Votes:
    """The votes of a table on the items of a crowd, or of the crowds of groups as `crowds_by_group` gives them."""
    votes = _single_votes(judgments, crowd, names, group)
    return Votes(
        np.array([item for item, _, _ in votes], dtype=np.int64),
        np.array([label for _, label, _ in votes], dtype=np.int64),
        annotator_ids([row["annotator"] for _, _, row in votes]),
        np.array([row["weight"] for _, _, row in votes], dtype=np.float64),
    )


def _single_votes(
    judgments: Judgments, crowd: Crowd, names: Sequence[str] = (), group: np.ndarray | None = None
) -> list[tuple[int, int, dict[str, Any]]]:
    """Item, label and row of each vote on an item of the crowd, or of the crowds of groups."""
    of_item = [0] * len(crowd.prompt) if group is None else group.tolist()
    keys = zip(map(item_key, crowd.prompt, crowd.response), of_item, strict=True)
    place = {key: number for number, key in enumerate(keys)}
    of_name = {name: number for number, name in enumerate(names)}
    label_of = {label: number for number, label in enumerate(crowd.scale.labels)}
    return [
        (place[key], label_of[label], row)
        for row in judgments.rows()
        for text, label in zip(row["responses"], row["labels"] or (), strict=False)
        # The crowd holds no item whose votes all have weight 0.
        if label is not None
        and (key := (item_key(row["prompt"], text), of_name.get(row["group"], len(names)))) in place
    ]


def crowds_table(crowd: Crowd, predicted: np.ndarray) -> pa.Table:
    """One row for each item: texts, `votes`, and for each label four columns.

    `voted_LABEL` is the label's share of the votes, `low_LABEL` and `high_LABEL` the 95 % credible interval of that
    share in the population, `predicted_LABEL` the predicted share. `expected_reward` and `variance` are those of the
    prediction.

    Args:
        crowd: the votes.
        predicted: `(items, labels)`.

    Examples:
        >>> from pluralign.judgments import BUILT_IN_SCALES
        >>> row = {"prompt": "Tea?", "responses": ["Yes"], "labels": ["1"]}
        >>> crowd = crowd_of(Judgments.from_rows([row] * 3, BUILT_IN_SCALES["binary"]))
        >>> table = crowds_table(crowd, np.array([[0.25, 0.75]]))
        >>> table.select(["votes", "voted_1", "predicted_1", "expected_reward", "variance"]).to_pylist()
        [{'votes': 3.0, 'voted_1': 1.0, 'predicted_1': 0.75, 'expected_reward': 0.75, 'variance': 0.1875}]
    """
    texts = schema("text" if isinstance(crowd.prompt[0], str) else "messages").field("prompt").type
    voted = crowd.counts / np.maximum(crowd.votes, np.finfo(float).tiny)[:, None]
    columns: dict[str, Any] = {
        "prompt": pa.array(crowd.prompt, type=texts),
        "response": pa.array(crowd.response, type=texts),
        "votes": crowd.votes,
    }
    for name, shares in (("voted", voted), ("low", crowd.low), ("high", crowd.high), ("predicted", predicted)):
        columns |= {f"{name}_{label}": shares[:, place] for place, label in enumerate(crowd.scale.labels)}
    return pa.table(columns | _moments(crowd.scale, predicted))


def prediction_columns(scale: LabelScale, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """The columns that `score` writes for predictions `(responses, labels)`: name to `(responses,)`.

    Examples:
        >>> from pluralign.judgments import BUILT_IN_SCALES
        >>> columns = prediction_columns(BUILT_IN_SCALES["binary"], np.array([[0.25, 0.75]]))
        >>> {name: column.tolist() for name, column in columns.items()}
        {'probability_0': [0.25], 'probability_1': [0.75], 'expected_reward': [0.75], 'variance': [0.1875],
         'quantile_0.1': [0.0], 'quantile_0.5': [1.0], 'quantile_0.9': [1.0]}
    """
    mu, rewards = torch.from_numpy(predicted), torch.tensor(scale.rewards, dtype=torch.float64)
    columns = {f"probability_{label}": predicted[:, place] for place, label in enumerate(scale.labels)}
    columns |= _moments(scale, predicted)
    return columns | {f"quantile_{q}": reward_quantile(mu, rewards, q).numpy() for q in QUANTILES}


def _moments(scale: LabelScale, predicted: np.ndarray) -> dict[str, np.ndarray]:
    mu, rewards = torch.from_numpy(predicted), torch.tensor(scale.rewards, dtype=torch.float64)
    return {"expected_reward": expected_reward(mu, rewards).numpy(), "variance": reward_variance(mu, rewards).numpy()}


def labels_anything(judgments: Judgments) -> bool:
    """Whether any row has a label."""
    return any(label is not None for labels in judgments.column("labels") for label in labels or ())
