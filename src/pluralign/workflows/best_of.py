"""`best-of`: of n answers that a policy draws to a prompt, the one that a reward model likes best."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers.utils import logging

from pluralign.core.errors import PluralignError
from pluralign.core.files import atomic_write
from pluralign.evaluation.rewards.best_of import best_answers, best_of_metrics
from pluralign.judgments.schema import schema
from pluralign.judgments.table import Judgments
from pluralign.policies.loading import load_policy
from pluralign.policies.policy import Sample
from pluralign.scoring.items import items_of_texts
from pluralign.scoring.loading import load_parts
from pluralign.scoring.reward_models import check_quantile, is_reward_model, load_reward_model
from pluralign.workflows.aggregate.answers import unique_prompts

logger = logging.get_logger(__name__)

_MANY = 0.1  # of the answers unfinished: from here on what is learned from them suffers


def best_of(
    model: str | os.PathLike[str],
    prompts: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    reward: str | os.PathLike[str],
    n: int = 4,
    max_new_tokens: int = 128,
    temperature: float = 1.0,
    max_prompts: int | None = None,
    quantile: float | None = None,
    label_scale: str | None = None,
    seed: int = 0,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> dict[str, float]:
    """Draw n answers to every prompt, score them, and write which is the best, as judgments.

    The table feeds `objective: sft` with `responses: best`: best-of-n sampling, then fine-tuning on the best.
    Policy and reward model are in memory one after the other.

    Args:
        model: the policy: what `load_policy` takes (a folder, a hub id, an adapter, a mixture).
        prompts: canonical files whose prompts are answered, each once.
        out: the table of judgments, `.parquet`, `.jsonl` or `.jsonl.gz`; what stood there is replaced. A row for
            each prompt: the distinct answers in the order drawn, rank 1 for the best (answers of exactly equal
            reward share it) and none for the others. Beside it `OUT.answers.parquet` holds every draw.
        reward: the reward model: what `load_reward_model` takes.
        n: answers to each prompt.
        max_new_tokens: the longest answer.
        temperature: of drawing, above 0; 1 draws from the policy itself.
        max_prompts: a seeded draw of so many prompts where there are more.
        quantile: of reward models that predict labels: the reward is this quantile, not the mean.
        label_scale: for files whose labels come without one.
        seed: of prompts and answers.
        revision: branch, tag or commit of the policy on the hub.
        trust_remote_code: run code that comes with the models. Only for code you have read.

    Returns:
        `prompts`, `n`, `temperature`, and what `pluralign.evaluation.rewards.best_of.best_of_metrics` gives.

    Raises:
        PluralignError: a file or a model cannot be used, a setting does not fit, a reward is not finite, or no
            answer says anything.
    """
    for name, number in {"n": n, "max_new_tokens": max_new_tokens, "max_prompts": max_prompts}.items():
        if number is not None and number < 1:
            raise PluralignError(f"{name}: found {number}, expected 1 or more")
    if not 0 < temperature < math.inf:
        raise PluralignError(f"temperature: found {temperature}, expected a finite number above 0")
    path = Path(out)
    if not path.name.lower().endswith((".parquet", ".jsonl", ".jsonl.gz")):
        raise PluralignError(f"{path}: the name must end in .parquet, .jsonl or .jsonl.gz")
    # Before the answers are drawn, which takes long.
    config = load_parts(reward, {"trust_remote_code": trust_remote_code})[0]
    if not is_reward_model(config):
        raise PluralignError(f"{reward}: is not a reward model (it has no head with one output): give another one")
    check_quantile(reward, config, quantile)
    files = [prompts] if isinstance(prompts, str | os.PathLike) else list(prompts)
    asked = unique_prompts(files, label_scale, max_prompts, seed)
    policy = load_policy(model, revision=revision, trust_remote_code=trust_remote_code)
    drawn = policy.sample(asked, n=n, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    del policy
    responses = [[sample.response for sample in group] for group in drawn]
    reward_model = load_reward_model(reward, quantile=quantile, trust_remote_code=trust_remote_code)
    rewards = _rewards(reward, reward_model.score_items, asked, responses)
    best = best_answers(rewards)
    rows = best_rows(asked, responses, best, source=f"best-of-{n}", annotator=_name(reward))
    if not rows:
        raise PluralignError(
            f"{model}: none of its {rewards.size} answers says anything, so there is no best one: check the policy "
            "and its chat template"
        )
    answers = _answers_table(asked, drawn, rewards, best)
    with atomic_write(path.with_name(path.name + ".answers.parquet")) as file:
        pq.write_table(answers, file, compression="zstd")
        file.flush()
        # Inside, so that a fault in either leaves both as they were.
        Judgments.from_rows(rows).write(path)
    finished = np.array([[sample.finished for sample in group] for group in drawn])
    metrics = {"prompts": len(asked), "n": n, "temperature": temperature}
    metrics |= best_of_metrics(rewards, finished)
    for warning in _warnings(metrics, max_new_tokens):
        logger.warning(warning)
    return metrics


def best_rows(
    prompts: Sequence[Any], responses: Sequence[Sequence[Any]], best: np.ndarray, *, source: str, annotator: str
) -> list[dict[str, Any]]:
    """Rows of a table of judgments, one for each prompt with an answer that says something.

    Args:
        prompts: texts or lists of messages.
        responses: the answers to each prompt, as they were drawn.
        best: `(prompts, n)` which of them are the best.
        source: of the judgments.
        annotator: of the judgments.

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
            if text := _said(response):
                distinct.setdefault(text, response)
                ranks[text] = 1 if is_best else None
        if distinct:
            row = {"prompt": prompt, "responses": list(distinct.values()), "ranks": list(ranks.values())}
            rows.append(row | {"source": source, "annotator": annotator})
    return rows


