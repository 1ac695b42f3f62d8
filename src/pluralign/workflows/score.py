"""`score`: rewards of responses, and the predictions of models of labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pluralign.core.files import output_file, write_parquet
from pluralign.judgments.inputs import Files
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import Columns
from pluralign.judgments.table import text_columns
from pluralign.scoring.crowd_predictions import prediction_columns
from pluralign.scoring.items import Items, items_of
from pluralign.scoring.reward_models import LabelModel, RewardModel, load_reward_model, mean_rewards

MarginMap = Callable[[np.ndarray], np.ndarray]
"""Margins `(pairs,)` to log-odds."""


def score(
    model: str | os.PathLike[str],
    files: Files,
    out: str | os.PathLike[str],
    *,
    label_scale: str | None = None,
    columns: Columns | None = None,
    raw: bool = False,
    average: Sequence[str | os.PathLike[str]] = (),
    quantile: float | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> int:
    """Score every unique response and write `prompt`, `response`, `reward` to a Parquet file.

    Rewards are those of `RewardModel.score`: divided by the stored temperature, if there is one. For a model that
    predicts labels, further columns are `probability_LABEL` for each label, and `expected_reward`, `variance`,
    `quantile_0.1`, `quantile_0.5` and `quantile_0.9` of the labels' rewards.

    Args:
        model: a run, a model folder, or a hub id.
        files: what `read` takes: files, data sets, frames or rows.
        out: output file: Parquet.
        label_scale: label scale of files that store none.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.
        raw: ignore stored recalibrations.
        average: other reward models; the reward is the mean over all models.
        quantile: for models that predict labels: the reward is this quantile, not the mean.
        revision: branch, tag or commit on the hub.
        trust_remote_code: run Python code that comes with a model.

    Returns:
        The number of responses.

    Raises:
        PluralignError: a file or the model cannot be used.
    """
    given = Inputs(files, columns)
    target = output_file(out, [*given.names, label_scale])
    items = items_of(given.read(label_scale), keep_all=True)
    hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    single = None if average else load_reward_model(model, raw=raw, quantile=quantile, **hub)
    if isinstance(single, LabelModel):
        predicted = single.distributions(items)
        found = {"reward": single.scaled(single.rewards_of(predicted))}
        found |= prediction_columns(single.scale, predicted)
        if single.groups is not None:
            own = single.group_distributions(items)
            for place, name in enumerate(single.groups.names):
                found[f"expected_reward_{name}"] = own[:, place] @ np.array(single.scale.rewards)
    else:
        found = {"reward": rewards_of([model, *average], items, raw, quantile, hub, single)[0]}
    texts = text_columns([items.prompts[index] for index in items.item], items.responses)
    write_parquet(pa.table({**texts, **found}), target)
    return len(items.responses)


def rewards_of(
    names: Sequence[str | os.PathLike[str]],
    items: Items,
    raw: bool,
    quantile: float | None,
    hub: Mapping[str, Any],
    single: RewardModel | None,
) -> tuple[np.ndarray, MarginMap | None, dict[str, float]]:
    """Rewards `(responses,)` of a model or an average of models, the map to apply to margins, and the temperature.

    `single` is the model if there is only one; the models of an average are loaded one after the other. The revision
    in `hub` is that of the first model. `raw` and `quantile` are as in `load_reward_model`.
    """
    if single is not None:
        metrics = {} if single.temperature is None else {"temperature": single.temperature}
        return single.score_items(items), single.margin_map, metrics
    options = [hub, *({**hub, "revision": "main"} for _ in names[1:])]
    loaded = (
        load_reward_model(name, raw=raw, quantile=quantile, **of) for name, of in zip(names, options, strict=True)
    )
    return mean_rewards(loaded, items), None, {}
