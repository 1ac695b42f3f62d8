"""`best-of`: n responses of a policy per prompt, and which of them has the highest reward."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write, check_outputs, output_file
from pluralign.evaluation.rewards.best_of import best_answers, best_of_metrics, softmax_answers
from pluralign.judgments.inputs import Files
from pluralign.judgments.messages import plain_text
from pluralign.judgments.paths import TABLE_ENDINGS
from pluralign.judgments.reading import Inputs
from pluralign.judgments.renames import Columns
from pluralign.judgments.table import Judgments, text_columns
from pluralign.policies.loading import load_policy
from pluralign.policies.policy import Sample
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.loading import load_parts
from pluralign.scoring.reward_models import check_quantile, is_reward_model, load_reward_model

logger = logging.get_logger(__name__)

Select = Literal["best", "softmax"]

_MANY_UNFINISHED = 0.1  # above this share of cut responses, fine-tuning on them suffers


def best_of(
    model: str | os.PathLike[str],
    prompts: Files,
    out: str | os.PathLike[str],
    *,
    reward: str | os.PathLike[str],
    n: int = 4,
    select: Select = "best",
    beta: float = 1.0,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    max_prompts: int | None = None,
    finished_only: bool = False,
    quantile: float | None = None,
    label_scale: str | None = None,
    columns: Columns | None = None,
    seed: int = 0,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> dict[str, float]:
    """Sample n responses to every prompt, score them, and write a table of judgments that ranks one of them first.

    With `objective: sft` and `responses: best`, the table gives best-of-n sampling and fine-tuning on the best.
    Policy and reward model are loaded one after the other.

    Args:
        model: policy, as for `load_policy`: a folder, a hub id, an adapter or a mixture.
        prompts: what `read` takes: files, data sets, frames or rows; every unique prompt is used.
        out: output file, `.parquet`, `.jsonl` or `.jsonl.gz`; replaced if it exists. It has a row per prompt: the
            distinct responses in the order of sampling, with rank 1 for the best (also for responses of exactly the
            same reward), or for the one that was drawn, and no rank for the others. All samples are in
            `OUT.answers.parquet`.
        reward: reward model, as for `load_reward_model`.
        n: number of responses per prompt.
        select: `best` keeps the largest reward; `softmax` draws one of the distinct responses with probability
            softmax(r / beta), which is preference matching without training.
        beta: with `softmax`, its temperature, above 0; at 1 odds are the reward's own.
        max_new_tokens: maximum number of tokens of a response.
        temperature: sampling temperature, above 0.
        max_prompts: maximum number of prompts; a random subset if the files have more.
        finished_only: leave out responses that were cut at `max_new_tokens`: fine-tuning on one teaches the policy to
            end in its middle.
        quantile: for reward models that predict labels: the reward is this quantile, not the mean.
        label_scale: label scale of files that store none.
        columns: new names of columns, like `{"annotator_id": "annotator"}`; `None` leaves a column out.
        seed: random seed.
        revision: branch, tag or commit of the policy on the hub.
        trust_remote_code: run Python code that comes with a model.

    Returns:
        `prompts`, `n`, `temperature`, and the metrics of `pluralign.evaluation.rewards.best_of.best_of_metrics`.

    Raises:
        PluralignError: a file or a model cannot be used, an argument is out of range, a reward is not finite, or all
            responses are empty or left out.
    """
    for name, number in {"n": n, "max_new_tokens": max_new_tokens, "max_prompts": max_prompts}.items():
        if number is not None and number < 1:
            raise PluralignError(f"{name}: found {number}, expected 1 or more")
    if not 0 < temperature < math.inf:
        raise PluralignError(f"temperature: found {temperature}, expected a finite number above 0")
    if select not in get_args(Select):
        raise PluralignError(f"select: found {select!r}, expected one of {', '.join(get_args(Select))}")
    if not 0 < beta < math.inf:
        raise PluralignError(f"beta: found {beta}, expected a finite number above 0")
    path = output_file(out, endings=TABLE_ENDINGS)
    every = path.with_name(path.name + ".answers.parquet")
    given = Inputs(prompts, columns)
    check_outputs([path, every], [*given.names, label_scale])
    # Check the reward model before sampling, which takes long.
    config = load_parts(reward, {"trust_remote_code": trust_remote_code})[0]
    if not is_reward_model(config):
        raise PluralignError(f"{reward}: is not a reward model (it has no head with one output): give another one")
    check_quantile(reward, config, quantile)
    texts = given.read(label_scale).unique_prompts(max_prompts, seed)
    policy = load_policy(model, revision=revision, trust_remote_code=trust_remote_code)
    samples = policy.sample(texts, n=n, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    del policy
    left_out = [[finished_only and not sample.finished for sample in group] for group in samples]
    responses = [
        ["" if out else sample.response for out, sample in zip(outs, group, strict=True)]
        for outs, group in zip(left_out, samples, strict=True)
    ]
    reward_model = load_reward_model(reward, quantile=quantile, trust_remote_code=trust_remote_code)
    rewards = _rewards(reward, reward_model.score_items, texts, responses)
    kept = None
    if select == "softmax":
        kept = softmax_answers(rewards, [[_text(one) for one in group] for group in responses], beta, seed)
    best = best_answers(rewards) if kept is None else kept
    reward_name = Path(reward).resolve().name if Path(reward).is_dir() else str(reward)
    rows = best_rows(texts, responses, best, source=f"{select}-of-{n}", annotator=reward_name)
    if not rows:
        raise PluralignError(
            f"{model}: all of its {rewards.size} responses are empty"
            + (f" or cut at {max_new_tokens} tokens: raise --max-new-tokens" if finished_only else "")
            + ": check the policy and its chat template"
        )
    table = _samples_table(texts, samples, rewards, best)
    with atomic_write(every) as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        # Inside, so that an error in either write leaves both files as they were.
        Judgments.from_rows(rows).write(path)
    finished = np.array([[sample.finished for sample in group] for group in samples])
    metrics = {"prompts": len(texts), "n": n, "temperature": temperature, **best_of_metrics(rewards, finished, kept)}
    for warning in _warnings(metrics, max_new_tokens, finished_only):
        logger.warning(warning)
    return metrics


def best_rows(
    prompts: Sequence[Any], responses: Sequence[Sequence[Any]], best: np.ndarray, *, source: str, annotator: str
) -> list[dict[str, Any]]:
    """Rows of a table of judgments, one for each prompt with a response that is not empty.

    `best` `(prompts, n)` says which responses are ranked first.

    Examples:
        >>> drawn, best = ["No", "", "Yes", "No"], np.array([[False, False, True, False]])
        >>> (row,) = best_rows(["Tea?"], [drawn], best, source="best-of-4", annotator="reward")
        >>> row["responses"], row["ranks"]
        (['No', 'Yes'], [None, 1])
    """
    rows = []
    for prompt, group, chosen in zip(prompts, responses, best.tolist(), strict=True):
        ranks: dict[str, int | None] = {}
        distinct: dict[str, Any] = {}
        for response, is_best in zip(group, chosen, strict=True):
            if text := _text(response):
                distinct.setdefault(text, response)
                ranks[text] = 1 if is_best else None
        if distinct:
            row = {"prompt": prompt, "responses": list(distinct.values()), "ranks": list(ranks.values())}
            rows.append(row | {"source": source, "annotator": annotator})
    return rows


def best_of_lines(metrics: Mapping[str, float], select: Select = "best") -> list[str]:
    """The metrics as lines to print."""

    def mean(name: str) -> str:
        error = metrics.get(f"mean_reward/{name}_se")
        return f"{metrics[f'mean_reward/{name}']:.3f}" + ("" if error is None else f" ± {error:.3f}")

    count = f"{metrics['n']:.0f}"
    return [
        f"mean reward over {metrics['rows']:.0f} prompts",
        f"  first response  {mean('first')}",
        f"  all responses   {mean('all')}",
        f"  {f'{select} of {count}':<15} {mean('best')}",
        f"KL divergence from the policy: at most {metrics['kl_bound']:.3f} nats",
        f"unfinished: {100 * metrics['unfinished']:.1f} % of the responses, "
        f"{100 * metrics['unfinished_best']:.1f} % of those ranked first",
    ]


def _rewards(name: object, score: Any, prompts: Sequence[Any], responses: Sequence[Sequence[Any]]) -> np.ndarray:
    """`(prompts, n)`: each distinct response is scored once, so that equal ones have exactly the same reward."""
    distinct = [{text: response for response in group if (text := _text(response))} for group in responses]
    rewards = np.full((len(prompts), len(responses[0])), np.nan)
    scored = [(prompt, list(group.values())) for prompt, group in zip(prompts, distinct, strict=True) if group]
    if not scored:
        return rewards
    values = score(items_of_texts([prompt for prompt, _ in scored], [texts for _, texts in scored]))
    if not np.isfinite(values).all():
        raise PluralignError(f"{name}: some rewards are not finite numbers, so there is no best response")
    next_value = iter(values.tolist())
    for index, (group, texts) in enumerate(zip(responses, distinct, strict=True)):
        reward_of = {text: next(next_value) for text in texts}
        rewards[index] = [reward_of.get(_text(response), np.nan) for response in group]
    return rewards


def _text(response: Any) -> str:
    """A response's text; empty for white space, which a table of judgments cannot hold."""
    text = plain_text(response)
    return text if text.strip() else ""