def best_of_lines(metrics: Mapping[str, float]) -> list[str]:
    """The metrics as lines to read."""

    def mean(name: str) -> str:
        error = metrics.get(f"mean_reward/{name}_se")
        return f"{metrics[f'mean_reward/{name}']:.3f}" + ("" if error is None else f" ± {error:.3f}")

    count = f"{metrics['n']:.0f}"
    return [
        f"mean reward over {metrics['rows']:.0f} prompts",
        f"  first answer    {mean('first')}",
        f"  all answers     {mean('all')}",
        f"  best of {count:<7} {mean('best')}",
        f"at most {metrics['kl_bound']:.3f} nats (KL) from the policy that drew the answers",
        f"unfinished: {100 * metrics['unfinished']:.1f} % of the answers, "
        f"{100 * metrics['unfinished_best']:.1f} % of the best",
    ]


def _rewards(name: object, score: Any, prompts: Sequence[Any], responses: Sequence[Sequence[Any]]) -> np.ndarray:
    """`(prompts, n)`: each distinct answer is scored once, so that equal ones have the same reward to the bit."""
    distinct = [{text: one for one in group if (text := _said(one))} for group in responses]
    rewards = np.full((len(prompts), len(responses[0])), np.nan)
    spoke = [place for place, group in enumerate(distinct) if group]
    if not spoke:
        return rewards
    texts_of = [list(distinct[place].values()) for place in spoke]
    found = score(items_of_texts([prompts[place] for place in spoke], texts_of))
    if not np.isfinite(found).all():
        raise PluralignError(f"{name}: gives rewards that are not finite numbers, so none is the best")
    values = iter(found.tolist())
    for place, (group, texts) in enumerate(zip(responses, distinct, strict=True)):
        of_text = {text: next(values) for text in texts}
        rewards[place] = [of_text.get(_said(one), np.nan) for one in group]
    return rewards


def _said(response: Any) -> str:
    """An answer's text; nothing for white space alone, which a table of judgments cannot hold."""
    text = response if isinstance(response, str) else response[0]["content"]
    return text if text.strip() else ""


def _name(reward: str | os.PathLike[str]) -> str:
    """A model's name: that of its folder, or the hub id."""
    return Path(reward).resolve().name if Path(reward).is_dir() else str(reward)


def _answers_table(
    prompts: Sequence[Any], drawn: Sequence[Sequence[Sample]], rewards: np.ndarray, best: np.ndarray
) -> pa.Table:
    texts = schema("text" if isinstance(prompts[0], str) else "messages").field("prompt").type
    flat = [sample for group in drawn for sample in group]
    number = np.repeat(np.arange(len(prompts)), rewards.shape[1])
    return pa.table(
        {
            "prompt_number": number,
            "prompt": pa.array([prompts[index] for index in number.tolist()], type=texts),
            "response": pa.array([sample.response for sample in flat], type=texts),
            "reward": pa.array(rewards.ravel(), mask=np.isnan(rewards.ravel())),
            "log_prob": pa.array([sample.log_prob for sample in flat], pa.float64()),
            "tokens": [len(sample.token_ids) for sample in flat],
            "finished": [sample.finished for sample in flat],
            "adapter": pa.array([sample.adapter for sample in flat], pa.string()),
            "best": best.ravel(),
        }
    )


def _warnings(metrics: Mapping[str, float], max_new_tokens: int) -> list[str]:
    warnings = []
    if metrics["unfinished"] > _MANY:
        warnings.append(
            f"{100 * metrics['unfinished']:.0f} % of the answers were cut at {max_new_tokens} tokens, "
            f"{100 * metrics['unfinished_best']:.0f} % of the best: their rewards are those of beginnings, and a "
            "model tuned on them learns to stop in the middle. Raise --max-new-tokens."
        )
    if metrics["empty_answers"]:
        warnings.append(
            f"{100 * metrics['empty_answers']:.2g} % of the answers say nothing: they have no reward and are in no "
            f"row; {metrics['prompts_without_answer']:.0f} prompts have no other answer and no row"
        )
    return warnings
