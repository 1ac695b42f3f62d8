"""Predictions of crowds beside their votes: metrics, comparison with baselines, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pluralign.choice.transport import expected_reward, reward_quantile, reward_variance
from pluralign.core.files import write_parquet
from pluralign.evaluation.crowds.distributions import Votes, evaluate_distributions, log_loss_gain
from pluralign.evaluation.crowds.pairwise import pairwise_calibration
from pluralign.evaluation.crowds.vote_slices import VoteSlice, sliced_votes, time_names
from pluralign.evaluation.intervals import annotator_ids
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import schema
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes import item_key
from pluralign.scoring.crowds import Crowd, crowds_by_group
from pluralign.scoring.group_heads import Groups
from pluralign.scoring.items import Items

CROWDS = "crowds.parquet"
"""The file of a run or an evaluation that holds predictions beside votes."""

QUANTILES = (0.1, 0.5, 0.9)
"""The quantiles of the labels' rewards that `score` writes."""

Predict = Callable[[Items], np.ndarray]
"""The texts of items to distributions `(responses, labels)`."""

Baselines = Callable[[Items], Mapping[str, np.ndarray]]
"""The texts of items to predictions of each baseline, `(items, labels)`."""


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
        >>> from pluralign.scoring.crowds import crowd_of
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
        >>> from pluralign.scoring.crowds import crowd_of
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