def _samples_table(
    prompts: Sequence[Any], samples: Sequence[Sequence[Sample]], rewards: np.ndarray, best: np.ndarray
) -> pa.Table:
    flat = [sample for group in samples for sample in group]
    number = np.repeat(np.arange(len(prompts)), rewards.shape[1])
    return pa.table(
        {
            "prompt_number": number,
            **text_columns([prompts[index] for index in number.tolist()], [sample.response for sample in flat]),
            "reward": pa.array(rewards.ravel(), mask=np.isnan(rewards.ravel())),
            "log_prob": pa.array([sample.log_prob for sample in flat], pa.float64()),
            "tokens": [len(sample.token_ids) for sample in flat],
            "finished": [sample.finished for sample in flat],
            "adapter": pa.array([sample.adapter for sample in flat], pa.string()),
            "best": best.ravel(),
        }
    )


def _warnings(metrics: Mapping[str, float], max_new_tokens: int, finished_only: bool) -> list[str]:
    warnings = []
    if metrics["unfinished"] > _MANY_UNFINISHED and not finished_only:
        warnings.append(
            f"{100 * metrics['unfinished']:.0f} % of the responses were cut at {max_new_tokens} tokens, "
            f"{100 * metrics['unfinished_best']:.0f} % of those ranked first. Their rewards are those of incomplete "
            "texts, and a model fine-tuned on them learns to stop in the middle. Raise --max-new-tokens, or leave them "
            "out with --finished-only."
        )
    if metrics["empty_answers"]:
        kind = "empty or cut" if finished_only else "empty"
        warnings.append(
            f"{100 * metrics['empty_answers']:.2g} % of the responses are {kind}: they have no reward and are in no "
            f"row; {metrics['prompts_without_answer']:.0f} prompts have only such responses and no row"
        )
    return warnings
