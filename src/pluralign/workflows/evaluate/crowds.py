"""Predicted distributions over labels against what people said: metrics, and a table of both side by side."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pluralign.choice.transport import expected_reward, reward_quantile, reward_variance
from pluralign.core.files import write_parquet
from pluralign.evaluation.crowds.vote_slices import VoteSlice, sliced_votes, time_names
from pluralign.judgments.scales import LabelScale
from pluralign.judgments.schema import schema
from pluralign.judgments.table import Judgments
from pluralign.judgments.votes import item_key
from pluralign.scoring.crowds import Crowd, crowd_metrics
from pluralign.scoring.items import Items

CROWDS = "crowds.parquet"
"""The file of a run or an evaluation that holds predictions beside votes."""

QUANTILES = (0.1, 0.5, 0.9)
"""Of the labels' rewards, which `score` writes."""

Predict = Callable[[Items], np.ndarray]
"""The texts of items to distributions `(responses, labels)`."""


@dataclass(frozen=True)
class CrowdResult:
    """Predictions against votes.

    Args:
        metrics: flat, as in `metrics.json`.
        predicted: `(items, labels)` in the crowd's order.
        table: what `crowds.parquet` holds.
    """

    metrics: dict[str, Any]
    predicted: np.ndarray
    table: pa.Table


def crowds_table(crowd: Crowd, predicted: np.ndarray) -> pa.Table:
    """One row for each item: texts, `votes`, and for each label four columns.

    `voted_LABEL` is its share of the votes, `low_LABEL` and `high_LABEL` the 95 % credible interval of its share,
    `predicted_LABEL` its predicted share. `expected_reward` and `variance` are those of the prediction.

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
    mu, rewards = torch.from_numpy(predicted), torch.tensor(crowd.scale.rewards, dtype=torch.float64)
    columns["expected_reward"] = expected_reward(mu, rewards).numpy()
    columns["variance"] = reward_variance(mu, rewards).numpy()
    return pa.table(columns)


def prediction_columns(scale: LabelScale, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """What `score` writes of predictions `(responses, labels)`: columns `(responses,)` by name.

    Examples:
        >>> from pluralign.judgments import BUILT_IN_SCALES
        >>> columns = prediction_columns(BUILT_IN_SCALES["binary"], np.array([[0.25, 0.75]]))
        >>> {name: column.tolist() for name, column in columns.items()}
        {'probability_0': [0.25], 'probability_1': [0.75], 'expected_reward': [0.75], 'variance': [0.1875],
         'quantile_0.1': [0.0], 'quantile_0.5': [1.0], 'quantile_0.9': [1.0]}
    """
    mu, rewards = torch.from_numpy(predicted), torch.tensor(scale.rewards, dtype=torch.float64)
    columns = {f"probability_{label}": predicted[:, place] for place, label in enumerate(scale.labels)}
    columns["expected_reward"] = expected_reward(mu, rewards).numpy()
    columns["variance"] = reward_variance(mu, rewards).numpy()
    return columns | {f"quantile_{q}": reward_quantile(mu, rewards, q).numpy() for q in QUANTILES}


def vote_slices(judgments: Judgments, crowd: Crowd) -> Iterator[VoteSlice]:
    """The votes of each source, each group, and each month, where there are several."""
    keys = map(item_key, crowd.prompt, crowd.response)
    place = {key: number for number, key in enumerate(keys)}
    label_of = {label: number for number, label in enumerate(crowd.scale.labels)}
    votes = [
        (place[key], label_of[label], row)
        for row in judgments.rows()
        for text, label in zip(row["responses"], row["labels"] or (), strict=False)
        # An item whose votes all weigh nothing is none of the crowd's.
        if label is not None and (key := item_key(row["prompt"], text)) in place
    ]
    rows = [row for _, _, row in votes]
    times = [None if row["time"] is None else row["time"].replace(tzinfo=None) for row in rows]
    months = time_names(np.array(times, dtype="datetime64[s]"))
    columns = {name: [row[name] for row in rows] for name in ("source", "group")} | {"time": months}
    several = {name: values for name, values in columns.items() if len(set(values) - {None}) > 1}
    return sliced_votes(
        [item for item, _, _ in votes],
        [label for _, label, _ in votes],
        len(crowd.prompt),
        len(label_of),
        several,
        [row["weight"] for row in rows],
    )


def evaluate_crowd(judgments: Judgments, crowd: Crowd, predict: Predict, seed: int = 0) -> CrowdResult:
    """Predict every response that was voted on and compare with the votes.

    Args:
        judgments: the table.
        crowd: its votes.
        predict: the model; every response is read once.
        seed: of the bootstrap.
    """
    items = crowd.items()
    predicted = predict(items)[items.response]
    metrics: dict[str, Any] = {
        "judgments": len(judgments),
        "annotators": len({name for name in judgments.column("annotator") if name is not None}),
        "prompts": len(items.prompts),
        "unique_responses": len(items.responses),
    }
    metrics |= crowd_metrics(crowd, predicted, vote_slices(judgments, crowd), 1000, seed)
    return CrowdResult(metrics, predicted, crowds_table(crowd, predicted))


def labels_anything(judgments: Judgments) -> bool:
    """Whether any row has a label."""
    return any(label is not None for labels in judgments.column("labels") for label in labels or ())


def write_crowds(folder: Path, found: CrowdResult) -> None:
    """`crowds.parquet`, as `crowds_table` describes it."""
    write_parquet(found.table, folder / CROWDS)
